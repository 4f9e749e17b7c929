//! As many sleepers as are asked for, of several stacks: what each of them holds at every depth, and how long
//! random ones take to wake while others are asked all the time.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use drowse_api::agent::BuildStatus;
use drowse_api::client::Client;
use drowse_api::deployment::AppType;
use drowse_api::instance::{BootCheck, InstanceSpec, InstanceState, InstanceStatus, Limits, OnBootFailure, Workload};
use drowse_api::secrets::Secrets;
use drowse_api::sleep::{Demand, Depth, SleepRequest};
use drowse_api::{AppName, DeploymentId, Digest, Epoch, InstanceId, MemoryBytes, UserId};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::footprint::{image, kernel_memory, on_disk, proportional};
use super::report::Row;
use crate::swap::Swap;
use crate::world::{Options, World};
use crate::{apps, machine};

const PATIENCE: Duration = Duration::from_secs(120);
/// How many are started and put to sleep at once.
const BATCH: usize = 8;
/// How many are woken at once.
const WAKERS: usize = 2;
const MIB: f64 = (1 << 20) as f64;

/// How much to measure.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How many sleepers.
    pub sleepers: usize,
    /// How many of each stack are measured at every depth.
    pub each: usize,
    /// How many random ones are woken at the end.
    pub wakes: usize,
}

/// What apps are made of.
struct Stack {
    name: &'static str,
    image: Digest,
    /// Of ten sleepers, so many are of it.
    share: usize,
}

/// Measures everything.
///
/// # Errors
/// When the world cannot be used, or an instance does not do as it is told.
pub async fn run(plan: Plan) -> anyhow::Result<Vec<Row>> {
    machine::can_run_worlds().map_err(anyhow::Error::msg)?;
    let swap = Swap::on("4G").inspect_err(|why| eprintln!("    no swap of its own, paged is left out: {why}")).ok();
    let lines = "router_patience_seconds = 0\n[snapshots]\nuser = \"200GiB\"\nnode = \"200GiB\"\n";
    let options = Options {
        agent_lines: lines.to_owned(),
        address_range: Some("10.87.0.0/18".to_owned()),
        boot_timeout: Duration::from_secs(60),
        ..Options::default()
    };
    let world = World::with(options).await;
    let node =
        Node { client: world.agent(), cgroup_root: world.names().cgroup_root.clone(), addresses: Arc::default() };
    let stacks = stacks(&world, &node.client).await?;
    let mut rows = Vec::new();
    for stack in &stacks {
        rows.extend(node.depths(stack, plan.each, swap.is_some(), world.base()).await?);
    }
    rows.extend(node.many(&world, &stacks, plan).await?);
    Ok(rows)
}

/// The smallest server there is, and the examples as the controller builds them.
async fn stacks(world: &World, client: &Client) -> anyhow::Result<Vec<Stack>> {
    let mut stacks = vec![Stack { name: "busybox httpd", image: image(client).await?, share: 8 }];
    for (name, app, app_type) in [("Flask, gunicorn", "flask", AppType::Python), ("Express", "express", AppType::Npm)] {
        eprintln!("    building {name}");
        let deployed = world.deploy_folder(app, app_type, &apps::example(app)).await;
        let status: BuildStatus = client.get(&format!("/v1/builds/{}", deployed.deployment.id)).await?;
        let BuildStatus::Done { image, .. } = status else { anyhow::bail!("{name} was not built: {status:?}") };
        world.command(app, "stop").await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        stacks.push(Stack { name, image, share: 1 });
    }
    Ok(stacks)
}

/// One agent, asked as its controller asks it.
#[derive(Clone)]
struct Node {
    client: Client,
    cgroup_root: String,
    /// Of those that were ready once.
    addresses: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
}

