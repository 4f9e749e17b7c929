//! The same app under runc: its files, its command, its environment, its user and its network as in the
//! sandbox, checkpointed and restored by the same CRIU.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context;
use drowse_agent::config::AddressRange;
use drowse_agent::network::{Network, NetworkConfig, Owner};

use crate::bench::start::peers::{new_network_namespace, runtime_mounts};
use crate::programs::{Deployed, Memory, Program};
use crate::visit;

/// The second part of the addresses, and the number in all names.
const SLOT: u8 = 65;
const LIMIT: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_micros(500);

/// A container and all that is made for it.
pub(super) struct Peer {
    id: String,
    folder: tempfile::TempDir,
    /// CRIU keeps what it finds out about the kernel on a memory file system only.
    memory_folder: tempfile::TempDir,
    network: Network,
    owner: Owner,
    address: SocketAddr,
    host: String,
    memory: Memory,
    user: u32,
    _netns: OwnedFd,
}

impl Peer {
    /// Starts what runs in the sandbox of `ours` a second time, beside it.
    pub(super) async fn start(program: &Program, ours: &Deployed, number: u8) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let network = Network::new(NetworkConfig {
            range: AddressRange { base: Ipv4Addr::new(10, SLOT, 0, 0), prefix: 16 },
            table: format!("drowse_bench{SLOT}"),
            link_prefix: format!("b{SLOT}"),
            router_uid: 61991,
            control_uid: 61990,
            router_ports: Vec::new(),
            connections: 2048,
            connection_rate: 200,
            resolvers: Vec::<IpAddr>::new(),
        });
        network.ensure().await?;
        let id = format!("drowse-bench-wake-{}", program.name);
        let owner = Owner::parse(&format!("drowse-bench-{SLOT}-{number}")).context("an owner")?;
        let place = folder.path().join("netns");
        std::fs::write(&place, "")?;
        let netns = new_network_namespace(&place)?;
        let address = Ipv4Addr::new(10, SLOT, 1, number + 1);
        network.attach(netns.as_fd(), &owner, address)?;
        for name in ["images", "work", "restore"] {
            std::fs::create_dir(folder.path().join(name))?;
        }
        let bundle = Bundle::of(ours, &folder.path().join("bundle"), &place, &id)?;
        let mut peer = Self {
            id,
            folder,
            memory_folder: tempfile::tempdir_in("/dev/shm")?,
            network,
            owner,
            address: (address, 8080).into(),
            host: format!("{}.drowse.localhost", program.name),
            memory: Memory::default(),
            user: bundle.user,
            _netns: netns,
        };
        peer.write_criu()?;
        peer.run("checkpointer", &["run", "--detach", "--bundle", &peer.path("bundle"), &peer.id.clone()])?;
        let began = Instant::now();
        for _ in 0..40 {
            peer.visit(began).await.with_context(|| format!("under runc, {} does not serve", program.name))?;
        }
        Ok(peer)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    /// Where its images are.
    pub(super) fn images(&self) -> PathBuf {
        self.folder.path().join("images")
    }

