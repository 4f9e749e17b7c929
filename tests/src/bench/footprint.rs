//! What Drowse itself takes of a node: for each instance beside its app, and for the agent, with nothing
//! and with many instances; and what a disk of its own costs each instance.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
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

use crate::bench::report::Row;
use crate::machine::{self, Process};
use crate::world::{Options, World, archive};

/// How many instances are started one after the other, to time a start.
const TIMED: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many instances.
    pub instances: usize,
    /// For how long the agent's processor time is looked at.
    pub window: Duration,
}

/// What was found with disks or without.
struct Found {
    agent_empty: f64,
    agent_full: f64,
    launcher: f64,
    cpu_empty: f64,
    cpu_full: f64,
    init: f64,
    kernel: f64,
    disk: f64,
    starts: Vec<f64>,
}

/// Measures everything.
///
/// # Errors
/// When the world cannot be used.
pub async fn run(plan: Plan) -> anyhow::Result<Vec<Row>> {
    machine::can_run_worlds().map_err(anyhow::Error::msg)?;
    let with = measure(plan, "auto").await?;
    let without = measure(plan, "off").await?;
    let count = plan.instances;
    let against =
        |what: &str, unit, ours: &[f64], theirs: &[f64]| Row::against(what, unit, ours, "no disk", theirs, None);
    Ok(vec![
        Row::alone("memory of init and all else beside the app, per instance", "KiB", &[with.init], Some(1024.0)),
        Row::alone("memory of the agent, 0 instances", "MB", &[with.agent_empty], Some(40.0)),
        Row::alone(&format!("memory of the agent, {count} instances"), "MB", &[with.agent_full], Some(40.0)),
        Row::alone(&format!("memory of the launcher, {count} instances"), "MB", &[with.launcher], None),
        Row::alone("processor time of the idle agent, 0 instances", "ms/s", &[with.cpu_empty], None),
        Row::alone(&format!("processor time of the idle agent, {count} instances"), "ms/s", &[with.cpu_full], None),
        against("kernel memory per instance, all of the node's growth", "KiB", &[with.kernel], &[without.kernel]),
        against("disk per instance that wrote nothing", "KiB", &[with.disk], &[without.disk]),
        against("start, from the call until it is ready", "ms", &with.starts, &without.starts),
    ])
}

async fn measure(plan: Plan, limit: &str) -> anyhow::Result<Found> {
    let options = Options { agent_lines: format!("\n[disk]\nlimit = \"{limit}\"\n"), ..Options::default() };
    let mut world = World::prepared(&options);
    world.start_agent().await;
    let client = world.agent();
    let (agent, launcher) = (world.agent_process(), launcher_of(world.agent_process())?);
    let image = image(&client).await?;
    eprintln!("    disks {limit}: an agent with nothing");
    let cpu_empty = cpu_per_second(agent, plan.window).await?;
    let agent_empty = proportional(agent.pid)?;
    let kernel_before = kernel_memory()?;
    let mut starts = Vec::new();
    for number in 0..plan.instances {
        let began = Instant::now();
        start(&client, number, &image).await?;
        if number < TIMED {
            ready(&client, number + 1).await?;
            starts.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    ready(&client, plan.instances).await?;
    eprintln!("    disks {limit}: {} instances run", plan.instances);
    let cpu_full = cpu_per_second(agent, plan.window).await?;
    let each = |total: f64| total / plan.instances as f64;
    let kernel = each(kernel_memory()? - kernel_before);
    let found = Found {
        agent_empty: agent_empty / 1e6,
        agent_full: proportional(agent.pid)? / 1e6,
        launcher: proportional(launcher.pid)? / 1e6,
        cpu_empty,
        cpu_full,
        init: each(inits(&world).into_iter().map(|pid| proportional(pid).unwrap_or(0.0)).sum::<f64>()) / 1024.0,
        kernel: kernel / 1024.0,
        disk: each(on_disk(&world.base().join("agent/instances"))) / 1024.0,
        starts,
    };
    Ok(found)
}

/// The processes of every instance's leaf of ours: what runs there and is no app.
fn inits(world: &World) -> Vec<i32> {
    fn below(group: &Path, found: &mut Vec<i32>) {
        for child in machine::children(group) {
            if child.ends_with("init") {
                found.extend(machine::processes_below(&child));
            } else {
                below(&child, found);
            }
        }
    }
    let mut found = Vec::new();
    for root in machine::cgroups(&world.names().cgroup_root) {
        below(&root, &mut found);
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn launcher_of(agent: Process) -> anyhow::Result<Process> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", agent.pid))?;
    let named = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.contains("launcher"));
    let pid = children.split_whitespace().filter_map(|pid| pid.parse().ok()).find(named);
    pid.and_then(Process::of).context("the agent has no launcher")
}

/// Proportional memory in bytes: what is shared counts in part (`Pss` of proc_pid_smaps(5)).
pub(super) fn proportional(pid: i32) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.parse::<f64>().ok());
    Ok(kib.context("no Pss")? * 1024.0)
}

