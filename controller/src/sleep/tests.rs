//! The vote, one voice after another.

use drowse_api::sleep::SleepSettings;
use drowse_api::{AppName, DeploymentId, Digest, Epoch, InstanceId, UserId};

use super::*;
use crate::activity::Measured;
use crate::model::{Cause, ProcessType, Release};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

/// Everything that has a voice; at first an app that has been idle for 20 s.
struct Scene {
    app: App,
    deployment: Option<Deployment>,
    instance: Instance,
    node: NodeView,
    routers: BTreeMap<NodeName, Option<RouterStatus>>,
    settings: SleepDefaults,
}

fn before(seconds: i64) -> Timestamp {
    NOW - SignedDuration::from_secs(seconds)
}

impl Scene {
    fn new() -> Self {
        let (id, deployment) = (InstanceId::parse("one").expect("an id"), DeploymentId::parse("first").expect("an id"));
        let (name, owner) = (AppName::parse("shop").expect("a name"), UserId::parse("user").expect("an id"));
        let node = NodeName::parse("node-1").expect("a name");
        let release = Release {
            number: 1,
            deployment: deployment.clone(),
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            cause: Cause::Deploy,
            created: before(1000),
        };
        let app = App {
            name: name.clone(),
            owner: owner.clone(),
            created: before(1000),
            wanted: Wanted::Running,
            scale: None,
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            releases: 1,
            live: Some(release),
            pending: None,
            problem: None,
            sleep: SleepSettings::default(),
        };
        let instance = Instance {
            id: id.clone(),
            app: name.clone(),
            owner: owner.clone(),
            deployment: deployment.clone(),
            release: 1,
            process: ProcessType::Web,
            node: node.clone(),
            image: Digest::from_sha256([1; 32]),
            epoch: Epoch(1),
            created: before(1000),
            life: Life::Serving,
        };
        let status = InstanceStatus {
            id: id.clone(),
            epoch: Epoch(1),
            controller: None,
            app: name,
            deployment,
            user: owner,
            address: None,
            state: InstanceState::Ready { since: before(900) },
            process: None,
            restarts: 0,
            no_snapshot: None,
            no_paging: None,
            in_swap: None,
            on_disk: None,
        };
        let view = NodeView {
            is_connected: true,
            instances: BTreeMap::from([(id.clone(), status)]),
            measured: BTreeMap::from([(id.clone(), Measured::default())]),
            ..NodeView::default()
        };
        let router = RouterStatus {
            name: "node-1".to_owned(),
            applied: 1,
            run: None,
            in_flight: BTreeMap::new(),
            active: BTreeMap::from([(id, before(20))]),
        };
        let settings = SleepDefaults { paused_after_seconds: Some(15), ..SleepDefaults::default() };
        Self { app, deployment: None, instance, node: view, routers: BTreeMap::from([(node, Some(router))]), settings }
    }

    fn verdict(&self) -> Verdict {
        let (app, instance, node) = (&self.app, &self.instance, Some(&self.node));
        let (live, user) = (self.deployment.as_ref(), None);
        Vote { app, live, user, instance, node, routers: &self.routers, settings: &self.settings, now: NOW }.verdict()
    }

    fn with(change: impl FnOnce(&mut Self)) -> Verdict {
        let mut scene = Self::new();
        change(&mut scene);
        scene.verdict()
    }

    fn router(&mut self) -> &mut RouterStatus {
        self.routers.values_mut().next().expect("one").as_mut().expect("has told")
    }

    fn status(&mut self) -> &mut InstanceStatus {
        self.node.instances.values_mut().next().expect("one")
    }

    fn state(&mut self, state: InstanceState) {
        self.status().state = state;
    }

    fn measured(&mut self) -> &mut Measured {
        self.node.measured.values_mut().next().expect("one")
    }
}

#[track_caller]
fn stays_awake(change: impl FnOnce(&mut Scene), why: &str) {
    match Scene::with(change) {
        Verdict::Awake(told) => assert!(told.contains(why), "{told:?} does not say {why:?}"),
        other => panic!("{other:?}, where {why:?} keeps it awake"),
    }
}

#[test]
fn an_idle_app_sleeps_and_the_cause_is_told() {
    assert_eq!(Scene::new().verdict(), Verdict::Sleep(Depth::Paused, "idle for 15 s".to_owned()));
    let cold = Scene::with(|scene| scene.settings.cold_after_seconds = Some(20));
    assert_eq!(cold, Verdict::Sleep(Depth::Cold, "idle for 20 s".to_owned()));
}

