//! The whole controller against a simulated agent: API, store, plans and the node's task together.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use drowse_api::client::Client;
use drowse_api::deployment::DeploymentState;
use drowse_api::event::Event;
use drowse_api::platform::{AppView, DeploymentUpdate, DeploymentView};
use drowse_api::routing::{Route, RouteTable, RouterStatus};
use drowse_api::{HostName, InstanceId, NodeName, Problem};
use drowse_seal::Key;
use drowse_store::Store;
use drowse_store::sqlite::Sqlite;
use http::Method;
use jiff::Timestamp;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{AgentConfig, Config, Settings};
use crate::serve::Controller;
use crate::sim::SimAgent;
use crate::sleep::SleepDefaults;
use crate::vault::Vault;

mod access;
mod crashes;
mod deploys;
mod events;
mod lives;
mod releases;
mod restores;
mod secrets;
mod sleeps;

/// A key that no file holds.
pub(crate) fn vault() -> Vault {
    Vault::with(Key::from_bytes(&[7; 32]))
}

fn node_name() -> NodeName {
    NodeName::parse("node-1").expect("a name")
}

fn config(dir: &Path) -> Config {
    Config {
        domain: HostName::parse("drowse.localhost").expect("a name"),
        data_dir: dir.join("data"),
        run_dir: dir.join("run"),
        secrets_key: Some(dir.join("keys/secrets.key")),
        api_listen: ([127, 0, 0, 1], 0).into(),
        admin_gid: None,
        router_uid: 991,
        owner: "owner".to_owned(),
        agents: vec![AgentConfig { node: node_name(), socket: dir.join("agent.sock") }],
        router: None,
        limits: Settings { drain_seconds: 0, ..Settings::default() },
        sleep: SleepDefaults::default(),
    }
}

