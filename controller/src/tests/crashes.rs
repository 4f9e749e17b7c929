//! The controller killed between any two of its actions: it always ends where it would have ended,
//! and nothing ever runs twice.
//!
//! The actions (one decision written, one call made) are carried out one by one here instead of by
//! the controller's tasks, so that a crash can be put between any two of them, also between a
//! call's effect and its answer. The database is a file, and the agent lives through every crash.

use std::sync::Arc;

use drowse_api::agent::InstancesPicture;
use drowse_api::client::Client;
use drowse_api::deployment::AppType;
use drowse_api::instance::{Failure, FailureReason};
use drowse_api::manifest::Manifest;
use drowse_api::platform::Wanted;
use drowse_api::routing::Route;
use drowse_api::{AppName, DeploymentId, Digest, Problem, UserId};
use drowse_store::Store;
use drowse_store::sqlite::Sqlite;
use jiff::Timestamp;
use proptest::prelude::*;

use super::{config, node_name};
use crate::agent::execute;
use crate::api::access::Caller;
use crate::api::deploy::Upload;
use crate::api::{apps, deploy, releases, secrets};
use crate::config::Config;
use crate::desired::{Desired, Step};
use crate::ledger::Ledger;
use crate::model::{App, Life, Secret};
use crate::picture::{NodeView, Picture};
use crate::plan::{Plan, plan};
use crate::routes::{Publisher, hosts};
use crate::sim::{BootScript, SimAgent};

/// What the user does, in this order; each when the controller has got somewhere random.
#[derive(Debug, Clone, Copy)]
enum Command {
    Deploy,
    DeployThatNeverListens,
    Environment,
    Secret,
    Stop,
    Start,
    Rollback,
    RollbackThatNeverListens,
    Promote,
}

/// A controller without tasks.
struct Machine {
    ledger: Ledger,
    publisher: Publisher,
    view: NodeView,
}