#[test]
fn every_voice_against_it_keeps_an_app_awake() {
    let id = InstanceId::parse("one").expect("an id");
    stays_awake(
        |scene| scene.router().active.values_mut().for_each(|at| *at = before(3)),
        "the last request was 3 s ago",
    );
    stays_awake(|scene| scene.router().in_flight = BTreeMap::from([(id, 2)]), "2 requests or streams are in flight");
    stays_awake(|scene| scene.state(InstanceState::Ready { since: before(4) }), "awake only since 4 s ago");
    stays_awake(|scene| scene.routers.clear(), "not every router");
    stays_awake(|scene| scene.routers.values_mut().for_each(|router| *router = None), "not every router");
    stays_awake(|scene| scene.router().active.clear(), "no router has told");
    stays_awake(|scene| scene.node.measured.clear(), "not known yet how much");
    let busy = |scene: &mut Scene| {
        let why = "it used 40 % of a processor".to_owned();
        *scene.measured() = Measured { busy_at: Some(before(5)), why, ..Measured::default() };
    };
    stays_awake(busy, "it used 40 % of a processor 5 s ago");
    stays_awake(|scene| scene.measured().lease = Some(before(-500)), "it holds a lease for 8 more min");
    stays_awake(|scene| scene.settings.paused_after_seconds = None, "sleeps only when it is told to");
    stays_awake(|scene| scene.app.sleep.pinned = true, "pinned");
    stays_awake(|scene| scene.app.sleep.paused_after = Some(After::Never), "only when it is told to");
    stays_awake(|scene| scene.app.sleep.paused_after = Some(After::Seconds(60)), "idle for 60 s");
    stays_awake(|scene| scene.app.wanted = Wanted::Stopped, "stopped");
    stays_awake(|scene| scene.app.pending = scene.app.live.clone(), "under way");
    stays_awake(|scene| scene.instance.life = Life::Starting, "does not serve yet");
    stays_awake(|scene| scene.node.instances.clear(), "does not know it");
    stays_awake(|scene| scene.state(InstanceState::Preparing), "not ready");
}

#[test]
fn what_was_busy_long_ago_counts_no_more() {
    let verdict = Scene::with(|scene| scene.measured().busy_at = Some(before(100)));
    assert!(matches!(verdict, Verdict::Sleep(Depth::Paused, _)), "{verdict:?}");
}

#[test]
fn a_sleeper_goes_deeper_in_its_time_and_is_woken_when_it_may_not_sleep() {
    let frozen = |depth, seconds| InstanceState::Frozen {
        depth,
        since: before(seconds),
        reason: "idle for 15 s".to_owned(),
        takes: None,
    };
    let verdict = |depth, seconds, change: fn(&mut Scene)| {
        Scene::with(|scene| {
            scene.settings.cold_after_seconds = Some(60);
            scene.state(frozen(depth, seconds));
            change(scene);
        })
    };
    assert!(matches!(verdict(Depth::Paused, 44, |_| {}), Verdict::Asleep(_)), "59 s in all");
    assert_eq!(
        verdict(Depth::Paused, 45, |_| {}),
        Verdict::Sleep(Depth::Cold, "nobody asked for it for 60 s".to_owned())
    );
    assert!(matches!(verdict(Depth::Cold, 4500, |_| {}), Verdict::Asleep(_)));
    let told = verdict(Depth::Paused, 44, |scene| scene.settings.paused_after_seconds = None);
    assert!(matches!(told, Verdict::Asleep(_)), "who was told to sleep is not woken: {told:?}");
    assert!(matches!(verdict(Depth::Paused, 44, |scene| scene.app.sleep.pinned = true), Verdict::Wake(_)));
    assert!(matches!(
        verdict(Depth::Paused, 4500, |scene| scene.app.pending = scene.app.live.clone()),
        Verdict::Asleep(_)
    ));
}

#[test]
fn between_paused_and_cold_is_the_disk_for_those_who_can() {
    let verdict = |seconds, why: Option<&str>| {
        Scene::with(|scene| {
            scene.settings.snapshot_after_seconds = Some(60);
            scene.settings.cold_after_seconds = Some(600);
            scene.state(InstanceState::Frozen {
                depth: Depth::Paused,
                since: before(seconds),
                reason: "idle".to_owned(),
                takes: None,
            });
            scene.status().no_snapshot = why.map(ToOwned::to_owned);
        })
    };
    assert!(matches!(verdict(44, None), Verdict::Asleep(_)));
    assert!(matches!(verdict(45, None), Verdict::Sleep(Depth::Snapshot, _)));
    assert!(matches!(verdict(585, None), Verdict::Sleep(Depth::Cold, _)));
    let Verdict::Asleep(why) = verdict(45, Some("it has a terminal")) else { panic!("it is passed over") };
    assert!(why.contains("cannot be put to disk: it has a terminal"), "{why}");
    assert!(matches!(verdict(585, Some("it has a terminal")), Verdict::Sleep(Depth::Cold, _)));
}