/// A controller, an agent and their folder.
struct Rig {
    config: Config,
    agent: SimAgent,
    controller: Option<Controller>,
    client: Client,
    dir: tempfile::TempDir,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let mut config = config(dir.path());
        change(&mut config);
        std::fs::create_dir_all(&config.data_dir).expect("folder");
        let agent = SimAgent::start(node_name(), &dir.path().join("agent.sock"));
        let client = Client::unix(config.socket());
        let mut rig = Self { config, agent, controller: None, client, dir };
        rig.open().await;
        rig
    }

    /// Starts the controller on the same file as before.
    async fn open(&mut self) {
        // What was killed closes the file in its own time.
        let path = self.dir.path().join("data/drowse.db");
        let opened = async {
            loop {
                match Sqlite::open(&path) {
                    Ok(engine) => return engine,
                    Err(error) => tracing::debug!(%error, "not free yet"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let store = Store::new(within(opened).await);
        self.controller = Some(Controller::start(self.config.clone(), store).await.expect("starts"));
    }

    /// Ends the controller as a kill does: nothing is finished.
    fn kill(&mut self) {
        self.controller = None;
    }

    async fn deploy(&self, app: &str) -> DeploymentView {
        self.deploy_as(app, "python").await.expect("accepted")
    }

    async fn deploy_as(&self, app: &str, app_type: &str) -> Result<DeploymentView, Problem> {
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from_static(b"a tar"))]);
        self.client.upload(Method::POST, &format!("/v1/apps/{app}/deployments?type={app_type}"), body).await
    }

    /// Follows a deploy to its end: the states it had, and the last view.
    async fn follow(&self, deployment: &DeploymentView) -> (Vec<DeploymentState>, DeploymentView) {
        let path = format!("/v1/deployments/{}/watch", deployment.id);
        let mut lines = self.client.lines::<DeploymentUpdate>(&path).await.expect("watches");
        let (mut states, mut last) = (vec![], deployment.clone());
        while let Some(update) = within(lines.next()).await.expect("a line") {
            if let DeploymentUpdate::State { deployment } = update {
                states.push(deployment.state.state);
                last = deployment;
            }
        }
        states.dedup();
        (states, last)
    }

    /// Deploys, and waits for READY and for traffic.
    async fn deployed(&self, app: &str) -> DeploymentView {
        let deployment = self.deploy(app).await;
        let (_, last) = self.follow(&deployment).await;
        assert_eq!(last.state.state, DeploymentState::Ready, "{last:?}");
        last
    }

    async fn post(&self, path: &str) -> AppView {
        self.client.call(Method::POST, path, None::<&()>).await.expect("accepted")
    }

    async fn app(&self, app: &str) -> AppView {
        self.client.get(&format!("/v1/apps/{app}")).await.expect("exists")
    }

    async fn events(&self) -> Vec<Event> {
        let mut lines = self.client.lines::<Event>("/v1/events").await.expect("lists");
        let mut events = vec![];
        while let Some(event) = lines.next().await.expect("a line") {
            events.push(event);
        }
        events
    }

    async fn table(&self) -> RouteTable {
        let mut lines = self.client.lines::<RouteTable>("/v1/routes/watch").await.expect("watches");
        within(lines.next()).await.expect("a line").expect("a table")
    }

    async fn route(&self, host: &str) -> Option<Route> {
        self.table().await.hosts.get(&HostName::parse(host).expect("a name")).cloned()
    }

    /// The instances that a host name leads to.
    async fn endpoints(&self, host: &str) -> Vec<InstanceId> {
        match self.route(host).await {
            Some(Route::Instances { endpoints, .. }) => {
                endpoints.into_iter().map(|endpoint| endpoint.instance).collect()
            }
            _ => vec![],
        }
    }

    /// Waits until the agent runs exactly this many instances, and knows no others.
    async fn until_running(&self, count: usize) {
        until(&format!("{count} instances run, and nothing else is there"), || async {
            let instances = self.agent.instances();
            instances.len() == count && instances.iter().all(|instance| instance.status.state.is_ready())
        })
        .await;
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.expect("in time")
}

async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let wait = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// When instances were last asked for.
type Active = Arc<Mutex<BTreeMap<InstanceId, Timestamp>>>;

/// What a router does as far as the controller sees it.
struct FakeRouter {
    in_flight: Arc<Mutex<BTreeMap<InstanceId, u64>>>,
    active: Active,
    client: Client,
    applied: Arc<Mutex<RouteTable>>,
    _task: AbortOnDropHandle<()>,
}

impl FakeRouter {
    fn start(client: Client) -> Self {
        let in_flight = Arc::new(Mutex::new(BTreeMap::new()));
        let (applied, active) = (Arc::new(Mutex::new(RouteTable::default())), Active::default());
        let work = follow_table(client.clone(), Arc::clone(&in_flight), Arc::clone(&active), Arc::clone(&applied));
        Self { in_flight, active, client, applied, _task: AbortOnDropHandle::new(tokio::spawn(work)) }
    }

    async fn set_in_flight(&self, instance: &InstanceId, count: u64) {
        self.in_flight.lock().expect("lock").insert(instance.clone(), count);
        let applied = self.applied.lock().expect("lock").clone();
        report(&self.client, &applied, &self.in_flight, &self.active).await;
    }

    async fn set_active(&self, instance: &InstanceId, at: Timestamp) {
        self.active.lock().expect("lock").insert(instance.clone(), at);
        let applied = self.applied.lock().expect("lock").clone();
        report(&self.client, &applied, &self.in_flight, &self.active).await;
    }
}

async fn follow_table(
    client: Client,
    in_flight: Arc<Mutex<BTreeMap<InstanceId, u64>>>,
    active: Active,
    applied: Arc<Mutex<RouteTable>>,
) {
    let mut lines = client.lines::<RouteTable>("/v1/routes/watch?router=node-1").await.expect("watches");
    while let Ok(Some(table)) = lines.next().await {
        *applied.lock().expect("lock") = table.clone();
        report(&client, &table, &in_flight, &active).await;
    }
}

async fn report(client: &Client, table: &RouteTable, in_flight: &Mutex<BTreeMap<InstanceId, u64>>, active: &Active) {
    let in_flight = in_flight.lock().expect("lock").clone();
    let (applied, run) = (table.revision, table.run.clone());
    let status = RouterStatus {
        name: "node-1".to_owned(),
        applied,
        run,
        in_flight,
        active: active.lock().expect("lock").clone(),
    };
    client.call::<()>(Method::PUT, "/v1/routers/node-1", Some(&status)).await.expect("reports");
}
