//! crun and runc, run as their users run them: `run` of a bundle with a network namespace that is made
//! before, by the agent's own code, and a control group with the same limits.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use drowse_agent::config::AddressRange;
use drowse_agent::network::{Network, NetworkConfig, Owner};
use nix::mount::{MsFlags, mount, umount};

use super::visit::{self, Times};
use crate::machine;

/// Ids of nobody on the machine.
const HOST_ID: u32 = 1_966_080_000;

/// A hierarchy without which crun refuses a hybrid host that has the hugetlb controller in version 2.
pub(in crate::bench) struct Hugetlb(Option<PathBuf>);

impl Hugetlb {
    /// Mounts it where it is needed and is not there.
    pub fn mount() -> anyhow::Result<Self> {
        let (top, unified) = (Path::new("/sys/fs/cgroup"), "/sys/fs/cgroup/unified/cgroup.controllers");
        let place = top.join("hugetlb");
        let is_offered = std::fs::read_to_string(unified).is_ok_and(|names| names.contains("hugetlb"));
        if !is_offered || place.exists() {
            return Ok(Self(None));
        }
        std::fs::create_dir(&place).with_context(|| format!("cannot make {}", place.display()))?;
        let mounted = Self(Some(place.clone()));
        mount(Some("cgroup"), &place, Some("cgroup"), MsFlags::empty(), Some("hugetlb"))
            .with_context(|| format!("cannot mount {}", place.display()))?;
        Ok(mounted)
    }
}

impl Drop for Hugetlb {
    fn drop(&mut self) {
        if let Some(place) = &self.0 {
            for group in ["crun", "runc"] {
                let _ = std::fs::remove_dir(place.join(format!("drowse-bench-{group}")));
            }
            if let Err(error) = umount(place) {
                eprintln!("    cannot unmount {}: {error}", place.display());
            }
            let _ = std::fs::remove_dir(place);
        }
    }
}

/// The bundle that all sides run: the server, a user, limits. With a network namespace, an id and a control
/// group, as the peers take it.
pub(super) fn bundle(folder: &Path, own: Option<(&str, &str)>) -> anyhow::Result<()> {
    let root = folder.join("rootfs");
    for part in ["proc", "sys", "dev", "tmp", "etc"] {
        std::fs::create_dir_all(root.join(part))?;
    }
    let server = root.join("server");
    std::fs::copy(machine::bin_dir().join("bench-server"), &server)
        .context("scripts/build bench-server comes first")?;
    std::fs::set_permissions(&server, PermissionsExt::from_mode(0o755))?;
    let mut namespaces =
        ["pid", "mount", "ipc", "uts", "cgroup"].map(|kind| serde_json::json!({"type": kind})).to_vec();
    let user = if own.is_some() { HOST_ID + 1000 } else { 1000 };
    namespaces.push(match own {
        Some((netns, _)) => serde_json::json!({"type": "network", "path": netns}),
        None => serde_json::json!({"type": "network"}),
    });
    let mut config = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": user, "gid": user}, "args": ["/server"], "env": ["PATH=/"], "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": {"path": "rootfs"},
        "hostname": "bench",
        "linux": {"namespaces": namespaces, "resources": {"memory": {"limit": 64 << 20}, "pids": {"limit": 512}}},
    });
    if let Some((_, group)) = own {
        config["linux"]["cgroupsPath"] = group.into();
        runtime_mounts(&mut config);
    }
    std::fs::write(folder.join("config.json"), config.to_string())?;
    Ok(())
}

/// What engines mount and mask for every container.
pub(in crate::bench) fn runtime_mounts(config: &mut serde_json::Value) {
    config["linux"]["maskedPaths"] = serde_json::json!([
        "/proc/acpi",
        "/proc/asound",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/sys/firmware",
        "/proc/scsi"
    ]);
    config["linux"]["readonlyPaths"] =
        serde_json::json!(["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]);
    config["mounts"] = serde_json::json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    ]);
}

/// One of them.
pub(super) struct Peer {
    name: &'static str,
    slot: u8,
    folder: tempfile::TempDir,
    network: Network,
    /// How many bundles there are.
    made: usize,
}

/// A container that runs.
struct Container {
    id: String,
    owner: Owner,
    child: Child,
    _netns: OwnedFd,
}

