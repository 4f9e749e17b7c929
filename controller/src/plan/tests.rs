//! What holds of every plan, whatever happens: properties over random histories of users, nodes,
//! routers and time, without a clock, a file or a socket.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use drowse_api::agent::BuildStatus;
use drowse_api::deployment::AppType;
use drowse_api::instance::{Failure, FailureReason, InstanceState, InstanceStatus, OnBootFailure, Workload};
use drowse_api::manifest::Manifest;
use drowse_api::platform::Wanted;
use drowse_api::routing::{Route, RouterStatus};
use drowse_api::{
    AppName, ControllerId, DeploymentId, Digest, ErrorCode, HostName, InstanceId, NodeName, Problem, RunId, UserId,
};
use drowse_store::Revision;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::{Call, plan};
use crate::agent::Learnt;
use crate::api::access::Caller;
use crate::api::deploy::Upload;
use crate::api::{apps, deploy, releases};
use crate::config::Settings;
use crate::desired::{Desired, Step, Write};
use crate::model::{App, Bounds, Life, Lineage};
use crate::picture::{NodeView, Picture, Published};
use crate::routes::hosts;
use crate::sleep::SleepDefaults;

#[derive(Debug, Clone, Copy)]
enum Happening {
    /// The reconciler looks, decides, and its calls are made.
    Round,
    /// Everything that boots is ready.
    Ready,
    /// Everything that boots for the first time fails.
    BootFails,
    /// One that is ready gives up for good.
    CrashLoop,
    Reboot,
    Disconnect,
    Connect,
    /// Builds end.
    Build {
        is_good: bool,
    },
    Time(i64),
    /// The router serves by the newest table; so many requests are in flight to every instance.
    Router(u64),
    Deploy,
    Restart,
    Stop,
    Start,
    Scale(u32),
    Rollback,
    /// The oldest deployment is promoted.
    Promote,
    Remove,
    /// The records are copied.
    Backup,
    /// The copy takes their place.
    Restore,
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    use Happening::{
        Backup, BootFails, Build, Connect, CrashLoop, Deploy, Disconnect, Promote, Ready, Reboot, Remove, Restart,
        Restore, Rollback, Round, Router, Scale, Start, Stop, Time,
    };
    let one = prop_oneof![
        30 => Just(Round),
        8 => Just(Ready),
        3 => Just(BootFails),
        1 => Just(CrashLoop),
        1 => Just(Reboot),
        1 => Just(Disconnect),
        3 => Just(Connect),
        6 => any::<bool>().prop_map(|is_good| Build { is_good }),
        3 => (1_i64..40).prop_map(Time),
        4 => (0_u64..2).prop_map(Router),
        4 => Just(Deploy),
        2 => Just(Restart),
        1 => Just(Stop),
        2 => Just(Start),
        1 => (1_u32..4).prop_map(Scale),
        2 => Just(Rollback),
        1 => Just(Promote),
        1 => Just(Remove),
        1 => Just(Backup),
        1 => Just(Restore),
    ];
    proptest::collection::vec(one, 1..150)
}

struct World {
    desired: Desired,
    node: NodeName,
    /// What the node really has.
    instances: BTreeMap<InstanceId, InstanceStatus>,
    builds: BTreeMap<DeploymentId, BuildStatus>,
    /// What the controller knows of it.
    view: NodeView,
    router: Option<RouterStatus>,
    now: Timestamp,
    caller: Caller,
    domain: HostName,
    run: RunId,
    backup: Desired,
}

fn shop() -> AppName {
    AppName::parse("shop").expect("a name")
}

impl World {
    fn new() -> Self {
        let user = UserId::generate();
        let mut desired = Desired::default();
        desired.apply(&Lineage { id: ControllerId::generate() }.into(), Revision(1));
        Self {
            backup: desired.clone(),
            desired,
            node: NodeName::parse("node-1").expect("a name"),
            instances: BTreeMap::new(),
            builds: BTreeMap::new(),
            view: NodeView { is_connected: true, ..NodeView::default() },
            router: None,
            now: Timestamp::UNIX_EPOCH,
            caller: Caller { user, name: "owner".into(), by: "test".into(), is_admin: true },
            domain: HostName::parse("drowse.localhost").expect("a name"),
            run: RunId::generate(),
        }
    }

