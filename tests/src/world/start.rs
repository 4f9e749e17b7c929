//! How a world is set up and its daemons are started.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use drowse_api::agent::NodeInfo;
use drowse_api::platform::WhoAmI;

use super::daemon::{Daemon, Program, tail};
use super::slot::{Names, Slot};
use super::{DOMAIN, PATIENCE, Programs, World};
use crate::http::Visitor;
use crate::machine;

/// What may differ from the usual.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long an app has to accept its first connection. The product's default is 60 s.
    pub boot_timeout: Duration,
    /// Size in MiB of a small file system for the agent's data, for tests of a full disk.
    pub agent_disk: Option<u32>,
    /// Further lines for the agent's configuration.
    pub agent_lines: String,
    /// Further lines for the controller's `[limits]`.
    pub limits: String,
    /// Lines for the router's `[router.limits]`.
    pub router_limits: String,
    /// Lines for the controller's `[sleep]`.
    pub sleep: String,
    /// Addresses for more instances than the usual ones are for.
    pub address_range: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            boot_timeout: Duration::from_secs(20),
            agent_disk: None,
            agent_lines: String::new(),
            limits: String::new(),
            router_limits: String::new(),
            sleep: String::new(),
            address_range: None,
        }
    }
}

impl World {
    /// A world that differs from the usual, ready to be used.
    ///
    /// # Panics
    /// When a daemon does not get ready, with the end of its log.
    pub async fn with(options: Options) -> Self {
        let mut world = Self::prepared(&options);
        world.start_agent().await;
        world.start_controller().await;
        world.start_router().await;
        world
    }

    /// A world with its folders and configuration, in which nothing runs yet.
    ///
    /// # Panics
    /// When the folders cannot be made.
    #[must_use]
    pub fn prepared(options: &Options) -> Self {
        let slot = Slot::take();
        let names = slot.names();
        make_folders(&names, options);
        fs::write(names.agent_config(), agent_toml(&names, options)).expect("written");
        fs::write(names.controller_config(), controller_toml(&names, options)).expect("written");
        let programs = programs(&names);
        Self { names, programs, agent: None, controller: None, router: None, boots: 0, _slot: slot }
    }

    /// What units make in `/run` at each boot.
    pub(super) fn make_run_folders(&self) {
        make_folder_of(&self.names.run.join("controller"), self.names.control_id, &self.names);
    }

    /// Starts the agent and waits until it answers.
    pub async fn start_agent(&mut self) {
        let daemon = self.programs.agent.start();
        let client = self.agent();
        self.agent = Some(ready("agent", daemon, async || client.get::<NodeInfo>("/v1/node").await.is_ok()).await);
    }

    /// Starts the controller and waits until it answers.
    pub async fn start_controller(&mut self) {
        let daemon = self.programs.controller.start();
        let client = self.controller();
        let answers = async || client.get::<WhoAmI>("/v1/whoami").await.is_ok();
        self.controller = Some(ready("controller", daemon, answers).await);
    }

    /// Starts the router and waits until it answers.
    pub async fn start_router(&mut self) {
        let daemon = self.programs.router.start();
        let visitor = self.visitor();
        let answers = async || visitor.get("nobody", "/").await.is_ok();
        self.router = Some(ready("router", daemon, answers).await);
    }

    /// Starts the agent, expecting it to refuse, and returns what it said.
    ///
    /// # Panics
    /// When it has not ended after a while, or has ended well.
    #[must_use]
    pub fn agent_refuses(&self) -> String {
        refuses(&self.programs.agent)
    }

    /// As [`agent_refuses`](Self::agent_refuses), started in another way.
    ///
    /// # Panics
    /// When it has not ended after a while, or has ended well.
    #[must_use]
    pub fn agent_refuses_when(&self, change: impl FnOnce(&mut Program)) -> String {
        let mut program = self.programs.agent.clone();
        change(&mut program);
        refuses(&program)
    }

    /// Starts the controller, expecting it to refuse, and returns what it said.
    ///
    /// # Panics
    /// When it has not ended after a while, or has ended well.
    #[must_use]
    pub fn controller_refuses(&self) -> String {
        refuses(&self.programs.controller)
    }

    /// Starts the router, expecting it to refuse, and returns what it said.
    ///
    /// # Panics
    /// When it has not ended after a while, or has ended well.
    #[must_use]
    pub fn router_refuses(&self) -> String {
        refuses(&self.programs.router)
    }

    /// A visitor of this world's router.
    #[must_use]
    pub fn visitor(&self) -> Visitor {
        Visitor::new(self.names.visitors, DOMAIN)
    }
}

