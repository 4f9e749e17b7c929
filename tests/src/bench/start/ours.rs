//! The agent: a process of its own, asked over its socket as a controller asks it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use drowse_api::agent::{BlobStored, BuildLimits, BuildRequest, BuildStatus};
use drowse_api::client::Client;
use drowse_api::deployment::{AppType, BuildInput};
use drowse_api::instance::{BootCheck, InstanceSpec, InstanceStatus, Limits, OnBootFailure, Workload};
use drowse_api::secrets::Secrets;
use drowse_api::{AppName, DeploymentId, Digest, Epoch, InstanceId, MemoryBytes, UserId};
use http::Method;

use super::peers::bundle;
use super::visit::{self, Times};
use crate::bench::process::Program;
use crate::machine;

const LIMIT: Duration = Duration::from_secs(60);

/// One agent.
pub(super) struct Ours {
    name: &'static str,
    ready: usize,
    prefix: String,
    folder: tempfile::TempDir,
    /// In memory, as it is on every host with systemd.
    _run: tempfile::TempDir,
    client: Client,
    image: Digest,
    number: u32,
    /// The next address that the agent gives.
    next: Ipv4Addr,
    agent: Option<Program>,
}

impl Ours {
    /// Starts one that keeps so many sandboxes ready.
    pub async fn start(name: &'static str, slot: u8, ready: usize) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir_in("/var/tmp")?;
        let run = tempfile::tempdir_in("/dev/shm")?;
        let path = folder.path();
        let prefix = format!("b{slot}");
        let config = format!(
            "node = \"bench\"\ndata_dir = \"{0}/data\"\nrun_dir = \"{2}/run\"\ncgroup_root = \"drowse-bench{slot}\"\n\
             address_range = \"10.{slot}.0.0/16\"\ntable = \"drowse_bench{slot}\"\nlink_prefix = \"{prefix}\"\n\
             first_host_id = 1966080000\ncontrol_uid = 61990\ncontrol_gid = 61990\nrouter_uid = 61991\n\
             bin_dir = \"{1}\"\nready_sandboxes = {ready}\n",
            path.display(),
            machine::bin_dir().display(),
            run.path().display(),
        );
        std::fs::write(path.join("agent.toml"), config)?;
        let client = Client::unix(run.path().join("run/agent.sock"));
        let image = Digest::parse(format!("sha256:{}", "0".repeat(64)))?;
        let next = Ipv4Addr::new(10, slot, 0, 1);
        let mut ours = Self { name, ready, prefix, folder, _run: run, client, image, number: 0, next, agent: None };
        ours.clean()?;
        let mut command = ours.command();
        command.env("DROWSE_LOG", "warn");
        ours.agent = Some(Program::start("the agent", &mut command)?);
        let began = Instant::now();
        while ours.client.get::<drowse_api::agent::NodeInfo>("/v1/node").await.is_err() {
            anyhow::ensure!(began.elapsed() < LIMIT, "the agent does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ours.image = ours.build().await?;
        Ok(ours)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    fn command(&self) -> Command {
        let mut command = Command::new(machine::bin_dir().join("drowse-agent"));
        command.arg("--config").arg(self.folder.path().join("agent.toml"));
        command
    }

    fn clean(&self) -> anyhow::Result<()> {
        let cleaned = self.command().arg("clean").output()?;
        let errors = String::from_utf8_lossy(&cleaned.stderr);
        anyhow::ensure!(cleaned.status.success(), "drowse-agent clean: {errors}");
        Ok(())
    }

    /// The image that the bundle becomes.
    async fn build(&self) -> anyhow::Result<Digest> {
        let source = tempfile::tempdir()?;
        bundle(source.path(), None)?;
        let packed = Command::new("tar").arg("-C").arg(source.path()).args(["-czf", "-", "."]).output()?;
        let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(packed.stdout))]);
        let stored: BlobStored = self.client.upload(Method::POST, "/v1/blobs", body).await?;
        let request = BuildRequest {
            registries: Default::default(),
            controller: None,
            deployment: DeploymentId::parse("bench")?,
            app: AppName::parse("bench-app")?,
            user: UserId::parse("user")?,
            input: BuildInput { app_type: AppType::Bundle, source: stored.digest, start: None, release: None },
            env: BTreeMap::new(),
            secrets: Secrets::default(),
            limits: BuildLimits::default(),
        };
        let _: BuildStatus = self.client.call(Method::PUT, "/v1/builds/bench", Some(&request)).await?;
        let began = Instant::now();
        loop {
            match self.client.get("/v1/builds/bench").await? {
                BuildStatus::Done { image, .. } => return Ok(image),
                BuildStatus::Failed { problem } => return Err(problem.into()),
                _ => anyhow::ensure!(began.elapsed() < LIMIT, "the build never ends"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the pool is full, by the links and the disks that nobody owns.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let began = Instant::now();
        let disks = self.folder.path().join("data/disks");
        while spare_links(&self.prefix) < self.ready || spare_disks(&disks) < self.ready {
            anyhow::ensure!(began.elapsed() < LIMIT, "the pool is never full");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    pub async fn one_by_one(&mut self, count: usize, pause: Duration) -> anyhow::Result<Vec<Times>> {
        self.until_ready().await?;
        let (mut times, mut started) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let next = tokio::time::Instant::now() + pause;
            let (id, address) = self.next_instance();
            times.push(self.one(&id, address).await?);
            started.push(id);
            tokio::time::sleep_until(next).await;
        }
        self.remove(started).await?;
        Ok(times)
    }

    pub async fn at_once(&mut self, count: usize) -> anyhow::Result<Vec<Times>> {
        self.until_ready().await?;
        // Which of them gets which address is the agent's to say: all are visited, each once.
        let all: Vec<_> = (0..count).map(|_| self.next_instance()).collect();
        let began = visit::now();
        let puts = futures_util::future::try_join_all(all.iter().map(|(id, _)| self.put(id)));
        let visits = futures_util::future::try_join_all(all.iter().map(|(_, address)| visit::first(*address, began)));
        let (put, times) = futures_util::future::join(puts, visits).await;
        let given: BTreeSet<_> = put?.into_iter().collect();
        anyhow::ensure!(given == all.iter().map(|(_, address)| *address).collect(), "other addresses: {given:?}");
        self.remove(all.into_iter().map(|(id, _)| id).collect()).await?;
        times
    }

    async fn one(&self, id: &InstanceId, address: Ipv4Addr) -> anyhow::Result<Times> {
        let began = visit::now();
        let (given, times) = futures_util::future::join(self.put(id), visit::first(address, began)).await;
        let given = given?;
        anyhow::ensure!(given == address, "instance {id} has {given} and was visited at {address}");
        times
    }

    /// An id, and the address that it will have: the one behind the last.
    fn next_instance(&mut self) -> (InstanceId, Ipv4Addr) {
        self.number += 1;
        let address = self.next;
        let mut bits = address.to_bits() + 1;
        while matches!(bits & 0xff, 0 | 255) {
            bits += 1;
        }
        self.next = Ipv4Addr::from_bits(bits);
        (InstanceId::parse(format!("b{}", self.number)).expect("an id"), address)
    }

    async fn put(&self, id: &InstanceId) -> anyhow::Result<Ipv4Addr> {
        let spec = InstanceSpec {
            controller: None,
            id: id.clone(),
            epoch: Epoch(1),
            user: UserId::parse("user")?,
            app: AppName::parse("bench-app")?,
            deployment: DeploymentId::parse("bench")?,
            workload: Workload::Web,
            image: self.image.clone(),
            env: BTreeMap::new(),
            secrets: Secrets::default(),
            limits: Limits { memory: MemoryBytes::mib(64), ..Limits::default() },
            boot: BootCheck { timeout_seconds: 60, ..BootCheck::default() },
            on_boot_failure: OnBootFailure::Fail,
        };
        let status: InstanceStatus = self.client.call(Method::PUT, &format!("/v1/instances/{id}"), Some(&spec)).await?;
        match status.address.context("an instance without an address")?.ip() {
            std::net::IpAddr::V4(address) => Ok(address),
            other @ std::net::IpAddr::V6(_) => anyhow::bail!("an instance at {other}"),
        }
    }

    /// Removes the instances. The addresses are free again then, and the first are given again.
    async fn remove(&mut self, ids: Vec<InstanceId>) -> anyhow::Result<()> {
        let paths: Vec<_> = ids.iter().map(|id| format!("/v1/instances/{id}?epoch=1")).collect();
        let removals = paths.iter().map(|path| self.client.call::<()>(Method::DELETE, path, None::<&()>));
        futures_util::future::try_join_all(removals).await?;
        let [a, b, ..] = self.next.octets();
        self.next = Ipv4Addr::new(a, b, 0, 1);
        Ok(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        self.agent.take();
        if let Err(error) = self.clean() {
            eprintln!("    {error}");
        }
    }
}

fn spare_disks(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("spare-")).count()
}

/// Links of this prefix that are made ahead.
fn spare_links(prefix: &str) -> usize {
    let links = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let ours = links.filter(|link| link.file_name().to_string_lossy().starts_with(&format!("{prefix}-")));
    let is_spare = |path: &Path| std::fs::read_to_string(path).is_ok_and(|alias| alias.contains(":spare--"));
    ours.filter(|link| is_spare(&link.path().join("ifalias"))).count()
}
