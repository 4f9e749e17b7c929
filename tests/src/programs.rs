//! Real programs, as people deploy them (`tests/programs`). Each answers at `/` with `pid=P count=N`: which
//! process that was, and how often it was asked, as it has that in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drowse_api::ErrorCode;
use drowse_api::deployment::{AppType, DeploymentState};
use drowse_api::instance::InstanceState;
use drowse_api::platform::{AppView, DeploymentView};
use drowse_api::sleep::{Depth, SleepCommand};
use http::Method;
use tempfile::TempDir;

use crate::world::{World, main_process};
use crate::{machine, visit};

/// One of them.
#[derive(Debug)]
pub struct Program {
    /// Its folder's name, and its app's.
    pub name: &'static str,
    /// In a few words.
    pub what: &'static str,
    /// Its type.
    pub app_type: AppType,
}

const fn program(name: &'static str, app_type: AppType, what: &'static str) -> Program {
    Program { name, what, app_type }
}

/// All of them.
pub const ALL: [Program; 11] = [
    program("gunicorn", AppType::Python, "Flask under gunicorn with 2 workers"),
    program("uvicorn", AppType::Python, "FastAPI under uvicorn, its pool of threads"),
    program("django", AppType::Python, "Django with SQLite"),
    program("express", AppType::Npm, "Express"),
    program("node-workers", AppType::Npm, "Node with worker threads and a keep-alive client"),
    program("java", AppType::Docker, "Java, OpenJDK 17 by a Dockerfile"),
    program("go", AppType::Docker, "Go, a static binary by a Dockerfile"),
    program("bash", AppType::Python, "bash with children and a .profile"),
    program("postgres", AppType::Python, "a pool of connections to PostgreSQL outside"),
    program("objects", AppType::Python, "inotify, epoll, eventfd, timerfd, sockets, unlinked files, shared memory"),
    program("threads", AppType::Python, "200 threads"),
];

/// The program of this name.
///
/// # Errors
/// When there is none.
pub fn of(name: &str) -> Result<&'static Program> {
    let names = || ALL.iter().map(|program| program.name).collect::<Vec<_>>().join(", ");
    ALL.iter().find(|program| program.name == name).with_context(|| format!("there is no program {name}: {}", names()))
}

impl Program {
    /// Whether it needs the address of a database, in `DATABASE_URL`.
    #[must_use]
    pub fn needs_database(&self) -> bool {
        self.name == "postgres"
    }

    /// Whether it is one of those that must be put to disk and come back.
    #[must_use]
    pub fn must_reach_disk(&self) -> bool {
        !matches!(self.name, "node-workers" | "java" | "objects")
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        machine::repository().join("tests/programs").join(self.name)
    }

    /// Deploys it under its name, with these variables set by its `.profile`.
    ///
    /// # Errors
    /// With the end of the build's log.
    pub async fn deploy(&self, world: &World, variables: &[(&str, &str)]) -> Result<()> {
        let copy = TempDir::with_prefix("drowse-program-")?;
        let copied = Command::new("cp").arg("-a").arg(self.folder().join(".")).arg(copy.path()).status()?;
        ensure!(copied.success(), "cannot copy {}", self.folder().display());
        if !variables.is_empty() {
            let lines: String = variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
            std::fs::write(copy.path().join(".profile"), lines)?;
        }
        let deployed = world.try_deploy_folder(self.name, self.app_type, copy.path()).await;
        let deployed = deployed.map_err(|problem| anyhow::anyhow!("{} was refused: {problem}", self.name))?;
        let tail = deployed.log.iter().rev().take(30).rev().cloned().collect::<Vec<_>>().join("\n");
        let DeploymentView { state, problem, .. } = &deployed.deployment;
        ensure!(state.state == DeploymentState::Ready, "{} is {:?}: {problem:?}\n{tail}", self.name, state.state);
        Ok(())
    }
}

/// A program that is deployed, and what it is known to have in memory.
#[derive(Debug)]
pub struct Deployed {
    /// Which.
    pub program: &'static Program,
    /// Its processes, by their pids on the host, when it was deployed.
    pub processes: Vec<i32>,
    /// Where its instance has its files.
    pub folder: PathBuf,
    memory: Memory,
}

/// How a sleep that was asked for ended, and after how long.
pub type Slept = std::result::Result<Duration, String>;

impl Deployed {
    /// Deploys it, and uses it for a while.
    ///
    /// # Errors
    /// When it does not serve.
    pub async fn new(world: &World, program: &'static Program, variables: &[(&str, &str)]) -> Result<Self> {
        program.deploy(world, variables).await?;
        let status = world.instance(program.name).await;
        let main = main_process(&status).context("it has no process")?;
        let processes = tree(main.pid);
        let folder = world.base().join(format!("agent/instances/{}", status.id));
        let memory = Memory::of(processes.iter().filter_map(|pid| inside(*pid)));
        let mut deployed = Self { program, processes, folder, memory };
        for _ in 0..30 {
            deployed.visit(world).await?;
        }
        Ok(deployed)
    }