/// What the kernel itself has in use, in bytes, of the kinds that grow with sandboxes.
pub(super) fn kernel_memory() -> anyhow::Result<f64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let of = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok())
    };
    let kinds = ["SUnreclaim:", "KernelStack:", "PageTables:", "Percpu:"];
    Ok(kinds.iter().filter_map(|kind| of(kind)).sum::<f64>() * 1024.0)
}

/// Milliseconds of processor time in a second, user and kernel, of all threads.
async fn cpu_per_second(process: Process, window: Duration) -> anyhow::Result<f64> {
    let used = || -> anyhow::Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/schedstat", process.pid))?;
        let mut total = text.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0);
        // The file of the process has its first thread alone.
        for thread in fs::read_dir(format!("/proc/{}/task", process.pid))?.flatten() {
            if thread.file_name().to_string_lossy() == process.pid.to_string() {
                continue;
            }
            let text = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            total += text.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or(0.0);
        }
        Ok(total / 1e6)
    };
    // What was begun before ends in this time.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (before, began) = (used()?, Instant::now());
    tokio::time::sleep(window).await;
    Ok((used()? - before).max(0.0) / began.elapsed().as_secs_f64())
}

/// Bytes that the files below a folder take, holes left out.
pub(super) fn on_disk(folder: &Path) -> f64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => on_disk(&entry.path()),
            Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) as f64 * 512.0,
            Err(_) => 0.0,
        })
        .sum()
}

/// The smallest server there is.
pub(super) async fn image(client: &Client) -> anyhow::Result<Digest> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.is_file());
    let busybox = busybox.context("no busybox (Debian: busybox-static)")?;
    let folder = tempfile::tempdir()?;
    let bin = folder.path().join("rootfs/bin");
    fs::create_dir_all(&bin)?;
    fs::copy(busybox, bin.join("busybox"))?;
    fs::set_permissions(bin.join("busybox"), PermissionsExt::from_mode(0o755))?;
    let namespaces = ["pid", "mount", "network", "ipc", "uts"].map(|kind| serde_json::json!({ "type": kind }));
    let config = serde_json::json!({
        "ociVersion": "1.0.2",
        "linux": {"namespaces": namespaces},
        "process": {
            "user": {"uid": 1000, "gid": 1000}, "env": ["PATH=/bin"], "cwd": "/",
            "args": ["/bin/busybox", "sh", "-c", "exec /bin/busybox httpd -f -p $PORT -h /"],
        },
        "root": {"path": "rootfs"},
    });
    fs::write(folder.path().join("config.json"), config.to_string())?;
    let body = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(archive(folder.path())?))]);
    let stored: BlobStored = client.upload(Method::POST, "/v1/blobs", body).await?;
    let request = BuildRequest {
        controller: None,
        deployment: DeploymentId::parse("tiny")?,
        app: AppName::parse("tiny-app")?,
        user: UserId::parse("user")?,
        input: BuildInput { app_type: AppType::Bundle, source: stored.digest, release: None, start: None },
        env: BTreeMap::new(),
        secrets: Secrets::default(),
        limits: BuildLimits::default(),
        registries: Secrets::default(),
    };
    let _: BuildStatus = client.call(Method::PUT, "/v1/builds/tiny", Some(&request)).await?;
    let began = Instant::now();
    loop {
        match client.get("/v1/builds/tiny").await? {
            BuildStatus::Done { image, .. } => return Ok(image),
            BuildStatus::Failed { problem } => anyhow::bail!("{problem}"),
            _ => anyhow::ensure!(began.elapsed() < PATIENCE, "the build has not ended"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn start(client: &Client, number: usize, image: &Digest) -> anyhow::Result<()> {
    let id = format!("tiny-{number}");
    let spec = InstanceSpec {
        controller: None,
        id: InstanceId::parse(id.clone())?,
        epoch: Epoch(1),
        user: UserId::parse("user")?,
        app: AppName::parse("tiny-app")?,
        deployment: DeploymentId::parse("tiny")?,
        workload: Workload::Web,
        image: image.clone(),
        env: BTreeMap::new(),
        secrets: Secrets::default(),
        limits: Limits { memory: MemoryBytes::mib(64), ..Limits::default() },
        boot: BootCheck::default(),
        on_boot_failure: OnBootFailure::Retry,
    };
    let _: InstanceStatus = client.call(Method::PUT, &format!("/v1/instances/{id}"), Some(&spec)).await?;
    Ok(())
}

/// Waits until so many are ready.
async fn ready(client: &Client, count: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let all: Vec<InstanceStatus> = client.get("/v1/instances").await?;
        if all.iter().filter(|status| status.state.is_ready()).count() >= count {
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < PATIENCE, "not all are ready: {all:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
