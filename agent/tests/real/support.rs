//! An agent of its own for each test, asked over its socket. Whatever happens, `clean` removes what it made.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drowse_api::agent::{BlobStored, BuildLimits, BuildRequest, BuildStatus, InstancesPicture, StopRequest};
use drowse_api::client::Client;
use drowse_api::deployment::{AppType, BuildInput};
use drowse_api::event::AgentEvent;
use drowse_api::instance::{BootCheck, InstanceSpec, InstanceStatus, Limits, OnBootFailure, Workload};
use drowse_api::secrets::Secrets;
use drowse_api::{AppName, DeploymentId, Digest, Epoch, InstanceId, Problem, UserId};
use http::Method;

/// Long enough for a busy machine, short enough to notice.
pub const LIMIT: Duration = Duration::from_secs(30);

/// What a test of another run may take that has the same number.
const CLAIM_LIMIT: Duration = Duration::from_secs(150);

/// One agent with folders, addresses, table and groups of its own.
pub struct Agent {
    pub folder: tempfile::TempDir,
    pub client: Client,
    programs: PathBuf,
    child: Option<Child>,
    _number: UnixListener,
}

/// Holds a number, and all that is named after it, for this process; waits for another run of the tests
/// on this machine that has it. An abstract socket, so that the kernel lets it go however the process ends.
pub fn claim(number: u8) -> UnixListener {
    let name = SocketAddr::from_abstract_name(format!("drowse-agt{number}")).expect("a name");
    let began = Instant::now();
    loop {
        match UnixListener::bind_addr(&name) {
            Ok(held) => return held,
            Err(error) => assert!(began.elapsed() < CLAIM_LIMIT, "another run has agent {number}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn busybox() -> Option<PathBuf> {
    ["/bin/busybox", "/usr/bin/busybox"]
        .map(PathBuf::from)
        .into_iter()
        .find(|path| std::fs::read(path).is_ok_and(|program| !program.windows(8).any(|window| window == b"/ld-linu")))
}

/// The agent's siblings: from `DROWSE_BIN_DIR`, or built now.
pub fn programs() -> PathBuf {
    if let Some(folder) = std::env::var_os("DROWSE_BIN_DIR") {
        return folder.into();
    }
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let siblings = ["--quiet", "drowse-init", "drowse-sites", "drowse-launcher", "drowse-nsenter"];
    let built = Command::new(repository.join("scripts/build")).args(siblings).output().expect("scripts/build runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    PathBuf::from(String::from_utf8(built.stdout).expect("a path").trim())
}

impl Agent {
    /// A running agent; none where root-only tests cannot run, which it says.
    pub async fn start(number: u8) -> Option<Self> {
        Self::start_with(number, |_| String::new()).await
    }

    /// As [`start`](Self::start), with more in the configuration; `more` is given the agent's folder.
    pub async fn start_with(number: u8, more: impl FnOnce(&Path) -> String) -> Option<Self> {
        let is_root = rustix::process::geteuid().is_root();
        let why = match (is_root, busybox()) {
            (false, _) => "not root",
            (_, None) => "no static busybox (Debian: busybox-static)",
            _ => "",
        };
        if !why.is_empty() {
            eprintln!("SKIPPED: {why}");
            return None;
        }
        let held = claim(number);
        let folder = tempfile::tempdir_in("/var/tmp").expect("a folder");
        let client = Client::unix(folder.path().join("run/agent.sock"));
        let mut agent = Self { folder, client, programs: programs(), child: None, _number: held };
        let path = agent.folder.path();
        let text = format!(
            "node = \"test\"\ndata_dir = \"{0}/data\"\nrun_dir = \"{0}/run\"\ncgroup_root = \"drowse-agt{number}\"\n\
             address_range = \"10.99.{number}.0/24\"\ntable = \"drowse_agt{number}\"\nlink_prefix = \"a{number}\"\n\
             first_host_id = 1835008000\ncontrol_uid = 61990\ncontrol_gid = 61990\nrouter_uid = 61991\n\
             bin_dir = \"{1}\"\n{2}",
            path.display(),
            agent.programs.display(),
            more(path)
        );
        std::fs::write(agent.config(), text).expect("written");
        agent.clean();
        agent.restart().await;
        Some(agent)
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("agent.toml")
    }

    pub fn data(&self, path: &str) -> PathBuf {
        self.folder.path().join("data").join(path)
    }

    /// Runs the agent's program with `arguments` to its end.
    pub fn command(&self, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_drowse-agent"));
        command.arg("--config").arg(self.config()).args(arguments).env("DROWSE_LOG", "warn");
        command.output().expect("it runs")
    }

    fn clean(&self) {
        let output = self.command(&["clean"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killed");
            child.wait().expect("reaped");
        }
    }

    /// Starts the agent. It dies at the fail points that are set to `panic`, if it gets there.
    pub fn spawn(&mut self, fail_points: Option<&str>) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_drowse-agent"));
        command.arg("--config").arg(self.config()).stderr(Stdio::from(log.expect("opens")));
        command.env_remove("FAILPOINTS").envs(fail_points.map(|points| ("FAILPOINTS", points)));
        self.child = Some(command.spawn().expect("starts"));
    }

    /// Whether the agent ended by itself.
    pub fn has_died(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("is ours").is_some())
    }

    /// Starts the agent and waits until it answers.
    pub async fn restart(&mut self) {
        self.spawn(None);
        self.answers().await;
    }

    /// Waits until the agent answers.
    pub async fn answers(&mut self) {
        let began = Instant::now();
        while self.client.get::<drowse_api::agent::NodeInfo>("/v1/node").await.is_err() {
            assert!(!self.has_died(), "it ended by itself:\n{}", self.log());
            assert!(began.elapsed() < LIMIT, "never answered:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// An image with busybox that runs `script`, or with `files` to be served.
    pub async fn image(&self, id: &str, app_type: AppType, script: &str) -> Result<Digest, Problem> {
        let source = tempfile::tempdir().expect("a folder");
        let path = source.path();
        if app_type == AppType::Bundle {
            for folder in ["rootfs/bin", "rootfs/www"] {
                std::fs::create_dir_all(path.join(folder)).expect("made");
            }
            std::os::unix::fs::chown(path.join("rootfs/www"), Some(1000), Some(1000)).expect("given to the app");
            std::fs::copy(busybox().expect("checked"), path.join("rootfs/bin/busybox")).expect("copied");
            std::fs::set_permissions(path.join("rootfs/bin/busybox"), PermissionsExt::from_mode(0o755)).expect("set");
            let args = serde_json::json!(["/bin/busybox", "sh", "-c", script]);
            let namespaces = ["pid", "mount", "network", "ipc", "uts"].map(|kind| serde_json::json!({"type": kind}));
            let config = serde_json::json!({
                "ociVersion": "1.0.2",
                "process": {"user": {"uid": 1000, "gid": 1000}, "args": args, "env": ["PATH=/bin"], "cwd": "/"},
                "root": {"path": "rootfs"},
                "linux": {"namespaces": namespaces},
            });
            std::fs::write(path.join("config.json"), config.to_string()).expect("written");
        } else {
            std::fs::write(path.join("index.html"), script).expect("written");
        }
        self.build(id, app_type, path).await
    }

    /// The image that a folder becomes.
    pub async fn build(&self, id: &str, app_type: AppType, path: &Path) -> Result<Digest, Problem> {
        let packed = Command::new("tar").arg("-C").arg(path).args(["-czf", "-", "."]).output().expect("tar runs");
        self.build_of(id, app_type, packed.stdout).await
    }

    /// The image that an archive becomes.
    pub async fn build_of(&self, id: &str, app_type: AppType, archive: Vec<u8>) -> Result<Digest, Problem> {
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(archive))]);
        let stored: BlobStored = self.client.upload(Method::POST, "/v1/blobs", body).await?;
        let request = BuildRequest {
            controller: None,
            deployment: DeploymentId::parse(id).expect("an id"),
            app: AppName::parse("test-app").expect("a name"),
            user: UserId::parse("user").expect("an id"),
            input: BuildInput { app_type, source: stored.digest, start: None, release: None },
            env: BTreeMap::new(),
            secrets: Secrets::default(),
            limits: BuildLimits::default(),
            registries: Default::default(),
        };
        let path = format!("/v1/builds/{id}");
        let _: BuildStatus = self.client.call(Method::PUT, &path, Some(&request)).await?;
        let began = Instant::now();
        loop {
            match self.client.get(&path).await? {
                BuildStatus::Done { image, .. } => return Ok(image),
                BuildStatus::Failed { problem } => return Err(problem),
                _ => assert!(began.elapsed() < LIMIT, "the build never ended"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn put(
        &self,
        id: &str,
        epoch: u64,
        image: &Digest,
        workload: Workload,
    ) -> Result<InstanceStatus, Problem> {
        self.put_within(id, epoch, image, workload, self.usual_limits()).await
    }

    /// What instances of tests may use.
    pub fn usual_limits(&self) -> Limits {
        Limits { memory: drowse_api::MemoryBytes::mib(64), ..Limits::default() }
    }

    pub async fn put_within(
        &self,
        id: &str,
        epoch: u64,
        image: &Digest,
        workload: Workload,
        limits: Limits,
    ) -> Result<InstanceStatus, Problem> {
        let spec = InstanceSpec { limits, ..spec(id, epoch, image, workload) };
        self.client.call(Method::PUT, &format!("/v1/instances/{id}"), Some(&spec)).await
    }

    pub async fn stop(&self, id: &str, epoch: u64) -> Result<InstanceStatus, Problem> {
        let request = StopRequest { epoch: Epoch(epoch), grace_seconds: 10, reason: "told to".to_owned() };
        self.client.call(Method::POST, &format!("/v1/instances/{id}/stop"), Some(&request)).await
    }

    pub async fn delete(&self, id: &str, epoch: u64) -> Result<(), Problem> {
        self.client.call(Method::DELETE, &format!("/v1/instances/{id}?epoch={epoch}"), None::<&()>).await
    }

    /// Waits until the instance is as wanted.
    pub async fn until(&self, id: &str, wanted: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let mut last = None;
        let found = tokio::time::timeout(LIMIT, async {
            let mut pictures = self.client.lines::<InstancesPicture>("/v1/instances/watch").await.expect("watches");
            while let Some(picture) = pictures.next().await.expect("goes on") {
                last = picture.instances.into_iter().find(|status| status.id.as_str() == id);
                if last.as_ref().is_some_and(&wanted) {
                    return;
                }
            }
        });
        let in_time = found.await.is_ok();
        match last {
            Some(status) if in_time && wanted(&status) => status,
            other => panic!("{id} never came there: {other:?}\n{}", self.log()),
        }
    }

    pub async fn until_ready(&self, id: &str) -> InstanceStatus {
        self.until(id, |status| status.state.is_ready() || status.state.is_over()).await
    }

    /// The messages of the events so far.
    pub async fn messages(&self) -> Vec<String> {
        let mut lines = self.client.lines::<AgentEvent>("/v1/events").await.expect("follows");
        let mut messages = Vec::new();
        while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_millis(300), lines.next()).await {
            messages.push(event.message);
        }
        messages
    }

    /// The limits of an instance's control group: memory in bytes, and tasks.
    pub fn limits(&self, id: &str) -> (u64, u64) {
        let place = format!("{}/user-user/{id}", self.value("cgroup_root"));
        let read = |files: [&str; 2]| {
            let found = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
            found.unwrap_or_else(|| panic!("none of {files:?}")).trim().parse().expect("a number")
        };
        let (v1, v2) = (format!("/memory/{place}/memory.limit_in_bytes"), format!("/{place}/memory.max"));
        let memory = read([&format!("/sys/fs/cgroup{v1}"), &format!("/sys/fs/cgroup{v2}")]);
        let (v1, v2) = (format!("/pids/{place}/pids.max"), format!("/{place}/pids.max"));
        (memory, read([&format!("/sys/fs/cgroup{v1}"), &format!("/sys/fs/cgroup{v2}")]))
    }

    /// A text of the configuration.
    fn value(&self, key: &str) -> String {
        let config = std::fs::read_to_string(self.config()).expect("reads");
        let line = config.lines().find(|line| line.starts_with(key)).expect("is set");
        line.split('"').nth(1).expect("a text").to_owned()
    }

    /// The links that are made ahead: names, and the kernel's numbers, which are never given again.
    pub fn spare_links(&self) -> Vec<(String, u32)> {
        let prefix = format!("{}-", self.value("link_prefix"));
        let mut links = Vec::new();
        for link in names("/sys/class/net") {
            let read = |file: &str| std::fs::read_to_string(format!("{link}/{file}")).unwrap_or_default();
            let name = link.rsplit('/').next().unwrap_or_default();
            if name.starts_with(&prefix) && read("ifalias").contains(":spare--") {
                links.extend(read("ifindex").trim().parse().map(|index| (name.to_owned(), index)));
            }
        }
        links
    }

    /// The links that are of something.
    pub fn links(&self) -> Vec<String> {
        let spare: Vec<String> =
            self.spare_links().into_iter().map(|(name, _)| format!("/sys/class/net/{name}")).collect();
        let is_of_something = |trace: &String| trace.starts_with("/sys/class/net/") && !spare.contains(trace);
        self.traces().into_iter().filter(is_of_something).collect()
    }

    /// Waits until so many sandboxes are ready.
    pub async fn until_ready_ahead(&self, count: usize) -> Vec<(String, u32)> {
        let began = Instant::now();
        loop {
            let links = self.spare_links();
            if links.len() == count {
                return links;
            }
            assert!(began.elapsed() < LIMIT, "{count} were to be ready: {links:?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The agent's nftables table as nft prints it.
    pub fn table(&self) -> String {
        let list = Command::new("nft").args(["list", "table", "inet", &self.value("table")]).output();
        String::from_utf8_lossy(&list.expect("nft runs").stdout).into_owned()
    }

    /// The agent's pid.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Whether the agent has this file open.
    pub fn has_open(&self, path: &Path) -> bool {
        let entries = std::fs::read_dir(format!("/proc/{}/fd", self.pid())).into_iter().flatten().flatten();
        entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|target| target == path)
    }

    /// Processes that see an instance's files, whatever group they are in.
    pub fn inside(&self) -> Vec<i32> {
        let files = self.folder.path().join("run/instances").display().to_string();
        let processes = std::fs::read_dir("/proc").expect("reads").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let sees = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|mounts| mounts.contains(&files))
        };
        pids.filter(sees).collect()
    }

    /// Every file and folder of the agent, but for its log, its events and disks made ahead, which have bounds
    /// of their own.
    pub fn files(&self) -> Vec<String> {
        let root = self.folder.path();
        let (mut found, mut folders) = (Vec::new(), vec![root.to_owned()]);
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                // What is in a layer belongs to the layer.
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && !folder.ends_with("layers") {
                    folders.push(path.clone());
                }
                found.push(path.strip_prefix(root).expect("is below").display().to_string());
            }
        }
        found.retain(|path| path != "log" && path != "data/events" && !path.starts_with("data/disks/"));
        found.sort();
        found
    }

    /// Starts the agent anew, with this as the last part of its configuration.
    pub async fn restart_with_images(&mut self, images: &str) {
        self.kill();
        let text = std::fs::read_to_string(self.config()).expect("reads");
        let rest = text.split("[images]").next().expect("a text");
        std::fs::write(self.config(), format!("{rest}{images}")).expect("written");
        self.restart().await;
    }

    /// Waits until the [`files`](Self::files) are as `wanted`.
    pub async fn until_files(&self, what: &str, wanted: impl Fn(&[String]) -> bool) {
        let began = Instant::now();
        loop {
            let now = self.files();
            if wanted(&now) {
                return;
            }
            assert!(began.elapsed() < LIMIT, "{what}; now: {now:#?}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Control groups of single instances, in every hierarchy.
    pub fn groups(&self) -> Vec<String> {
        let root = self.value("cgroup_root");
        let hierarchies = std::iter::once("/sys/fs/cgroup".to_owned()).chain(names("/sys/fs/cgroup"));
        let roots = hierarchies.map(|hierarchy| format!("{hierarchy}/{root}")).filter(|root| Path::new(root).is_dir());
        let users = roots.flat_map(|root| names(&root)).filter(|name| name.contains("/user-"));
        users.flat_map(|user| names(&user)).filter(|name| Path::new(name).is_dir()).collect()
    }

    /// How many shells run `script` in any group of this agent.
    pub fn shells(&self, script: &str) -> usize {
        let files = self.groups().into_iter().map(|group| format!("{group}/app/cgroup.procs"));
        let lists = files.filter_map(|file| std::fs::read_to_string(file).ok());
        let pids: std::collections::BTreeSet<String> =
            lists.flat_map(|list| list.lines().map(ToOwned::to_owned).collect::<Vec<_>>()).collect();
        let line = |pid: &String| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.iter().filter(|pid| String::from_utf8_lossy(&line(pid)).contains(script)).count()
    }

    /// Names of everything of this agent on the host that is not a file of its own folders.
    pub fn traces(&self) -> Vec<String> {
        let (root, prefix, table) = (self.value("cgroup_root"), self.value("link_prefix"), self.value("table"));
        let mut traces: Vec<String> = names("/sys/class/net");
        traces.retain(|name| name.starts_with(&format!("/sys/class/net/{prefix}-")));
        traces.extend(
            names("/sys/fs/cgroup").iter().flat_map(|hierarchy| names(hierarchy)).filter(|name| name.ends_with(&root)),
        );
        let tables = Command::new("nft").args(["list", "tables"]).output().expect("nft runs");
        let tables = String::from_utf8_lossy(&tables.stdout).into_owned();
        traces.extend(tables.lines().filter(|line| line.ends_with(&format!(" {table}"))).map(ToOwned::to_owned));
        traces
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let output = self.command(&["clean"]);
        if !std::thread::panicking() {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(self.traces(), Vec::<String>::new());
        }
    }
}

/// An instance of the one app that these tests know.
pub fn spec(id: &str, epoch: u64, image: &Digest, workload: Workload) -> InstanceSpec {
    InstanceSpec {
        controller: None,
        id: InstanceId::parse(id).expect("an id"),
        epoch: Epoch(epoch),
        user: UserId::parse("user").expect("an id"),
        app: AppName::parse("test-app").expect("a name"),
        deployment: DeploymentId::parse("first").expect("an id"),
        workload,
        image: image.clone(),
        env: BTreeMap::new(),
        secrets: Secrets::default(),
        limits: Limits { memory: drowse_api::MemoryBytes::mib(64), ..Limits::default() },
        boot: BootCheck { timeout_seconds: 10, ..BootCheck::default() },
        on_boot_failure: OnBootFailure::Fail,
    }
}

/// Paths of what is in a folder.
fn names(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| format!("{folder}/{}", entry.file_name().to_string_lossy())).collect()
}

/// The body of a GET of `/` at an instance's address.
pub async fn visit(status: &InstanceStatus) -> String {
    let address = status.address.expect("has an address").to_string();
    let client = Client::tcp(&address, &address, None);
    let body = client.download("/").await.unwrap_or_else(|problem| panic!("{problem}"));
    let bytes = http_body_util::BodyExt::collect(body).await.expect("reads").to_bytes();
    String::from_utf8_lossy(&bytes).into_owned()
}