struct World {
    dir: tempfile::TempDir,
    config: Config,
    agent: SimAgent,
    client: Client,
    caller: Caller,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let socket = dir.path().join("agent.sock");
        let caller = Caller { user: UserId::generate(), name: "owner".into(), by: "test".into(), is_admin: true };
        Self {
            config: config(dir.path()),
            agent: SimAgent::start(node_name(), &socket),
            client: Client::unix(socket),
            caller,
            dir,
        }
    }

    /// A controller that has just started: it knows its records, and what the node says first.
    async fn open(&self) -> Machine {
        let engine = Sqlite::open(&self.dir.path().join("drowse.db")).expect("opens");
        let ledger = Ledger::open(Store::new(engine), 1000).await.expect("reads");
        let publisher = Publisher::new(self.config.domain.clone(), self.config.sleep, &ledger.desired());
        let mut machine = Machine { ledger, publisher, view: NodeView::default() };
        machine.look(self).await;
        machine
    }

    /// One action, or `false` if there is nothing left to do.
    async fn act(&self, machine: &mut Machine, is_cut: bool) -> bool {
        let (desired, plan) = self.plan(machine);
        if let Some(step) = plan.steps.into_iter().next() {
            machine.ledger.commit(&desired, vec![step]).await.expect("commits");
            return true;
        }
        let calls = plan.calls.get(&node_name()).cloned().unwrap_or_default();
        machine.view.retain(&calls);
        let Some(call) = calls.into_iter().next() else { return false };
        let learnt = execute(&self.client, &call).await;
        if is_cut {
            // Its effect is there, and nobody has learnt of it.
            return true;
        }
        match learnt {
            Ok(learnt) => machine.view.learn(learnt),
            Err(problem) => machine.view.refused(&call, problem),
        }
        machine.look(self).await;
        true
    }

    fn plan(&self, machine: &mut Machine) -> (Arc<Desired>, Plan) {
        let desired = machine.ledger.desired();
        let picture = Picture {
            nodes: [(node_name(), machine.view.clone())].into(),
            routers: Default::default(),
            published: machine.publisher.publish(&desired),
            vault: Arc::new(crate::tests::vault()),
            settings: Arc::new(self.config.limits.clone()),
            sleep: self.config.sleep,
            desired: Arc::clone(&desired),
        };
        let plan = plan(&picture, Timestamp::now());
        (desired, plan)
    }

    async fn command(&self, ledger: &Ledger, command: Command) {
        let name = shop();
        let failure = Failure { reason: FailureReason::TimeoutError, detail: "nothing listens".into(), log: vec![] };
        self.agent.script_boots(match command {
            Command::DeployThatNeverListens | Command::RollbackThatNeverListens => BootScript::Fail(failure),
            _ => BootScript::Ready,
        });
        let id = DeploymentId::generate();
        let decide = |desired: &Desired| -> Result<(Step, ()), Problem> {
            let now = Timestamp::now();
            let app = desired.apps.get(name.as_str()).map(|app| App::clone(app));
            let step = match (command, app) {
                (Command::Deploy | Command::DeployThatNeverListens, _) => {
                    let source = Digest::from_sha256([7; 32]);
                    let upload = Upload {
                        app_type: AppType::Python,
                        manifest: &Manifest::default(),
                        node: &node_name(),
                        source: &source,
                    };
                    deploy::accepted(desired, &self.caller, &name, &id, &upload).0
                }
                (Command::Environment, Some(app)) => {
                    apps::with_env(desired, &app, [("A".into(), id.to_string())].into(), now)?
                }
                (Command::Secret, Some(app)) => {
                    let sealed = super::vault().seal(&app.name, "TOKEN", id.as_str()).expect("seals");
                    let secrets = [("TOKEN".to_owned(), Secret { sealed, set: now })].into();
                    secrets::with_secrets(desired, &app, secrets, now)?
                }
                (Command::Stop, Some(app)) => apps::stopped(desired, &app, now),
                (Command::Start, Some(app)) => apps::started(desired, &app, now)?,
                (Command::Rollback | Command::RollbackThatNeverListens, Some(app)) => {
                    releases::rolled_back(desired, &app, None, now)?.0
                }
                (Command::Promote, Some(app)) => {
                    let oldest = desired.deployments_of(&app.name).pop().cloned();
                    oldest.map_or(Ok(Step::default()), |oldest| releases::promoted(desired, &app, &oldest, now))?
                }
                (_, None) => Step::default(),
            };
            Ok((step, ()))
        };
        // A command that has no sense at this moment is refused, as users are.
        let _ = ledger.update(decide).await;
    }
}

impl Machine {
    async fn look(&mut self, world: &World) {
        let instances = world.client.get("/v1/instances").await.expect("the agent answers");
        self.view = std::mem::take(&mut self.view).with(InstancesPicture { instances, told: None });
        self.view.is_connected = true;
    }
}

fn shop() -> AppName {
    AppName::parse("shop").expect("a name")
}

/// What must hold at every moment.
fn check_always(world: &World, desired: &Desired) -> Result<(), TestCaseError> {
    for instance in world.agent.instances() {
        let record = desired.instances.get(instance.status.id.as_str());
        prop_assert!(record.is_some(), "the agent has {} that no record knows", instance.status.id);
    }
    let mut running = std::collections::BTreeMap::<u64, u32>::new();
    for instance in desired.instances.iter() {
        if matches!(instance.life, Life::Starting | Life::Serving) {
            *running.entry(instance.release).or_default() += 1;
        }
    }
    prop_assert!(running.values().all(|count| *count == 1), "a release has two instances: {running:?}");
    Ok(())
}