    /// Puts it to sleep so deeply: how long that took, or why it does not sleep so.
    ///
    /// # Errors
    /// When it neither sleeps nor says why.
    pub async fn sleep(&self, world: &World, depth: Depth) -> Result<Slept> {
        const LIMIT: Duration = Duration::from_secs(60);
        let (path, command) = (format!("/v1/apps/{}/sleep", self.program.name), SleepCommand { depth });
        let began = Instant::now();
        loop {
            let asked = Instant::now();
            let slept = world.controller().call::<AppView>(Method::POST, &path, Some(&command)).await;
            let took = asked.elapsed();
            let status = world.instance(self.program.name).await;
            if matches!(status.state, InstanceState::Frozen { depth: found, .. } if found == depth) {
                return Ok(Ok(took));
            }
            if let (Depth::Snapshot, Some(why)) = (depth, &status.no_snapshot) {
                return Ok(Err(why.clone()));
            }
            match slept {
                Err(problem) if problem.detail.contains("cannot be put to sleep as deeply") => {
                    let why = problem.detail.rsplit_once(&format!("as {depth}: "));
                    return Ok(Err(why.map_or(problem.detail.as_str(), |(_, why)| why).to_owned()));
                }
                // No node offers it to anybody yet.
                Err(problem) if problem.code == ErrorCode::BadRequest => return Ok(Err(problem.detail)),
                // A visit may be only just over.
                other => {
                    ensure!(began.elapsed() < LIMIT, "{} does not sleep: {other:?}, {status:?}", self.program.name);
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks for what sleeps: the time to the first byte. It must have slept so deeply, and must go on from
    /// where it was unless it was cold.
    ///
    /// # Errors
    /// When it was started anew, or does not answer.
    pub async fn wake(&mut self, world: &World, depth: Depth) -> Result<Duration> {
        if depth == Depth::Cold {
            self.memory = Memory::default();
        }
        let name = self.program.name;
        let (took, woken) = self.visit(world).await.with_context(|| format!("{name}, woken from {depth}"))?;
        if woken != format!("woken-{depth}") {
            let events: Vec<_> = world.events(name).await.into_iter().map(|event| event.message).collect();
            bail!("{name} slept {depth} and is {woken:?}: {events:#?}");
        }
        Ok(took)
    }

    /// One visit: the time to the first byte, and what the router says it was woken from.
    ///
    /// # Errors
    /// When it does not answer as it should.
    pub async fn visit(&mut self, world: &World) -> Result<(Duration, String)> {
        let visitor = world.visitor();
        let answer = visit::get(visitor.router(), &visitor.host(self.program.name), "/").await?;
        self.memory.expect(&answer.body)?;
        Ok((answer.first_byte, answer.header("x-drowse-state").unwrap_or_default().to_owned()))
    }

    /// Where its snapshot is, while it has one.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.folder.join("snapshot")
    }
}

/// A process and all below it.
fn tree(pid: i32) -> Vec<i32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        for task in std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
        }
        at += 1;
    }
    all
}

/// A process's pid in its own namespace.
fn inside(pid: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().next_back()?.parse().ok()
}

/// What a program has in memory, by what it answered so far.
#[derive(Debug, Default)]
pub struct Memory {
    /// How often each of its processes was asked.
    counts: BTreeMap<i32, u64>,
    /// Those that there were, where that is known.
    processes: BTreeSet<i32>,
}

impl Memory {
    /// Of a program that has these processes, by their pids inside, and no others.
    #[must_use]
    pub fn of(processes: impl IntoIterator<Item = i32>) -> Self {
        Self { counts: BTreeMap::new(), processes: processes.into_iter().collect() }
    }

    /// That the answer is of a process that goes on from where it was.
    ///
    /// # Errors
    /// When it has forgotten something, or is another one.
    pub fn expect(&mut self, answer: &str) -> Result<()> {
        let number = |name: &str| {
            let word = answer.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.with_context(|| format!("no {name} in {answer:?}"))
        };
        let (pid, count): (i32, u64) = (number("pid")?.parse()?, number("count")?.parse()?);
        ensure!(self.processes.is_empty() || self.processes.contains(&pid), "process {pid} is another: {answer}");
        let before = self.counts.insert(pid, count).unwrap_or_default();
        ensure!(count == before + 1, "process {pid} was asked {before} times before, and says {answer:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_forgotten_is_noticed() {
        let mut memory = Memory::of([7, 8]);
        memory.expect("pid=7 count=1").expect("new");
        memory.expect("pid=7 count=2 threads=5").expect("goes on");
        memory.expect("pid=8 count=1").expect("another worker");
        assert!(memory.expect("pid=7 count=1").is_err(), "started anew");
        assert!(memory.expect("pid=9 count=1").is_err(), "another process");
        assert!(memory.expect("hello").is_err());
    }

    #[test]
    fn every_program_has_its_folder() {
        for program in &ALL {
            assert!(program.folder().is_dir(), "{}", program.name);
        }
    }
}
