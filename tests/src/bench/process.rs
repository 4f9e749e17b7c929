//! Programs that a benchmark starts, and what the kernel counts about them.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Everything that was started and has not ended, so that an interrupted benchmark can end it.
static RUNNING: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// A program that ends when this is dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    name: &'static str,
}

impl Program {
    /// Starts it, silent but for its errors, with a pipe as its input that closes when we end.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(name: &'static str, command: &mut Command) -> anyhow::Result<Program> {
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let program = Program { child, name };
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).push(program.pid());
        Ok(program)
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends before, or does not within 10 s.
    pub fn wait_for(&mut self, address: SocketAddr) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!("{} ended at once: {status}", self.name);
            }
            anyhow::ensure!(Instant::now() < deadline, "{} does not listen on {address}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Its process and all below it.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let mut all = vec![self.pid()];
        let parents: Vec<(i32, i32)> = processes().filter_map(|pid| Some((pid, stat(pid)?.parent))).collect();
        let mut at = 0;
        while let Some(parent) = all.get(at).copied() {
            all.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(pid, _)| *pid));
            at += 1;
        }
        all
    }

    /// Processor time of all its processes and threads so far.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        self.pids().into_iter().filter_map(stat).map(|stat| stat.cpu).sum()
    }

    /// Anonymous memory of all its processes: user space, without files and without the kernel's part.
    #[must_use]
    pub fn anonymous(&self) -> u64 {
        let of = |pid: i32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        self.pids().into_iter().filter_map(of).sum::<u64>() * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.pid());
        // It may have ended already: then there is nothing to do.
        let _ = kill(pid, Signal::SIGTERM);
        let deadline = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        RUNNING.lock().unwrap_or_else(PoisonError::into_inner).retain(|running| *running != pid.as_raw());
    }
}

/// Ends everything that was started and still runs.
pub fn end_all() {
    for pid in RUNNING.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGTERM);
    }
}

/// A loopback address that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// How many tasks wanted a processor in the last minute (proc_loadavg(5)).
#[must_use]
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or(f64::NAN)
}

/// Lets this process and those it starts have as many descriptors as they may.
///
/// # Errors
/// When the limit cannot be read or raised.
pub fn raise_descriptors() -> anyhow::Result<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

struct Stat {
    parent: i32,
    cpu: Duration,
}

/// `/proc/PID/stat` (proc(5)): parent, and utime + stime of all threads.
fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    let cpu = Duration::from_secs_f64(ticks as f64 / per_second as f64);
    Some(Stat { parent: fields.get(1)?.parse().ok()?, cpu })
}

fn processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}