    fn picture(&self) -> Picture {
        Picture {
            desired: Arc::new(self.desired.clone()),
            nodes: [(self.node.clone(), self.view.clone())].into(),
            routers: self.router.iter().map(|status| (self.node.clone(), Some(status.clone()))).collect(),
            published: Published {
                domain: self.domain.clone(),
                run: self.run.clone(),
                table: self.desired.revision.0,
                as_of: self.desired.revision,
            },
            vault: Arc::new(crate::tests::vault()),
            settings: Arc::new(Settings { deployments: 2, releases: 1, ..Settings::default() }),
            sleep: SleepDefaults::default(),
        }
    }

    /// As the ledger does: what meets another step of the same plan is left for the next.
    fn commit(&mut self, steps: Vec<Step>) {
        let revision = Revision(self.desired.revision.0 + 1);
        let mut written = BTreeSet::new();
        for step in steps {
            if step.keys().any(|key| written.contains(&key)) {
                continue;
            }
            self.check_told(&step);
            for write in &step.writes {
                written.insert(write.key());
                self.desired.apply(write, revision);
            }
        }
    }

    /// Each transition comes with an event about it.
    fn check_told(&self, step: &Step) {
        for write in &step.writes {
            match write {
                Write::Deployment(next) => {
                    let state = next.phase.shown(next.app_type).state;
                    let before = self.desired.deployments.get(next.id.as_str());
                    let is_new = before.is_none_or(|before| before.phase.shown(before.app_type).state != state);
                    let is_told = step.facts.iter().any(|fact| {
                        fact.deployment.as_ref() == Some(&next.id) && fact.message.starts_with(state.as_str())
                    });
                    assert!(!is_new || is_told, "{} becomes {state} untold: {:?}", next.id, step.facts);
                }
                Write::Instance(next) => {
                    let before = self.desired.instances.get(next.id.as_str());
                    let is_new = before.is_none_or(|before| before.life != next.life);
                    let is_told = step.facts.iter().any(|fact| fact.instance.as_ref() == Some(&next.id));
                    let is_marker = matches!(next.life, Life::Removed { .. });
                    assert!(!is_new || is_told || is_marker, "{} becomes {:?} untold", next.id, next.life);
                }
                _ => {}
            }
        }
    }

    fn report(&mut self) {
        if self.view.is_connected {
            self.view.instances = self.instances.clone();
        }
    }

    fn execute(&mut self, call: &Call) {
        let state = InstanceState::Booting { attempt: 0, since: self.now };
        match call {
            Call::PutInstance(spec) => {
                let known = self.instances.get_mut(&spec.id);
                match known {
                    Some(known) if known.epoch >= spec.epoch => {}
                    Some(known) => {
                        known.epoch = spec.epoch;
                        if known.state.is_over() {
                            known.state = state;
                        }
                    }
                    None => {
                        let status = InstanceStatus {
                            id: spec.id.clone(),
                            epoch: spec.epoch,
                            controller: spec.controller.clone(),
                            app: spec.app.clone(),
                            deployment: spec.deployment.clone(),
                            user: spec.user.clone(),
                            address: None,
                            state,
                            process: None,
                            restarts: u32::from(spec.on_boot_failure == OnBootFailure::Retry),
                            no_snapshot: None,
                            no_paging: None,
                            in_swap: None,
                            on_disk: None,
                        };
                        self.instances.insert(spec.id.clone(), status);
                    }
                }
            }
            Call::StopInstance(id, request) => {
                if let Some(known) = self.instances.get_mut(id) {
                    known.epoch = request.epoch;
                    known.state = InstanceState::Stopped { reason: request.reason.clone() };
                }
            }
            Call::SleepInstance(id, _) | Call::WakeInstance(id, _) => panic!("nobody wants {id} to sleep or wake"),
            Call::DeleteInstance(id, _) => drop(self.instances.remove(id)),
            Call::PutBuild(request) => {
                self.builds.entry(request.deployment.clone()).or_insert(BuildStatus::Preparing);
                self.view.learn(Learnt::BuildAccepted(request.deployment.clone()));
            }
            Call::AskBuild(id) => self.view.learn(Learnt::Build(id.clone(), self.builds.get(id).cloned())),
            Call::DeleteBuild(id) => {
                self.builds.remove(id);
                self.view.learn(Learnt::Build(id.clone(), None));
            }
        }
    }

    fn endpoints(&self) -> Option<Vec<InstanceId>> {
        let host = HostName::parse("shop.drowse.localhost").expect("a name");
        match hosts(&self.desired, &self.domain, &SleepDefaults::default()).remove(&host) {
            Some(Route::Instances { endpoints, .. }) => {
                Some(endpoints.into_iter().map(|endpoint| endpoint.instance).collect())
            }
            _ => None,
        }
    }

