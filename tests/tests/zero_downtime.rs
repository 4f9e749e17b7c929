//! Deploys in a row, of versions good and bad, while visitors do everything that visitors do: no request
//! fails, and none is answered by a version that was never ready.
//!
//! The short form runs with all tests. `scripts/deploys` runs the long one: it sets how many deploys.

use std::collections::BTreeSet;
use std::time::Duration;

use drowse_api::DeploymentId;
use drowse_api::deployment::{AppType, DeploymentState};
use drowse_api::platform::DeploymentView;
use drowse_tests::apps::App;
use drowse_tests::traffic::Traffic;
use drowse_tests::world::{Options, World, upload};
use drowse_tests::{needs_a_world, wait};

const APP: &str = "shop";
/// How many deploys the long form makes.
const COUNT: &str = "DROWSE_TEST_DEPLOYS";

/// How a version behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    /// Takes a while to listen.
    Slow,
    /// Ends at its first connection.
    Crashing,
    /// Listens now and then, for a moment.
    Flapping,
    NeverReady,
}

/// What dies in the middle of a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Controller,
    Agent,
}

/// How far the deploy has come then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    Accepted,
    Building,
    Starting,
}

const CRASHING: &str = "import os, socket
listener = socket.create_server(('0.0.0.0', 8080))
listener.accept()
os._exit(1)
";
const FLAPPING: &str = "import socket, time
while True:
    with socket.create_server(('0.0.0.0', 8080)):
        time.sleep(0.1)
    time.sleep(0.4)
";

impl Kind {
    fn app(self, version: &str) -> App {
        let program = |text: &str| {
            App::empty(AppType::Python)
                .file("requirements.txt", "")
                .file("server.py", text)
                .file("Procfile", "web: exec python3 -u server.py\n")
        };
        match self {
            Self::Good => App::probe(version),
            Self::Slow => App::probe(version).profile(&[("PROBE_DELAY", "1.5")]),
            Self::Crashing => program(CRASHING),
            Self::Flapping => program(FLAPPING),
            Self::NeverReady => program("import time\ntime.sleep(1000)\n"),
        }
    }

    fn becomes_ready(self) -> bool {
        matches!(self, Self::Good | Self::Slow)
    }
}

/// The app under deploys.
struct Deploys {
    world: World,
    made: usize,
    /// Versions that were ready.
    ready: BTreeSet<String>,
    live: Option<DeploymentId>,
}

impl Deploys {
    /// One more deploy, with someone killed in the middle of it.
    async fn next(&mut self, kind: Kind, kill: Option<(Victim, Moment)>) {
        self.made += 1;
        let version = format!("v{}", self.made);
        let app = kind.app(&version);
        let accepted = upload(&self.world.controller(), APP, app.app_type(), app.path()).await.expect("accepted");
        if let Some((victim, moment)) = kill {
            self.reaches(&accepted.id, moment).await;
            match victim {
                Victim::Controller => {
                    self.world.kill_controller();
                    self.world.start_controller().await;
                }
                Victim::Agent => {
                    self.world.kill_agent();
                    self.world.start_agent().await;
                }
            }
        }
        let ended = self.ended(&accepted.id).await;
        let is_ready = ended.state.state == DeploymentState::Ready;
        // Whose node or controller died may be undone, but nothing in between.
        if kill.is_none() || !kind.becomes_ready() {
            assert_eq!(is_ready, kind.becomes_ready(), "{version}, {kind:?}: {ended:?}");
        }
        if is_ready {
            self.ready.insert(version);
            self.live = Some(accepted.id);
        }
        let view = self.world.app(APP).await.expect("an app");
        assert_eq!(view.pending, None, "the deploy has ended: {view:?}");
        assert_eq!(view.live.map(|live| live.id), self.live, "{kind:?}, {kill:?}");
    }

    async fn look(&self, id: &DeploymentId) -> Option<DeploymentView> {
        self.world.controller().get(&format!("/v1/deployments/{id}")).await.ok()
    }

    async fn ended(&self, id: &DeploymentId) -> DeploymentView {
        wait::until("the deploy has ended", Duration::from_secs(120), async || {
            self.look(id).await.filter(|view| view.state.state.ends_a_deploy())
        })
        .await
    }

    /// Waits until the deploy has come so far, or further.
    async fn reaches(&self, id: &DeploymentId, moment: Moment) {
        wait::until(&format!("the deploy is {moment:?}"), Duration::from_secs(60), async || {
            let state = self.look(id).await?.state;
            let is_starting = state.reason.starts_with("starting");
            let has_come = match moment {
                Moment::Accepted => true,
                Moment::Building => state.state == DeploymentState::Building,
                Moment::Starting => is_starting,
            };
            (has_come || is_starting || state.state.ends_a_deploy()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_visitor_notices_deploys_in_a_row_nor_that_a_daemon_is_killed_in_one() {
    needs_a_world!();
    let count: Option<usize> = std::env::var(COUNT).ok().map(|count| count.parse().expect("a number"));
    let world = World::with(Options {
        boot_timeout: Duration::from_secs(8),
        limits: "boot.settle_milliseconds = 1000\n".to_owned(),
        router_limits: "websocket_seconds = 1\n".to_owned(),
        ..Options::default()
    })
    .await;
    let mut deploys = Deploys { world, made: 0, ready: BTreeSet::new(), live: None };
    deploys.next(Kind::Good, None).await;
    let traffic = Traffic::start(&deploys.world.visitor(), APP);
    traffic.more(2).await;
    match count {
        None => {
            deploys.next(Kind::Crashing, None).await;
            deploys.next(Kind::Flapping, None).await;
            deploys.next(Kind::Good, Some((Victim::Controller, Moment::Building))).await;
            deploys.next(Kind::Good, Some((Victim::Agent, Moment::Starting))).await;
        }
        Some(count) => {
            use Kind::{Crashing, Flapping, Good, NeverReady, Slow};
            let kinds = [Good, Crashing, Good, Slow, Good, Flapping, Good, Good, NeverReady, Good];
            let moments = [Moment::Accepted, Moment::Building, Moment::Starting];
            for number in 1..count {
                let victim = if number % 2 == 0 { Victim::Controller } else { Victim::Agent };
                // Every third good one.
                let kill = (number % 3 == 0).then_some((victim, moments[number / 3 % 3]));
                let kind = kinds[number % kinds.len()];
                deploys.next(kind, kill).await;
                let got = traffic.got();
                println!("deploy {number}: {kind:?} {kill:?}; {:?}", got.exchanges);
                if !got.failures.is_empty() {
                    break;
                }
            }
        }
    }
    traffic.more(2).await;
    let got = traffic.stop().await;
    println!("{} deploys: {:?}, answered by {:?}", deploys.made, got.exchanges, got.versions);
    assert!(got.failures.is_empty(), "{} failed:\n{}", got.failures.len(), got.failures.join("\n"));
    let strangers: Vec<_> = got.versions.keys().filter(|version| !deploys.ready.contains(*version)).collect();
    assert!(strangers.is_empty(), "answered by versions that were never ready: {strangers:?}");
    let left = deploys.world.instance(APP).await;
    assert_eq!(Some(left.deployment), deploys.live, "what is left is what is live");
}