#[test]
fn a_lease_that_ended_keeps_nobody_awake() {
    let verdict = Scene::with(|scene| scene.measured().lease = Some(before(1)));
    assert!(matches!(verdict, Verdict::Sleep(Depth::Paused, _)), "{verdict:?}");
}

#[test]
fn what_the_folder_pins_counts_and_what_its_user_set_comes_before_it() {
    let pinned = |sleep: SleepSettings| {
        move |scene: &mut Scene| {
            scene.deployment = Some(Deployment {
                id: scene.instance.deployment.clone(),
                app: scene.app.name.clone(),
                owner: scene.app.owner.clone(),
                app_type: drowse_api::deployment::AppType::Python,
                node: scene.instance.node.clone(),
                created: NOW,
                phase: crate::phase::Phase::Deploying(crate::phase::Deploying::new(NOW)),
                manifest: drowse_api::manifest::Manifest { sleep, ..Default::default() },
                workload: None,
            });
        }
    };
    let long = SleepSettings { paused_after: Some(After::Seconds(60)), ..SleepSettings::default() };
    stays_awake(pinned(long), "idle for 60 s");
    let verdict = Scene::with(|scene| {
        pinned(long)(scene);
        scene.app.sleep.paused_after = Some(After::Seconds(18));
    });
    assert_eq!(verdict, Verdict::Sleep(Depth::Paused, "idle for 18 s".to_owned()));
    let mut scene = Scene::new();
    pinned(SleepSettings { monitors: Some(drowse_api::sleep::Glance::Hold), ..long })(&mut scene);
    let policy = sleep_policy(&scene.app, scene.deployment.as_ref(), None, &scene.settings);
    assert_eq!(policy.glances.monitors, drowse_api::sleep::Glance::Hold);
    assert_eq!(policy.glances.crawlers, drowse_api::sleep::Glance::Answer);
}

#[test]
fn between_paused_and_disk_is_swap_and_who_cannot_is_paused() {
    let scene = |seconds, depth: Option<Depth>, why: Option<&str>| {
        let mut scene = Scene::new();
        scene.settings.paged_after_seconds = Some(120);
        scene.settings.snapshot_after_seconds = Some(600);
        let (since, reason) = (before(seconds), "idle".to_owned());
        if let Some(depth) = depth {
            scene.state(InstanceState::Frozen { depth, since, reason, takes: None });
        }
        scene.status().no_paging = why.map(ToOwned::to_owned);
        scene
    };
    let verdict = |seconds, depth, why| scene(seconds, depth, why).verdict();
    assert!(matches!(verdict(104, Some(Depth::Paused), None), Verdict::Asleep(_)));
    assert!(matches!(verdict(105, Some(Depth::Paused), None), Verdict::Sleep(Depth::Paged, _)));
    assert!(matches!(verdict(105, Some(Depth::Paged), None), Verdict::Asleep(_)));
    // Where both are due, it goes to disk without being paged out first.
    assert!(matches!(verdict(585, Some(Depth::Paused), None), Verdict::Sleep(Depth::Snapshot, _)));
    assert!(matches!(verdict(585, Some(Depth::Paged), None), Verdict::Sleep(Depth::Snapshot, _)));
    let Verdict::Asleep(why) = verdict(105, Some(Depth::Paused), Some("no swap")) else { panic!("it is passed over") };
    assert!(why.contains("cannot be paged: no swap"), "{why}");
    // Without a time for being paused, it is paused in place of being paged.
    let mut only = scene(0, None, Some("no swap"));
    (only.settings.paused_after_seconds, only.settings.paged_after_seconds) = (None, Some(15));
    assert!(matches!(only.verdict(), Verdict::Sleep(Depth::Paused, _)), "{:?}", only.verdict());
    only.status().no_paging = None;
    assert!(matches!(only.verdict(), Verdict::Sleep(Depth::Paged, _)));
    let mut told = scene(105, Some(Depth::Paged), None);
    told.status().in_swap = Some(drowse_api::MemoryBytes::mib(41));
    let Verdict::Asleep(why) = told.verdict() else { panic!("it sleeps") };
    assert!(why.starts_with("paged since 105 s ago, 41 MiB in swap: idle"), "{why}");
}
