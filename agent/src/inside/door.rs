//! The sockets by which apps hold leases: one for each instance that runs.
//!
//! Whoever is at the other end is hostile: a connection may send a few short lines in a short time,
//! there are few of them at once, what it passes beside its bytes is thrown away by the kernel, and the
//! number that it may begin in a second is bounded.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drowse_api::InstanceId;
use drowse_rootfs::IdRange;
use jiff::Timestamp;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::lease::{Asked, Leases};
use crate::host::error::SandboxError;
use crate::host::home::Home;

/// How many connections of one instance, and of all, are served at once.
const CONNECTIONS: usize = 4;
const ALL_CONNECTIONS: usize = 64;
/// The longest line, and how many a connection may send.
const LINE: usize = 128;
const LINES: usize = 32;
/// Bytes that are read of what is not answered any more.
const UNHEARD: usize = 64 << 10;
/// How long a connection may last.
const TIME: Duration = Duration::from_secs(10);
/// How long passes at least between two connections of an instance.
const PAUSE: Duration = Duration::from_millis(10);

/// All of them. Cheap to clone.
#[derive(Clone)]
pub struct Doors {
    runtime: Handle,
    // Held for map operations only.
    open: Arc<Mutex<BTreeMap<InstanceId, Door>>>,
    room: Arc<Semaphore>,
    held: mpsc::UnboundedSender<InstanceId>,
}

struct Door {
    leases: Arc<Mutex<Leases>>,
    _task: AbortOnDropHandle<()>,
}

/// What the task of one door has.
struct Keeper {
    id: InstanceId,
    ids: IdRange,
    leases: Arc<Mutex<Leases>>,
    /// Where they are kept for the next agent of this boot.
    file: PathBuf,
    held: mpsc::UnboundedSender<InstanceId>,
}

