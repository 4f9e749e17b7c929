//! What an app runs itself when it is about to sleep and when it has woken: `.drowse/before-sleep` and
//! `.drowse/after-wake` in its folder. Beside it, as `drowse exec` would, for a bounded time; whatever
//! comes of it, the app sleeps and wakes as it would have.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use drowse_api::exec::{ExecRequest, ExitStatus, Job};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::start::{self, Ends, Running};
use crate::host::{Node, process};
use crate::instance::host::{Hook, Record};

/// How long one may take.
const LIMIT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(10);
/// How much of what it says is told where it failed.
const SAID: usize = 400;

/// Runs the hook, if the app has it. `Err` is a sentence about it. Dropped, it is ended.
///
/// # Errors
/// It could not be started, failed, or took too long.
pub async fn run(node: Node, record: Record, hook: Hook) -> Result<(), String> {
    struct Stop(Arc<AtomicBool>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let _stop = Stop(Arc::clone(&stop));
    let done = tokio::task::spawn_blocking(move || {
        if has(&node, &record, hook) { carry_out(&node, &record, hook, &stop) } else { Ok(()) }
    });
    done.await.unwrap_or_else(|error| Err(format!("its {hook} broke off: {error}")))
}

/// Whether there is such a program. No link of the app's leads out of its root.
fn has(node: &Node, record: &Record, hook: Hook) -> bool {
    let Some(root) = node.sandboxes.root_of(&node.home(&record.life.spec)) else { return false };
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let Ok(root) = rustix::fs::open(&root, flags | OFlags::DIRECTORY, Mode::empty()) else { return false };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = rustix::fs::openat2(&root, hook.path().trim_start_matches('/'), flags, Mode::empty(), resolve);
    let found = found.and_then(rustix::fs::fstat);
    found.is_ok_and(|found| found.st_mode & libc::S_IFMT == libc::S_IFREG && found.st_mode & 0o111 != 0)
}

fn carry_out(node: &Node, record: &Record, hook: Hook, stop: &AtomicBool) -> Result<(), String> {
    let request = ExecRequest { job: Job::Command(vec![hook.path().to_owned()]), terminal: None };
    let started = start::beside(node, record, &request);
    let Running { cage, main, ends, .. } = started.map_err(|problem| format!("its {hook} was not run: {problem}"))?;
    let cgroups = &*node.sandboxes.cgroups;
    let said = match ends {
        Some(Ends::Pipes { stdin, stdout, stderr }) => {
            drop(stdin);
            Vec::from([stdout, stderr].map(|end| std::thread::spawn(move || read(end))))
        }
        _ => Vec::new(),
    };
    let began = Instant::now();
    let is_over = || began.elapsed() >= LIMIT || stop.load(Ordering::SeqCst);
    while process::is_alive(main.identity) && !is_over() {
        std::thread::sleep(LOOK);
    }
    let in_time = !process::is_alive(main.identity);
    let status = if in_time { cage.status(main) } else { ExitStatus::Unknown };
    // What it leaves behind ends with it; its streams do, too.
    let ended = cage.kill(cgroups).and_then(|()| cage.remove(cgroups));
    let said: String = said.into_iter().filter_map(|reader| reader.join().ok()).collect();
    ended.map_err(|error| format!("its {hook} could not be ended: {error}"))?;
    if stop.load(Ordering::SeqCst) {
        return Ok(());
    }
    let said = if said.trim().is_empty() { String::new() } else { format!(": {}", said.trim()) };
    match (in_time, status) {
        (true, ExitStatus::Exited(0)) => Ok(()),
        (true, ExitStatus::Exited(code)) => Err(format!("its {hook} ended with {code}{said}")),
        (true, status) => Err(format!("its {hook} ended badly ({status:?}){said}")),
        (false, _) => Err(format!("its {hook} had not ended after {} s and was killed{said}", LIMIT.as_secs())),
    }
}

/// All that it says, of which the beginning is kept.
fn read(end: OwnedFd) -> String {
    let (mut file, mut kept, mut buffer) = (File::from(end), Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = file.read(&mut buffer) {
        let room = SAID.saturating_sub(kept.len()).min(length);
        kept.extend_from_slice(&buffer[..room]);
    }
    String::from_utf8_lossy(&kept).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