impl Node {
    async fn put(&self, id: &str, image: &Digest) -> anyhow::Result<()> {
        let spec = InstanceSpec {
            controller: None,
            id: InstanceId::parse(id)?,
            epoch: Epoch(1),
            user: UserId::parse("user")?,
            app: AppName::parse("sleeper")?,
            deployment: DeploymentId::parse("dense")?,
            workload: Workload::Web,
            image: image.clone(),
            env: BTreeMap::new(),
            secrets: Secrets::default(),
            limits: Limits {
                memory: MemoryBytes::mib(256),
                disk: Limits::SMALLEST_DISK,
                files: 2048,
                ..Limits::default()
            },
            boot: BootCheck::default(),
            on_boot_failure: OnBootFailure::Retry,
        };
        let _: InstanceStatus = self.client.call(Method::PUT, &format!("/v1/instances/{id}"), Some(&spec)).await?;
        Ok(())
    }

    /// Waits until all of them are ready.
    async fn ready(&self, ids: &[String]) -> anyhow::Result<Vec<InstanceStatus>> {
        let began = Instant::now();
        loop {
            let all: Vec<InstanceStatus> = self.client.get("/v1/instances").await?;
            let is_meant = |status: &InstanceStatus| ids.iter().any(|id| *id == status.id.as_str());
            let (ready, not): (Vec<_>, Vec<_>) =
                all.into_iter().filter(is_meant).partition(|status| status.state.is_ready());
            if ready.len() == ids.len() {
                let found = ready.iter().filter_map(|status| Some((status.id.to_string(), status.address?)));
                self.addresses.lock().map_err(|error| anyhow::anyhow!("{error}"))?.extend(found);
                return Ok(ready);
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "not all are ready: {not:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn sleep(&self, id: &str, depth: Depth) -> anyhow::Result<InstanceStatus> {
        let reason = "measured".to_owned();
        let request = SleepRequest { epoch: Epoch(1), depth, grace_seconds: 10, reason, unless_leased: false };
        let path = format!("/v1/instances/{id}/sleep");
        let status: InstanceStatus = self.client.call(Method::POST, &path, Some(&request)).await?;
        let is_so =
            |status: &InstanceStatus| matches!(status.state, InstanceState::Frozen { depth: now, .. } if now == depth);
        anyhow::ensure!(is_so(&status), "{id} is not asleep as deeply as {depth}: {status:?}");
        Ok(status)
    }

    /// Has it woken; where it will be reached.
    async fn demand(&self, id: &str) -> anyhow::Result<SocketAddr> {
        let demand = Demand { cause: "a benchmark".to_owned() };
        self.client.call::<()>(Method::POST, &format!("/v1/instances/{id}/demand"), Some(&demand)).await?;
        let known = self.addresses.lock().map_err(|error| anyhow::anyhow!("{error}"))?;
        known.get(id).copied().context("it has no address")
    }

    /// Bytes charged to all of the agent's groups.
    fn charged(&self) -> anyhow::Result<f64> {
        let files = ["memory/{}/memory.usage_in_bytes", "{}/memory.current"]
            .map(|form| format!("/sys/fs/cgroup/{}", form.replace("{}", &self.cgroup_root)));
        let found = files.iter().find_map(|file| fs::read_to_string(file).ok()).context("no memory controller")?;
        Ok(found.trim().parse()?)
    }

    /// What so many of one stack hold, awake and at every depth.
    async fn depths(&self, stack: &Stack, each: usize, has_swap: bool, base: &Path) -> anyhow::Result<Vec<Row>> {
        let ids: Vec<String> = (0..each).map(|number| format!("d{number}-{}", stack.name.len())).collect();
        let (empty, kernel_empty) = (self.charged()?, kernel_memory()?);
        for id in &ids {
            self.put(id, &stack.image).await?;
        }
        for status in self.ready(&ids).await? {
            visit(address(&status)?).await?;
        }
        let instances = base.join("agent/instances");
        let kernel = (kernel_memory()? - kernel_empty) / each as f64 / 1024.0;
        let per = |bytes: f64| bytes / each as f64 / MIB;
        let row = |what: String, unit, value: f64, budget| {
            Row::alone(&format!("{}: {what}", stack.name), unit, &[value], budget)
        };
        let mut rows = vec![
            row("memory charged, awake".to_owned(), "MiB", per(self.charged()? - empty), None),
            row("kernel memory beside it".to_owned(), "KiB", kernel, None),
        ];
        let depths = [Depth::Paused, Depth::Paged, Depth::Snapshot, Depth::Cold];
        for depth in depths.into_iter().filter(|depth| has_swap || *depth != Depth::Paged) {
            let mut statuses = Vec::new();
            for id in &ids {
                statuses.push(self.sleep(id, depth).await?);
            }
            let charged = per(self.charged()? - empty);
            eprintln!("    {}, {depth}: {charged:.2} MiB each", stack.name);
            rows.push(row(format!("memory charged, {depth}"), "MiB", charged, None));
            let sum = |of: fn(&InstanceStatus) -> Option<MemoryBytes>| {
                per(statuses.iter().filter_map(of).map(|size| size.0 as f64).sum())
            };
            match depth {
                Depth::Paged => rows.push(row("in swap, paged".to_owned(), "MiB", sum(|status| status.in_swap), None)),
                Depth::Snapshot => {
                    rows.push(row("snapshot on disk".to_owned(), "MiB", sum(|status| status.on_disk), None));
                    rows.push(row(
                        "all on disk, snapshot".to_owned(),
                        "MiB",
                        on_disk(&instances) / each as f64 / MIB,
                        None,
                    ));
                }
                Depth::Paused | Depth::Cold => {}
            }
        }
        for id in &ids {
            let path = format!("/v1/instances/{id}?epoch=1");
            self.client.call::<()>(Method::DELETE, &path, None::<&()>).await?;
        }
        Ok(rows)
    }

    /// Fills the node with sleepers on disk, and wakes random ones.
    async fn many(&self, world: &World, stacks: &[Stack], plan: Plan) -> anyhow::Result<Vec<Row>> {
        let whole: usize = stacks.iter().map(|stack| stack.share).sum();
        let stack_of = |number: usize| {
            let mut place = number % whole;
            stacks.iter().position(|stack| match place.checked_sub(stack.share) {
                Some(left) => {
                    place = left;
                    false
                }
                None => true,
            })
        };
        let (empty, kernel_empty, began) = (self.charged()?, kernel_memory()?, Instant::now());
        let instances = world.base().join("agent/instances");
        let disk_empty = on_disk(&instances);
        for first in (0..plan.sleepers).step_by(BATCH) {
            let batch = first..plan.sleepers.min(first + BATCH);
            for number in batch.clone() {
                self.put(&format!("m{number}"), &stacks[stack_of(number).unwrap_or(0)].image).await?;
            }
            let ids: Vec<String> = batch.map(|number| format!("m{number}")).collect();
            for status in self.ready(&ids).await? {
                visit(address(&status)?).await?;
                self.sleep(status.id.as_str(), Depth::Snapshot).await?;
            }
            if first % 200 == 0 {
                eprintln!("    {first} sleep, after {} s", began.elapsed().as_secs());
            }
        }
        let all: Vec<InstanceStatus> = self.client.get("/v1/instances").await?;
        let asleep = all.iter().filter(|status| status.on_disk.is_some()).count();
        let each = |bytes: f64| bytes / asleep as f64;
        let mut rows = vec![
            Row::alone("sleepers on disk", "apps", &[asleep as f64], None),
            Row::alone("memory charged to each sleeper", "KiB", &[each(self.charged()? - empty) / 1024.0], Some(512.0)),
            Row::alone("kernel memory of each sleeper", "KiB", &[each(kernel_memory()? - kernel_empty) / 1024.0], None),
            Row::alone("disk of each sleeper", "MiB", &[each(on_disk(&instances) - disk_empty) / MIB], None),
            Row::alone("memory of the agent", "MB", &[proportional(world.agent_process().pid)? / 1e6], Some(40.0)),
        ];
        let (times, cold) = self.wakes(plan, &stack_of).await?;
        for (place, stack) in stacks.iter().enumerate() {
            let mut own: Vec<f64> = times.iter().filter(|(of, _)| *of == place).map(|(_, took)| *took).collect();
            own.sort_by(f64::total_cmp);
            let at =
                |part: f64| own.get(((own.len() as f64 * part) as usize).min(own.len().saturating_sub(1))).copied();
            if let (Some(middle), Some(late)) = (at(0.5), at(0.95)) {
                let name = format!("{}: wake from disk under load", stack.name);
                rows.push(Row::alone(&format!("{name}, p50 of {}", own.len()), "ms", &[middle], None));
                rows.push(Row::alone(&format!("{name}, p95"), "ms", &[late], None));
            }
        }
        rows.push(Row::alone("wakes that were cold starts", "wakes", &[cold as f64], Some(0.0)));
        Ok(rows)
    }

    /// Milliseconds from the demand to the first byte, by stack; how many were no restores.
    async fn wakes(
        &self,
        plan: Plan,
        stack_of: &impl Fn(usize) -> Option<usize>,
    ) -> anyhow::Result<(Vec<(usize, f64)>, usize)> {
        let busy = "m0".to_owned();
        self.demand(&busy).await?;
        let awake = address(&self.ready(&[busy]).await?.remove(0))?;
        let over = Arc::new(AtomicBool::new(false));
        let load = {
            let over = Arc::clone(&over);
            tokio::spawn(async move {
                while !over.load(Ordering::Relaxed) {
                    let _ = visit(awake).await;
                }
            })
        };
        let mut left = chosen(plan);
        let (mut times, mut under_way) = (Vec::new(), JoinSet::new());
        let mut cold = 0;
        loop {
            while under_way.len() < WAKERS
                && let Some(number) = left.pop()
            {
                let node = self.clone();
                under_way.spawn(async move {
                    let id = format!("m{number}");
                    let began = Instant::now();
                    let woken = node.demand(&id).await?;
                    while visit(woken).await.is_err() {
                        anyhow::ensure!(began.elapsed() < PATIENCE, "{id} never answers");
                        tokio::time::sleep(Duration::from_micros(500)).await;
                    }
                    let took = began.elapsed().as_secs_f64() * 1e3;
                    node.ready(std::slice::from_ref(&id)).await?;
                    let asleep = node.sleep(&id, Depth::Snapshot).await?;
                    anyhow::Ok((number, took, asleep.restarts))
                });
            }
            let Some(woken) = under_way.join_next().await else { break };
            let (number, took, restarts) = woken??;
            cold += usize::from(restarts > 0);
            times.push((stack_of(number).unwrap_or(0), took));
        }
        over.store(true, Ordering::Relaxed);
        load.await?;
        let mut events = self.client.lines::<drowse_api::event::AgentEvent>("/v1/events").await?;
        while let Ok(Ok(Some(event))) = tokio::time::timeout(Duration::from_millis(500), events.next()).await {
            cold += usize::from(event.message.contains("is started anew"));
        }
        Ok((times, cold))
    }
}

/// Random sleepers, no one twice, and as many of each tenth of all.
fn chosen(plan: Plan) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut numbers: Vec<usize> = (1..plan.sleepers).collect();
    for place in (1..numbers.len()).rev() {
        // Xorshift: any spread will do.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        numbers.swap(place, usize::try_from(state % (place as u64 + 1)).unwrap_or_default());
    }
    // The larger stacks are the last two of ten; half of the wakes are theirs.
    let (large, mut small): (Vec<usize>, Vec<usize>) = numbers.into_iter().partition(|number| number % 10 >= 8);
    small.truncate(plan.wakes / 2);
    small.extend(large.into_iter().take(plan.wakes - plan.wakes / 2));
    small
}

fn address(status: &InstanceStatus) -> anyhow::Result<SocketAddr> {
    status.address.context("it has no address")
}

/// Asks for its page, and reads the first byte of the answer.
async fn visit(address: SocketAddr) -> anyhow::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: sleeper\r\nConnection: close\r\n\r\n").await?;
    let mut byte = [0];
    anyhow::ensure!(stream.read(&mut byte).await? == 1, "{address} answers nothing");
    Ok(())
}