    /// Looks, decides, acts; whether there was anything to do.
    fn round(&mut self) -> Result<bool, TestCaseError> {
        let picture = self.picture();
        let next = plan(&picture, self.now);
        let again = plan(&picture, self.now);
        prop_assert_eq!(next.steps.len(), again.steps.len(), "a plan depends on more than its picture");
        prop_assert_eq!(&next.calls, &again.calls);
        prop_assert!(self.view.is_connected || next.calls.is_empty(), "calls to a node that is away");
        let routed: BTreeSet<_> = self.endpoints().unwrap_or_default().into_iter().collect();
        let calls = next.calls.get(&self.node).cloned().unwrap_or_default();
        for call in &calls {
            if let Call::StopInstance(id, _) | Call::DeleteInstance(id, _) = call {
                prop_assert!(!routed.contains(id), "{id} is ended while visitors are sent to it");
            }
        }
        let has_steps = !next.steps.is_empty();
        self.commit(next.steps);
        self.view.retain(&calls);
        calls.iter().for_each(|call| self.execute(call));
        self.report();
        let is_waiting = calls.iter().all(|call| matches!(call, Call::AskBuild(_)));
        Ok(has_steps || !is_waiting)
    }

    fn command(&mut self, decide: impl FnOnce(&Desired, &App) -> Result<Step, Problem>) {
        if let Some(app) = self.desired.apps.get("shop").cloned()
            && let Ok(step) = decide(&self.desired, &app)
        {
            self.commit(vec![step]);
        }
    }

    fn each(&mut self, is_meant: impl Fn(&InstanceStatus) -> bool, state: InstanceState) {
        self.instances.values_mut().filter(|status| is_meant(status)).for_each(|status| status.state = state.clone());
        self.report();
    }

    fn happen(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        let now = self.now;
        let is_booting = |status: &InstanceStatus| matches!(status.state, InstanceState::Booting { .. });
        let failed = |reason| InstanceState::Failed {
            failure: Failure { reason, detail: "as the test wants".to_owned(), log: vec![] },
        };
        match happening {
            Happening::Round => drop(self.round()?),
            Happening::Ready => self.each(is_booting, InstanceState::Ready { since: now }),
            // The mark of a first start; see `execute`.
            Happening::BootFails => {
                self.each(|status| is_booting(status) && status.restarts == 0, failed(FailureReason::TimeoutError));
            }
            Happening::CrashLoop => {
                let first = self.instances.values().find(|status| status.state.is_ready()).map(|s| s.id.clone());
                self.each(|status| Some(&status.id) == first.as_ref(), failed(FailureReason::CrashLoop));
            }
            Happening::Reboot => {
                self.each(|_| true, InstanceState::Stopped { reason: "the host was rebooted".to_owned() });
            }
            Happening::Disconnect => self.view.is_connected = false,
            Happening::Connect => {
                let kept = |id: &DeploymentId| (id.clone(), self.desired.lineage().cloned());
                let kept_builds = self.builds.keys().map(kept).collect();
                self.view = NodeView { is_connected: true, kept_builds, ..NodeView::default() };
                self.report();
            }
            Happening::Build { is_good } => {
                let image = Digest::from_sha256([1; 32]);
                for build in self.builds.values_mut().filter(|build| matches!(build, BuildStatus::Preparing)) {
                    *build = match is_good {
                        true => BuildStatus::Done {
                            image: image.clone(),
                            dependencies_reused: false,
                            workload: Workload::Web,
                        },
                        false => BuildStatus::Failed { problem: Problem::new(ErrorCode::BuildError, "bad") },
                    };
                }
            }
            Happening::Time(seconds) => self.now += SignedDuration::from_secs(seconds),
            Happening::Router(count) => {
                let in_flight = self.instances.keys().map(|id| (id.clone(), count)).collect();
                let applied = self.desired.revision.0;
                self.router = Some(RouterStatus {
                    name: "node-1".to_owned(),
                    applied,
                    run: Some(self.run.clone()),
                    in_flight,
                    active: BTreeMap::new(),
                });
            }
            Happening::Deploy => {
                let (id, source) = (DeploymentId::generate(), Digest::from_sha256([2; 32]));
                let upload = Upload {
                    app_type: AppType::Python,
                    manifest: &Manifest::default(),
                    node: &self.node,
                    source: &source,
                };
                let step = deploy::accepted(&self.desired, &self.caller, &shop(), &id, &upload);
                self.commit(vec![step.0]);
            }
            Happening::Restart => self
                .command(|desired, app| apps::with_env(desired, app, [("A".to_owned(), now.to_string())].into(), now)),
            Happening::Stop => self.command(|desired, app| Ok(apps::stopped(desired, app, now))),
            Happening::Start => self.command(|desired, app| apps::started(desired, app, now)),
            Happening::Scale(count) => self
                .command(|_, app| Ok(Step::new(App { scale: Some(Bounds { min: count, max: count }), ..app.clone() }))),
            Happening::Rollback => {
                self.command(|desired, app| releases::rolled_back(desired, app, None, now).map(|step| step.0));
            }
            Happening::Promote => self.command(|desired, app| {
                let oldest = desired.deployments_of(&app.name).pop().cloned();
                oldest.map_or(Ok(Step::default()), |oldest| releases::promoted(desired, app, &oldest, now))
            }),
            Happening::Backup => self.backup = self.desired.clone(),
            Happening::Restore => {
                self.desired = self.backup.clone();
                // As after a start: the node tells anew, and tables of before count for nothing.
                self.run = RunId::generate();
                self.router = None;
                self.happen(Happening::Connect)?;
            }
            Happening::Remove => self.command(|desired, app| Ok(apps::removed(desired, app))),
        }
        Ok(())
    }