/// What must hold when nothing is left to do.
fn check_end(world: &World, desired: &Desired) -> Result<(), TestCaseError> {
    let app = desired.apps.get("shop").expect("exists");
    prop_assert!(app.pending.is_none());
    let running: Vec<_> =
        world.agent.instances().into_iter().filter(|instance| !instance.status.state.is_over()).collect();
    let route = hosts(desired, &world.config.domain, &world.config.sleep)
        .remove(&"shop.drowse.localhost".parse().expect("a name"));
    match (&app.live, app.wanted) {
        (Some(live), Wanted::Running) => {
            prop_assert_eq!(running.len(), 1, "of {:?}", world.agent.instances());
            prop_assert_eq!(&running[0].spec.env, &live.env);
            let secrets = super::vault().reveal(&app.name, &live.secrets).expect("opens");
            prop_assert_eq!(&running[0].spec.secrets, &secrets);
            prop_assert_eq!(&running[0].spec.deployment, &live.deployment);
            let leads_there = matches!(&route, Some(Route::Instances { endpoints, .. })
                if endpoints.len() == 1 && endpoints[0].instance == running[0].status.id);
            prop_assert!(leads_there, "{route:?}");
            prop_assert_eq!(world.agent.instances().len(), 1);
        }
        (_, Wanted::Stopped) | (None, _) => {
            prop_assert_eq!(running.len(), 0);
            let is_told = matches!(route, Some(Route::Unavailable { .. }));
            prop_assert!(is_told);
        }
    }
    let kept = world.agent.builds();
    prop_assert!(kept.iter().all(|id| desired.deployments.get(id.as_str()).is_some()), "builds of nothing: {kept:?}");
    Ok(())
}

/// What happens at one moment of a run.
#[derive(Debug, Clone, Copy)]
enum Moment {
    Act,
    Crash,
    CrashBeforeTheAnswer,
    Reboot,
    Command(Command),
}

fn moments() -> impl Strategy<Value = Vec<Moment>> {
    let command = prop_oneof![
        3 => Just(Command::Deploy),
        2 => Just(Command::DeployThatNeverListens),
        2 => Just(Command::Environment),
        1 => Just(Command::Secret),
        1 => Just(Command::Stop),
        1 => Just(Command::Start),
        2 => Just(Command::Rollback),
        1 => Just(Command::RollbackThatNeverListens),
        1 => Just(Command::Promote),
    ];
    let moment = prop_oneof![
        20 => Just(Moment::Act),
        3 => Just(Moment::Crash),
        3 => Just(Moment::CrashBeforeTheAnswer),
        1 => Just(Moment::Reboot),
        2 => command.prop_map(Moment::Command),
    ];
    proptest::collection::vec(moment, 20..120)
}

async fn run(moments: Vec<Moment>) -> Result<(), TestCaseError> {
    let world = World::new();
    let mut machine = world.open().await;
    world.command(&machine.ledger, Command::Deploy).await;
    for moment in moments {
        match moment {
            Moment::Act => drop(world.act(&mut machine, false).await),
            Moment::Command(command) => world.command(&machine.ledger, command).await,
            Moment::Reboot => {
                world.agent.reboot();
                machine.look(&world).await;
            }
            Moment::Crash | Moment::CrashBeforeTheAnswer => {
                if matches!(moment, Moment::CrashBeforeTheAnswer) {
                    world.act(&mut machine, true).await;
                }
                drop(machine);
                machine = world.open().await;
            }
        }
        check_always(&world, &machine.ledger.desired())?;
    }
    world.agent.script_boots(BootScript::Ready);
    let mut actions = 0;
    while world.act(&mut machine, false).await {
        actions += 1;
        prop_assert!(actions < 500, "it never ends");
        check_always(&world, &machine.ledger.desired())?;
    }
    check_end(&world, &machine.ledger.desired())
}

proptest! {
    // 25 of the usual 256: each is a whole life on a file. PROPTEST_CASES raises it.
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases / 10, ..ProptestConfig::default() })]
    #[test]
    fn a_controller_killed_between_any_two_actions_ends_where_it_should(moments in moments()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.expect("runtime").block_on(run(moments))?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_survives_a_kill_after_each_of_its_actions() {
    for killed_after in 0..25 {
        let world = World::new();
        let mut machine = world.open().await;
        world.command(&machine.ledger, Command::Deploy).await;
        for _ in 0..killed_after {
            world.act(&mut machine, false).await;
        }
        world.act(&mut machine, true).await;
        drop(machine);
        let mut machine = world.open().await;
        while world.act(&mut machine, false).await {}
        check_end(&world, &machine.ledger.desired()).expect("the end state");
        assert_eq!(world.agent.starts(), (1, 1), "killed after {killed_after} actions");
    }
}
