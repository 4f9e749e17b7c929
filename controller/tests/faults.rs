//! The program itself, killed at its fail points in the middle of a deploy, against a simulated
//! node: after each of them a controller without faults ends where it should.

use std::future::Future;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use drowse_api::client::Client;
use drowse_api::deployment::DeploymentState;
use drowse_api::platform::{AppView, DeploymentView, WhoAmI};
use drowse_api::{AppName, NodeName, Problem};
use drowse_controller::sim::SimAgent;
use http::Method;

/// The program; killed when the test ends, however it ends.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn start(dir: &Path, fault: Option<&str>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drowse-controller"));
        command.args(["serve", "--config"]).arg(dir.join("controller.toml"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).env_remove("FAILPOINTS");
        if let Some(fault) = fault {
            command.env("FAILPOINTS", fault);
        }
        Self(command.spawn().expect("the program starts"))
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("our own child").is_some()
    }
}

struct World {
    dir: tempfile::TempDir,
    agent: SimAgent,
    client: Client,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().display();
        let config = format!(
            "data_dir = \"{path}/data\"\nrun_dir = \"{path}/run\"\napi_listen = \"127.0.0.1:0\"\n\
             [[agents]]\nnode = \"node-1\"\nsocket = \"{path}/agent.sock\"\n"
        );
        std::fs::write(dir.path().join("controller.toml"), config).expect("writes");
        let node = NodeName::parse("node-1").expect("a name");
        let agent = SimAgent::start(node, &dir.path().join("agent.sock"));
        let client = Client::unix(dir.path().join("run/controller.sock"));
        Self { dir, agent, client }
    }

    async fn answers(&self) -> bool {
        self.client.get::<WhoAmI>("/v1/whoami").await.is_ok()
    }

    async fn deploy(&self) -> Result<DeploymentView, Problem> {
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"a tar"))]);
        self.client.upload(Method::POST, "/v1/apps/shop/deployments?type=python", body).await
    }

    async fn app(&self) -> Option<AppView> {
        self.client.get("/v1/apps/shop").await.ok()
    }

    async fn is_ready(&self) -> bool {
        self.app().await.is_some_and(|app| {
            app.pending.is_none() && app.live.is_some_and(|live| live.state.state == DeploymentState::Ready)
        })
    }
}

async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// One deploy with a controller that dies at its `count`th visit of `point`, if it gets there; then
/// one without faults. Whether it died.
async fn deploy_with_a_fault(point: &str, count: u32) -> bool {
    let what = format!("{point}, visit {count}");
    let world = World::new();
    let mut faulty = Program::start(world.dir.path(), Some(&format!("{point}={}*off->panic", count - 1)));
    let mut is_accepted = false;
    let dies = loop {
        if faulty.has_ended() {
            break true;
        }
        if is_accepted && world.is_ready().await {
            break false;
        }
        if !is_accepted {
            is_accepted = world.deploy().await.is_ok();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    drop(faulty);
    let _sound = Program::start(world.dir.path(), None);
    until(&format!("{what}: it answers again"), || world.answers()).await;
    if is_accepted {
        assert!(world.app().await.is_some(), "{what}: an accepted deploy was lost");
    } else if world.app().await.is_none() {
        world.deploy().await.expect("a deploy that was not accepted can be made again");
    }
    until(&format!("{what}: the app is ready"), || world.is_ready()).await;
    until(&format!("{what}: one instance runs, and nothing else is there"), || async {
        let instances = world.agent.instances();
        instances.len() == 1 && instances[0].status.state.is_ready()
    })
    .await;
    let shop = AppName::parse("shop").expect("a name");
    assert_eq!(world.agent.most_running(&shop), 1, "{what}: two copies of one instance");
    assert_eq!(world.agent.starts(), (1, 1), "{what}: something was done twice");
    dies
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deploy_survives_the_controllers_death_at_each_fail_point() {
    if !cfg!(debug_assertions) {
        eprintln!("SKIPPED: a release has no fail points");
        return;
    }
    for (point, visits) in [("ledger-before-commit", 1..9), ("ledger-after-commit", 1..9), ("agent-before-call", 1..5)]
    {
        for count in visits {
            let has_died = deploy_with_a_fault(point, count).await;
            assert!(has_died, "{point} was not visited {count} times: the fault was never there");
        }
    }
}
