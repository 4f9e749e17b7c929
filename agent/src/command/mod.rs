//! Commands that users run: beside an app in its sandbox (`exec`, `cp`), or in a sandbox of their own
//! (`run`). Each is joined to the client that asked for it and ends with it.
//!
//! A command has a group of its own. What is left in it when the command ends, its client goes or the
//! agent ends is killed; what an agent that was killed has left, the next one finds by these groups.

mod cage;
pub mod hook;
mod run;
mod session;
mod start;
mod usage;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drowse_api::exec::{ExecRequest, Job, MAX_COMMAND, Terminal};
use drowse_api::instance::{InstanceStatus, Workload};
use drowse_api::{AppName, ErrorCode, InstanceId, Problem};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::cage::sweep;
pub use self::start::Running;
use crate::addresses::Addresses;
use crate::host::Node;
use crate::instance::record;

/// Commands at once on this node, and beside one instance.
const MOST: usize = 128;
const MOST_BESIDE: usize = 16;
/// How long commands have to be gone when the agent ends.
const END: Duration = Duration::from_secs(2);

/// How many commands run beside each instance. A std lock, held for a look.
type Counts = Arc<Mutex<BTreeMap<InstanceId, usize>>>;

/// The commands of this node. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    node: Node,
    addresses: Arc<Addresses>,
    seats: Arc<Semaphore>,
    beside: Counts,
    /// Commands with sandboxes of their own, by the id of these. A std lock, held for a look.
    runs: Arc<Mutex<BTreeMap<InstanceId, AppName>>>,
    end: CancellationToken,
    tasks: TaskTracker,
}

/// A place among the commands, given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    _one: OwnedSemaphorePermit,
    beside: Option<(Counts, InstanceId)>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((counts, id)) = &self.beside else { return };
        let mut counts = lock(counts);
        match counts.get_mut(id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(id)),
        }
    }
}

impl Commands {
    /// None yet.
    #[must_use]
    pub fn new(node: Node, addresses: Arc<Addresses>) -> Self {
        Self {
            node,
            addresses,
            seats: Arc::new(Semaphore::new(MOST)),
            beside: Arc::default(),
            runs: Arc::default(),
            end: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Ends all of them, and waits a little until they are gone.
    pub async fn end(&self) {
        self.end.cancel();
        self.tasks.close();
        if tokio::time::timeout(END, self.tasks.wait()).await.is_err() {
            tracing::warn!("commands are still being ended; the next agent finishes it");
        }
    }

    /// Runs `work`, which sees to one command, to its end, whoever waits for it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// Takes a place, beside an instance if one is named.
    ///
    /// # Errors
    /// `exhausted`.
    pub fn seat(&self, beside: Option<&InstanceId>) -> Result<Seat, Problem> {
        let full = |detail| Problem::new(ErrorCode::Exhausted, detail).hint("end one of them first");
        let one = Arc::clone(&self.seats).try_acquire_owned();
        let one = one.map_err(|_| full(format!("this node runs {MOST} commands already")))?;
        let Some(id) = beside else { return Ok(Seat { _one: one, beside: None }) };
        let mut counts = lock(&self.beside);
        let count = counts.entry(id.clone()).or_default();
        if *count >= MOST_BESIDE {
            return Err(full(format!("{MOST_BESIDE} commands run beside instance {id} already")));
        }
        *count += 1;
        Ok(Seat { _one: one, beside: Some((Arc::clone(&self.beside), id.clone())) })
    }

    /// Starts a command beside what runs for an instance.
    ///
    /// # Errors
    /// `not-running`, `command-not-found`, `not-executable`, what the host lacks.
    pub async fn beside(&self, status: InstanceStatus, request: ExecRequest) -> Result<Running, Problem> {
        check(&request)?;
        let node = self.node.clone();
        blocking(move || {
            let folder = crate::host::home::instances(&node.config).join(status.id.as_str());
            let kept = crate::durable::load(&record::path(&folder), record::MAGIC, record::VERSION);
            let kept = kept.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))?;
            let kept: crate::instance::host::Record =
                kept.ok_or_else(|| crate::instance::registry::not_found(&status.id))?;
            if kept.life.spec.workload == Workload::Site {
                let detail = format!("{} is a static site: its files are served, and nothing of it runs", status.app);
                return Err(Problem::new(ErrorCode::NotRunning, detail));
            }
            start::beside(&node, &kept, &request)
        })
        .await
    }
}

/// Refuses what cannot be started anywhere.
fn check(request: &ExecRequest) -> Result<(), Problem> {
    let bad = |detail: &str| Err(Problem::new(ErrorCode::BadRequest, detail));
    match &request.job {
        Job::Command(words) => {
            let (most, bytes) = MAX_COMMAND;
            if words.len() > most || words.iter().map(String::len).sum::<usize>() > bytes {
                return bad("the command is too long");
            }
            if words.iter().any(|word| word.contains('\0')) {
                return bad("the command holds a zero byte");
            }
            if words.first().is_some_and(String::is_empty) {
                return bad("the command's name is empty");
            }
        }
        Job::Read { path } | Job::Write { path, .. } => {
            if request.terminal.is_some() {
                return bad("files are not copied by way of a terminal");
            }
            if path.as_os_str().is_empty() || path.as_os_str().as_encoded_bytes().contains(&0) {
                return bad("the path is empty or holds a zero byte");
            }
        }
    }
    if let Job::Write { name, .. } = &request.job
        && (name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']))
    {
        return bad("the name of what is copied is not one");
    }
    Ok(())
}

/// TERM for programs inside.
fn terminal_kind(terminal: &Terminal) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._+".contains(&byte);
    let fits = (1..=64).contains(&terminal.kind.len()) && terminal.kind.bytes().all(is_plain);
    if fits { terminal.kind.clone() } else { "xterm".to_owned() }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Problem::new(ErrorCode::Internal, error.to_string())))
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last part of a path, for messages.
fn shown(path: &Path) -> String {
    path.to_string_lossy().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_started_is_refused_at_once() {
        let job = |job| check(&ExecRequest { job, terminal: None }).map_err(|problem| problem.code);
        assert_eq!(job(Job::Command(vec![])), Ok(()));
        assert_eq!(job(Job::Command(vec!["a\0b".to_owned()])), Err(ErrorCode::BadRequest));
        assert_eq!(job(Job::Command(vec![String::new()])), Err(ErrorCode::BadRequest));
        assert_eq!(job(Job::Command(vec!["x".to_owned(); 5000])), Err(ErrorCode::BadRequest));
        assert_eq!(job(Job::Write { path: "/tmp".into(), name: "..".to_owned() }), Err(ErrorCode::BadRequest));
        assert_eq!(job(Job::Read { path: "".into() }), Err(ErrorCode::BadRequest));
    }

    #[test]
    fn a_terminal_has_a_plain_name() {
        let size = drowse_api::exec::WindowSize { rows: 24, columns: 80 };
        let kind = |kind: &str| terminal_kind(&Terminal { size, kind: kind.to_owned() });
        assert_eq!(["xterm-256color", "", "a b", "../x"].map(kind), ["xterm-256color", "xterm", "xterm", "xterm"]);
    }
}