async fn ready(name: &str, mut daemon: Daemon, answers: impl AsyncFn() -> bool) -> Daemon {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !answers().await {
        if let Some(status) = daemon.ended() {
            panic!("the {name} ended with {status} instead of getting ready:\n{}", daemon.log_tail());
        }
        if std::time::Instant::now() > deadline {
            let log = daemon.log_tail();
            daemon.kill();
            panic!("the {name} is not ready after {} s:\n{log}", PATIENCE.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    daemon
}

fn refuses(program: &Program) -> String {
    let written = fs::metadata(&program.log).map_or(0, |meta| meta.len());
    let mut daemon = program.start();
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    let status = loop {
        if let Some(status) = daemon.ended() {
            break status;
        }
        if std::time::Instant::now() > deadline {
            let log = daemon.log_tail();
            daemon.kill();
            panic!("it should refuse, and runs:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let all = fs::read(&program.log).unwrap_or_default();
    let said = String::from_utf8_lossy(&all[usize::try_from(written).expect("small")..]).into_owned();
    assert!(!status.success(), "it should refuse, and ended well:\n{said}");
    assert!(status.code().is_some(), "it should refuse with an exit code, not by {status}:\n{said}");
    assert!(!said.contains("panicked"), "it should refuse in its own words:\n{said}");
    said
}

fn make_folders(names: &Names, options: &Options) {
    let agent = names.base.join("agent");
    for folder in [&agent, &names.base.join("logs"), &names.run] {
        fs::create_dir_all(folder).expect("a folder");
    }
    if let Some(mib) = options.agent_disk {
        let size = format!("size={mib}m");
        nix::mount::mount(
            Some("drowse-test"),
            &agent,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(size.as_str()),
        )
        .expect("a small file system");
    }
    let images = machine::stacks_dir().join("images");
    if images.exists() {
        copy_by_links(&images, &agent, options.agent_disk.is_some());
    }
    make_folder_of(&names.base.join("controller"), names.control_id, names);
    make_folder_of(&names.base.join("keys"), names.control_id, names);
    make_folder_of(&names.base.join("router"), names.router_id, names);
    make_folder_of(&names.run.join("controller"), names.control_id, names);
}

fn make_folder_of(folder: &Path, uid: u32, names: &Names) {
    fs::create_dir_all(folder).expect("a folder");
    chown(folder, Some(uid), Some(names.control_id)).expect("root may");
}

/// The base images: hard links, so that no test waits for copies; another file system needs copies.
fn copy_by_links(images: &Path, into: &Path, other_disk: bool) {
    let how = if other_disk { "-a" } else { "-al" };
    let status = Command::new("cp").arg(how).arg(images).arg(into).status().expect("cp runs");
    assert!(status.success(), "cp {how} of the base images");
}

fn programs(names: &Names) -> Programs {
    let bin = machine::bin_dir();
    let log = |name: &str| names.base.join(format!("logs/{name}.log"));
    let config = |path: &Path| ["--config".to_owned(), path.to_string_lossy().into_owned()];
    let controller = |what: &str, uid| Program {
        file: bin.join("drowse-controller"),
        arguments: [vec![what.to_owned()], config(&names.controller_config()).to_vec()].concat(),
        ids: Some((uid, names.control_id)),
        log: log(if what == "serve" { "controller" } else { "router" }),
        before: Vec::new(),
    };
    Programs {
        agent: Program {
            file: bin.join("drowse-agent"),
            arguments: config(&names.agent_config()).to_vec(),
            ids: None,
            log: log("agent"),
            before: Vec::new(),
        },
        controller: controller("serve", names.control_id),
        router: controller("route", names.router_id),
    }
}

fn agent_toml(names: &Names, options: &Options) -> String {
    let Names { base, run, cgroup_root, table, link_prefix, address_range, .. } = names;
    let address_range = options.address_range.as_ref().unwrap_or(address_range);
    let criu = std::env::var("DROWSE_TEST_CRIU").map(|path| format!("criu = {path:?}\n")).unwrap_or_default();
    format!(
        r#"node = "node-1"
data_dir = "{base}/agent"
run_dir = "{run}/agent"
cgroup_root = "{cgroup_root}"
address_range = "{address_range}"
table = "{table}"
link_prefix = "{link_prefix}"
first_host_id = {first_host_id}
control_uid = {control}
control_gid = {control}
router_uid = {router}
router_ports = [{port}]
{criu}{more}"#,
        base = base.display(),
        run = run.display(),
        first_host_id = names.first_host_id,
        control = names.control_id,
        router = names.router_id,
        port = names.visitors.port(),
        more = options.agent_lines,
    )
}

fn controller_toml(names: &Names, options: &Options) -> String {
    format!(
        r#"domain = "{DOMAIN}"
data_dir = "{base}/controller"
run_dir = "{run}/controller"
api_listen = "{api}"
admin_gid = 0
router_uid = {router}

[limits]
boot.timeout_seconds = {boot_timeout}
{more}

[sleep]
{sleep}

[[agents]]
node = "node-1"
socket = "{run}/agent/agent.sock"

[router]
listen = ["{visitors}"]
public_port = {port}
data_dir = "{base}/router"
node = "node-1"
agent_socket = "{run}/agent/agent.sock"
controller_socket = "{run}/controller/controller.sock"
api_address = "{api}"

[router.limits]
{router_more}
"#,
        more = options.limits,
        router_more = options.router_limits,
        sleep = options.sleep,
        base = names.base.display(),
        run = names.run.display(),
        api = names.api,
        router = names.router_id,
        boot_timeout = options.boot_timeout.as_secs(),
        visitors = names.visitors,
        port = names.visitors.port(),
    )
}

impl Daemon {
    fn log_tail(&self) -> String {
        tail(self.log(), 40)
    }
}