    /// runc looks for a `criu` in its path. Where the capability is missing it must be told to do without, and to
    /// dump it must have the app's user as its real one, else the kernel does not tell it the limits.
    fn write_criu(&self) -> anyhow::Result<()> {
        let criu = std::env::var("DROWSE_TEST_CRIU").context("DROWSE_TEST_CRIU is not set")?;
        let has_capability = caps_effective()? >> 24 & 1 == 1;
        let (flag, user) = if has_capability { ("", 0) } else { ("--unprivileged ", self.user) };
        let as_user = if user == 0 {
            String::new()
        } else {
            format!(
                "exec python3 -c 'import os, sys; os.setresgid({user}, -1, -1); os.setresuid({user}, -1, -1); os.execv(sys.argv[1], sys.argv[1:])' "
            )
        };
        for (name, before) in [("checkpointer", as_user.as_str()), ("restorer", "exec ")] {
            let before = if before.is_empty() { "exec " } else { before };
            let path = self.folder.path().join(name);
            std::fs::create_dir(&path)?;
            let program = path.join("criu");
            std::fs::write(&program, format!("#!/bin/sh\n{before}{criu} {flag}\"$@\"\n"))?;
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        Ok(())
    }

    fn runc(&self, criu: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(self.folder.path().join("state")).args(arguments);
        command.env("PATH", format!("{}:{}", self.path(criu), std::env::var("PATH").unwrap_or_default()));
        command.env("XDG_RUNTIME_DIR", self.memory_folder.path());
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, criu: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let errors = self.folder.path().join("runc.log");
        // No pipe: the app would keep it open.
        let log = std::fs::File::create(&errors)?;
        let status =
            self.runc(criu, arguments).stdout(Stdio::null()).stderr(log).status().context("cannot run runc")?;
        if status.success() {
            return Ok(());
        }
        let logs = ["work/dump.log", "restore/restore.log"]
            .map(|name| std::fs::read_to_string(self.path(name)).unwrap_or_default());
        let said: Vec<&str> =
            logs.iter().flat_map(|log| log.lines()).filter(|line| line.contains("Error")).take(5).collect();
        let text = std::fs::read_to_string(&errors).unwrap_or_default();
        anyhow::bail!("runc {}: {status}: {}\n{}", arguments[0], text.trim(), said.join("\n"))
    }

    /// Puts it to disk; nothing of it runs then.
    pub(super) fn checkpoint(&self) -> anyhow::Result<()> {
        let (images, work) = (self.path("images"), self.path("work"));
        std::fs::remove_dir_all(&images)?;
        std::fs::create_dir(&images)?;
        self.run("checkpointer", &["checkpoint", "--image-path", &images, "--work-path", &work, &self.id])
    }

    /// From runc's call to the first byte.
    pub(super) async fn restore(&mut self) -> anyhow::Result<Duration> {
        let (images, work, bundle) = (self.path("images"), self.path("restore"), self.path("bundle"));
        let began = Instant::now();
        let restore =
            ["restore", "--detach", "--image-path", &images, "--work-path", &work, "--bundle", &bundle, &self.id];
        self.run("restorer", &restore)?;
        self.visit(began).await
    }

    async fn visit(&mut self, began: Instant) -> anyhow::Result<Duration> {
        loop {
            let asked = Instant::now();
            match visit::get(self.address, &self.host, "/").await {
                Ok(answer) => {
                    self.memory.expect(&answer.body)?;
                    return Ok(asked.duration_since(began) + answer.first_byte);
                }
                Err(error) if asked.duration_since(began) > LIMIT => return Err(error),
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self
            .runc("restorer", &["delete", "--force", &self.id])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        let _ = nix::mount::umount2(&self.folder.path().join("netns"), nix::mount::MntFlags::MNT_DETACH);
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(hierarchy.path().join(&self.id));
        }
        let network = self.network.clone();
        let owner = self.owner.clone();
        let torn_down = std::thread::spawn(move || -> anyhow::Result<()> {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(network.detach(&owner))?;
            Ok(runtime.block_on(network.teardown())?)
        });
        if !matches!(torn_down.join(), Ok(Ok(()))) {
            eprintln!("    the network of {} could not be taken down", self.id);
        }
    }
}

/// What runc starts.
struct Bundle {
    user: u32,
}

impl Bundle {
    /// As the main process of `ours` was started, with a copy of what it sees as its files.
    fn of(ours: &Deployed, folder: &Path, netns: &Path, id: &str) -> anyhow::Result<Self> {
        let process = PathBuf::from(format!("/proc/{}", ours.processes[0]));
        let words = |name: &str| -> anyhow::Result<Vec<String>> {
            let text = std::fs::read(process.join(name))?;
            Ok(String::from_utf8(text)?.split_terminator('\0').map(str::to_owned).collect())
        };
        let status = std::fs::read_to_string(process.join("status"))?;
        let id_of = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.split_whitespace().next().and_then(|id| id.parse::<u32>().ok()).context("no user")
        };
        let (user, group) = (id_of("Uid:")?, id_of("Gid:")?);
        std::fs::create_dir(folder)?;
        let copied = Command::new("cp")
            .args(["-ax", "--reflink=auto"])
            .arg(process.join("root/."))
            .arg(folder.join("rootfs"))
            .status()?;
        anyhow::ensure!(copied.success(), "cannot copy the files of {id}");
        let working = std::fs::read_link(process.join("cwd"))?;
        let kinds = ["pid", "mount", "ipc", "uts", "cgroup"].map(|kind| serde_json::json!({"type": kind}));
        let mut namespaces = kinds.to_vec();
        namespaces.push(serde_json::json!({"type": "network", "path": netns}));
        let mut config = serde_json::json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": user, "gid": group}, "args": words("cmdline")?, "env": words("environ")?,
                "cwd": working, "noNewPrivileges": true,
            },
            "root": {"path": "rootfs"},
            "hostname": "bench",
            "linux": {"namespaces": namespaces, "cgroupsPath": format!("/{id}"),
                      "resources": {"memory": {"limit": 512 << 20}, "pids": {"limit": 512}}},
        });
        runtime_mounts(&mut config);
        std::fs::write(folder.join("config.json"), config.to_string())?;
        Ok(Self { user })
    }
}

/// Bits of this process's effective capabilities (proc_pid_status(5)).
fn caps_effective() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("no capabilities")?;
    Ok(u64::from_str_radix(line.trim(), 16)?)
}