impl Peer {
    /// Its network, with a table and addresses of its own.
    pub async fn new(name: &'static str, slot: u8) -> anyhow::Result<Self> {
        let network = Network::new(NetworkConfig {
            range: AddressRange { base: Ipv4Addr::new(10, slot, 0, 0), prefix: 16 },
            table: format!("drowse_bench{slot}"),
            link_prefix: format!("b{slot}"),
            router_uid: 61991,
            control_uid: 61990,
            router_ports: Vec::new(),
            connections: 2048,
            connection_rate: 200,
            resolvers: Vec::<IpAddr>::new(),
        });
        network.ensure().await?;
        Ok(Self { name, slot, folder: tempfile::tempdir_in("/var/tmp")?, network, made: 0 })
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Writes bundles up to so many; not in the measured time.
    fn make_bundles(&mut self, count: usize) -> anyhow::Result<()> {
        for number in self.made..count {
            let netns = self.place(number);
            std::fs::create_dir_all(self.bundle_of(number))?;
            std::fs::write(&netns, "")?;
            let group = format!("/drowse-bench-{}/{number}", self.name);
            bundle(&self.bundle_of(number), Some((&netns.display().to_string(), &group)))?;
        }
        self.made = self.made.max(count);
        Ok(())
    }

    fn bundle_of(&self, number: usize) -> PathBuf {
        self.folder.path().join(number.to_string())
    }

    /// Where the network namespace of a container is mounted.
    fn place(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("netns-{number}"))
    }

    fn address(&self, number: usize) -> Ipv4Addr {
        let number = u8::try_from(number + 1).unwrap_or(u8::MAX);
        Ipv4Addr::new(10, self.slot, 1, number)
    }

    /// All that is measured but the visit.
    fn start(&self, number: usize) -> anyhow::Result<Container> {
        let netns = new_network_namespace(&self.place(number))?;
        let id = format!("drowse-bench-{}-{number}", self.slot);
        let owner = Owner::parse(&id).context("an owner")?;
        self.network.attach(netns.as_fd(), &owner, self.address(number))?;
        let child = Command::new(self.name)
            .arg("--root")
            .arg(self.folder.path().join("state"))
            .arg("run")
            .arg("--bundle")
            .arg(self.bundle_of(number))
            .arg(&id)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Container { id, owner, child, _netns: netns })
    }

    pub async fn one_by_one(&mut self, count: usize, pause: Duration) -> anyhow::Result<Vec<Times>> {
        self.make_bundles(count)?;
        let (mut times, mut running) = (Vec::new(), Vec::new());
        for number in 0..count {
            let next = tokio::time::Instant::now() + pause;
            let began = visit::now();
            running.push(self.start(number)?);
            times.push(visit::first(self.address(number), began).await);
            tokio::time::sleep_until(next).await;
        }
        self.end(running).await?;
        times.into_iter().collect()
    }

    pub async fn at_once(&mut self, count: usize) -> anyhow::Result<Vec<Times>> {
        self.make_bundles(count)?;
        let began = visit::now();
        let mut running = Vec::new();
        std::thread::scope(|scope| -> anyhow::Result<()> {
            let this = &*self;
            // As many at a time as the agent's own pool of threads would, with a process each.
            let starting: Vec<_> = (0..count).map(|number| scope.spawn(move || this.start(number))).collect();
            for start in starting {
                running.push(start.join().map_err(|_| anyhow::anyhow!("a start broke off"))??);
            }
            Ok(())
        })?;
        let visits = (0..count).map(|number| visit::first(self.address(number), began));
        let times = futures_util::future::try_join_all(visits).await;
        self.end(running).await?;
        times
    }

    async fn end(&self, running: Vec<Container>) -> anyhow::Result<()> {
        for (number, mut container) in running.into_iter().enumerate() {
            let mut delete = Command::new(self.name);
            delete.arg("--root").arg(self.folder.path().join("state")).args(["delete", "--force"]).arg(&container.id);
            delete.stderr(Stdio::null()).status()?;
            container.child.wait()?;
            nix::mount::umount2(&self.place(number), nix::mount::MntFlags::MNT_DETACH)?;
            self.network.detach(&container.owner).await?;
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for number in 0..self.made {
            let id = format!("drowse-bench-{}-{number}", self.slot);
            let state = self.folder.path().join("state");
            if state.join(&id).exists() {
                let mut delete = Command::new(self.name);
                let _ = delete.arg("--root").arg(&state).args(["delete", "--force"]).arg(&id).status();
            }
            let _ = nix::mount::umount2(&self.place(number), nix::mount::MntFlags::MNT_DETACH);
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(format!("drowse-bench-{}", self.name)));
        }
        let _ = std::fs::remove_dir(format!("/sys/fs/cgroup/drowse-bench-{}", self.name));
        let network = self.network.clone();
        let torn_down = std::thread::spawn(move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(network.teardown())?)
        });
        if !matches!(torn_down.join(), Ok(Ok(()))) {
            eprintln!("    the network of {} could not be taken down", self.name);
        }
    }
}

/// A network namespace, mounted at `place` as `ip netns` does it.
pub(in crate::bench) fn new_network_namespace(place: &Path) -> anyhow::Result<OwnedFd> {
    std::thread::scope(|scope| {
        let make = scope.spawn(|| -> anyhow::Result<OwnedFd> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
            let netns: OwnedFd = std::fs::File::open("/proc/thread-self/ns/net")?.into();
            let from = format!("/proc/thread-self/fd/{}", netns.as_raw_fd());
            mount(Some(from.as_str()), place, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(netns)
        });
        make.join().map_err(|_| anyhow::anyhow!("no network namespace was made"))?
    })
}