impl Doors {
    /// No door yet. The receiver is told of every instance that was given a lease.
    ///
    /// # Panics
    /// Outside of a runtime.
    #[must_use]
    pub fn new() -> (Self, mpsc::UnboundedReceiver<InstanceId>) {
        let (held, told) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(ALL_CONNECTIONS));
        (Self { runtime: Handle::current(), open: Arc::default(), room, held }, told)
    }

    /// Opens the door of an instance, with the leases that an earlier agent left; `anew`: its processes
    /// begin, and hold none. One that is open stays so. Blocking.
    ///
    /// # Errors
    /// If the socket cannot be made.
    pub fn open(&self, id: &InstanceId, home: &Home, ids: IdRange, anew: bool) -> Result<(), SandboxError> {
        let file = home.run.join("lease");
        if let Some(door) = self.lock().get(id) {
            if anew {
                *lock(&door.leases) = Leases::default();
                let _ = std::fs::remove_file(&file);
            }
            return Ok(());
        }
        let kept = || serde_json::from_slice(&std::fs::read(&file).ok()?).ok();
        let leases: Leases = if anew { Leases::default() } else { kept().unwrap_or_default() };
        if anew {
            let _ = std::fs::remove_file(&file);
        }
        let path = home.inside().join("lease");
        let listener = bind(&path).map_err(|source| SandboxError::io("make the socket", &path, source))?;
        let leases = Arc::new(Mutex::new(leases));
        let keeper = Keeper { id: id.clone(), ids, leases: Arc::clone(&leases), file, held: self.held.clone() };
        let task = self.runtime.spawn(serve(listener, Arc::new(keeper), Arc::clone(&self.room)));
        self.lock().insert(id.clone(), Door { leases, _task: AbortOnDropHandle::new(task) });
        Ok(())
    }

    /// Closes it, and forgets the leases.
    pub fn close(&self, id: &InstanceId) {
        self.lock().remove(id);
    }

    /// Until when an instance is to be kept awake, if it is.
    #[must_use]
    pub fn lease(&self, id: &InstanceId) -> Option<Timestamp> {
        let leases = Arc::clone(&self.lock().get(id)?.leases);
        lock(&leases).until(Timestamp::now())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Door>> {
        lock(&self.open)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The folder is the agent's own: what is replaced is the socket of an agent that is gone.
fn bind(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    // Whatever user the app has: nobody else sees it.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
    Ok(listener)
}

async fn serve(listener: std::os::unix::net::UnixListener, keeper: Arc<Keeper>, room: Arc<Semaphore>) {
    let Ok(listener) = UnixListener::from_std(listener) else { return };
    let own = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Nobody takes the room of others: an instance waits for its own first.
        let Ok(seat) = Arc::clone(&own).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) if keeper.may(&stream) => {
                let (keeper, room) = (Arc::clone(&keeper), Arc::clone(&room));
                tokio::spawn(async move {
                    let place = room.acquire_owned().await;
                    // Whoever has not finished by then is closed.
                    let _ = tokio::time::timeout(TIME, keeper.answer(stream)).await;
                    drop((seat, place));
                });
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(instance = %keeper.id, "a connection for a lease failed: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A connection that is closed with something unread is cut off, and the answer with it: what is still said
/// is read, to a bound, and forgotten.
async fn hear_out(stream: &mut UnixStream) {
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    for _ in 0..UNHEARD / rest.len() {
        match stream.read(&mut rest).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

impl Keeper {
    /// Whether that is a process of the instance's user, or the host's root.
    fn may(&self, stream: &UnixStream) -> bool {
        let Ok(peer) = stream.peer_cred() else { return false };
        let last = self.ids.first.saturating_add(self.ids.count);
        peer.uid() == 0 || (self.ids.first..last).contains(&peer.uid())
    }

    async fn answer(&self, mut stream: UnixStream) {
        let mut buffer = [0_u8; LINE];
        let mut filled = 0;
        let mut lines = 0;
        while lines < LINES {
            let length = match stream.read(&mut buffer[filled..]).await {
                Ok(length) => length,
                Err(_) => return,
            };
            filled += length;
            // A last line may end with the connection.
            let end = buffer[..filled].iter().position(|byte| *byte == b'\n');
            let end = match (end, length) {
                (Some(end), _) => end,
                (None, 0) if filled > 0 => filled,
                (None, 0) => return,
                (None, _) if filled == LINE => {
                    let _ = stream.write_all(b"error: the line is too long\n").await;
                    return hear_out(&mut stream).await;
                }
                (None, _) => continue,
            };
            let (mut begin, mut end) = (0, Some(end));
            while let Some(at) = end {
                lines += 1;
                let said = self.follow(&buffer[begin..at]);
                if stream.write_all(said.as_bytes()).await.is_err() || lines >= LINES {
                    return hear_out(&mut stream).await;
                }
                begin = (at + 1).min(filled);
                end = buffer[begin..filled].iter().position(|byte| *byte == b'\n').map(|next| begin + next);
            }
            if length == 0 {
                return;
            }
            buffer.copy_within(begin..filled, 0);
            filled -= begin;
        }
    }

    fn follow(&self, line: &[u8]) -> String {
        let asked = std::str::from_utf8(line).map_err(|_| super::lease::LeaseError::Unknown).and_then(Asked::parse);
        let is_hold = matches!(asked, Ok(Asked::Hold(..)));
        let is_change = is_hold || matches!(asked, Ok(Asked::Release(_)));
        let mut leases = lock(&self.leases);
        let answer = asked.and_then(|asked| leases.follow(asked, Timestamp::now()));
        if is_change && answer.is_ok() {
            self.keep(&leases);
        }
        drop(leases);
        match answer {
            Ok(text) => {
                if is_hold {
                    let _ = self.held.send(self.id.clone());
                }
                format!("{text}\n")
            }
            Err(error) => format!("error: {error}\n"),
        }
    }

    /// In memory, as all of `run_dir` is: a lease ends with the boot, as the app does.
    fn keep(&self, leases: &Leases) {
        let fresh = self.file.with_extension("new");
        let written = serde_json::to_vec(leases)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&fresh, text))
            .and_then(|()| std::fs::rename(&fresh, &self.file));
        if let Err(error) = written {
            tracing::warn!(instance = %self.id, "a lease could not be kept for the next agent: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Place, Slice};
    use crate::network::Owner;
    use drowse_api::UserId;

    struct Bench {
        _folder: tempfile::TempDir,
        doors: Doors,
        told: mpsc::UnboundedReceiver<InstanceId>,
        home: Home,
        id: InstanceId,
        ids: IdRange,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let id = InstanceId::parse("one").expect("an id");
            let home = Home {
                place: Place::new(Slice::User(UserId::parse("user").expect("an id")), "one").expect("a place"),
                owner: Owner::instance(&id),
                folder: folder.path().to_owned(),
                run: folder.path().to_owned(),
            };
            std::fs::create_dir_all(home.inside()).expect("made");
            let (doors, told) = Doors::new();
            // Whoever runs the test.
            let ids = IdRange { first: rustix::process::getuid().as_raw(), count: 1 };
            let bench = Self { _folder: folder, doors, told, home, id, ids };
            bench.open(true);
            bench
        }

        fn open(&self, anew: bool) {
            self.doors.open(&self.id, &self.home, self.ids, anew).expect("open");
        }

        async fn connect(&self) -> UnixStream {
            UnixStream::connect(self.home.inside().join("lease")).await.expect("connects")
        }

        async fn say(&self, text: &[u8]) -> String {
            let mut stream = self.connect().await;
            let _ = stream.write_all(text).await;
            let _ = stream.shutdown().await;
            let mut answer = String::new();
            let _ = stream.read_to_string(&mut answer).await;
            answer
        }
    }

    #[tokio::test]
    async fn lines_are_answered_and_a_lease_outlives_the_agent_but_not_the_process() {
        let mut bench = Bench::new();
        assert_eq!(bench.say(b"hold 10m\n").await, "held for 600 s\n");
        assert_eq!(bench.told.recv().await.as_ref(), Some(&bench.id));
        assert_eq!(bench.say(b"hold 5m job\nnonsense\nrelease").await.lines().count(), 3, "the last ends with it");
        assert!(bench.doors.lease(&bench.id).is_some());
        bench.doors.close(&bench.id);
        assert!(bench.doors.lease(&bench.id).is_none());
        bench.open(false);
        assert!(bench.say(b"status\n").await.starts_with("held: job for "));
        bench.open(true);
        assert_eq!(bench.say(b"status\n").await, "none\n");
    }

    #[tokio::test]
    async fn long_lines_many_lines_and_bytes_that_are_no_text_harm_nobody() {
        let bench = Bench::new();
        assert_eq!(bench.say(&[b'x'; 4096]).await, "error: the line is too long\n");
        assert!(bench.say(&[0xff, 0xfe, b'\n']).await.starts_with("error: "));
        let answers = bench.say("status\n".repeat(1000).as_bytes()).await;
        assert!(answers.lines().count() <= LINES, "{} answers", answers.lines().count());
        assert_eq!(bench.say(b"status\n").await, "none\n");
    }

    #[tokio::test]
    async fn who_takes_all_connections_waits_for_himself() {
        let bench = Bench::new();
        let mut held = Vec::new();
        for _ in 0..CONNECTIONS + 3 {
            held.push(bench.connect().await);
        }
        drop(held);
        assert_eq!(bench.say(b"status\n").await, "none\n");
    }

    #[tokio::test]
    async fn a_stranger_is_not_heard() {
        let mut bench = Bench::new();
        bench.doors.close(&bench.id);
        bench.ids = IdRange { first: 4_000_000, count: 1 };
        bench.open(true);
        let is_root = rustix::process::getuid().is_root();
        assert_eq!(bench.say(b"status\n").await.is_empty(), !is_root);
    }
}