    /// Everything works from now on: what the controller comes to.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        self.happen(Happening::Connect)?;
        for _ in 0..200 {
            self.happen(Happening::Build { is_good: true })?;
            self.happen(Happening::Ready)?;
            self.happen(Happening::Router(0))?;
            self.now += SignedDuration::from_secs(1);
            let has_builds = self.builds.values().any(|build| matches!(build, BuildStatus::Preparing));
            if !self.round()? && !has_builds && self.is_quiet() {
                return Ok(());
            }
        }
        prop_assert!(false, "it never comes to an end: {:#?}", plan(&self.picture(), self.now));
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        let next = plan(&self.picture(), self.now);
        next.steps.is_empty() && next.calls.is_empty()
    }

    fn check_end(&self) -> Result<(), TestCaseError> {
        let running: BTreeSet<_> =
            self.instances.values().filter(|status| !status.state.is_over()).map(|status| status.id.clone()).collect();
        let Some(app) = self.desired.apps.get("shop") else {
            prop_assert!(self.instances.is_empty() && self.builds.is_empty(), "a removed app left something");
            prop_assert_eq!(self.desired.deployments.iter().count() + self.desired.builds.iter().count(), 0);
            prop_assert_eq!(self.desired.past.iter().count(), 0);
            return Ok(());
        };
        prop_assert!(app.pending.is_none());
        prop_assert!(self.desired.deployments.iter().count() <= 5, "old deployments are kept");
        let past = self.desired.past_of(&app.name);
        prop_assert!(past.len() <= 1, "old releases are kept");
        for release in past {
            let kept = self.desired.deployments.get(release.deployment.as_str());
            prop_assert!(kept.is_some_and(|found| found.phase.image().is_some()), "a release that cannot serve again");
        }
        for id in self.builds.keys() {
            prop_assert!(self.desired.deployments.get(id.as_str()).is_some(), "a build of nothing");
        }
        match self.endpoints() {
            Some(endpoints) => {
                let count = app.scale.map_or(1, |bounds| bounds.min as usize);
                let endpoints: BTreeSet<_> = endpoints.into_iter().collect();
                prop_assert!(endpoints.is_subset(&running), "visitors are sent to {endpoints:?} of {running:?}");
                prop_assert_eq!(&endpoints, &running, "something runs for nobody");
                let has_failed = self.desired.instances.iter().any(|instance| instance.life == Life::Failed);
                prop_assert!(has_failed || running.len() >= count);
            }
            None => prop_assert!(running.is_empty(), "{running:?} run for nobody"),
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn whatever_happens_it_ends_well_and_nobody_is_sent_to_what_ends(happenings in happenings()) {
        let mut world = World::new();
        for happening in happenings {
            let before = world.endpoints();
            world.happen(happening)?;
            let is_meant = matches!(happening, Happening::Stop | Happening::Remove | Happening::Restore);
            let has_failed = world.desired.instances.iter().any(|instance| instance.life == Life::Failed);
            if before.is_some() && !is_meant && !has_failed {
                let wanted = world.desired.apps.get("shop").map(|app| app.wanted);
                prop_assert!(
                    world.endpoints().is_some() || wanted != Some(Wanted::Running),
                    "{happening:?} took the route away"
                );
            }
        }
        world.settle()?;
        world.check_end()?;
    }
}
