//! How what runs in a sandbox ends, and the sandbox itself: waited for, killed, told, taken down.

use std::time::{Duration, Instant};

use drowse_launcher::init::InitClient;
use fail::fail_point;

use super::error::SandboxError;
use super::home::{Home, remove_file, remove_folder};
use super::process;
use super::readiness::readable;
use super::sandbox::{Sandboxes, blocking};
use crate::cgroup::Leaf;
use crate::instance::state::App;

const EXIT_RECORD_WAIT: Duration = Duration::from_secs(2);
const KILL_WAIT: Duration = Duration::from_secs(10);
/// How long init may take to write the last lines of an app whose processes are all dead.
const LAST_LINES_WAIT: Duration = Duration::from_millis(500);

/// How a process in a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// As `wait(2)` tells it, if init could record it.
    pub status: Option<i32>,
    /// The kernel killed a process of the sandbox for want of memory.
    pub out_of_memory: bool,
    /// Other processes of it were there when it had ended.
    pub left_behind: bool,
}

impl Sandboxes {
    /// Waits until `app` is dead. Where the kernel kills one process for want of memory and leaves
    /// the others, the others are killed too: a half-dead app serves nobody.
    pub async fn ended(&self, home: &Home, app: App) {
        let notice = self.cgroups.watch_oom(&home.place).ok();
        let notice = notice.and_then(|fd| readable(fd).ok());
        let Some(notice) = notice else { return process::ended(app.identity).await };
        let before = self.kept(home).map_or(0, |kept| kept.kills_before);
        let ended = process::ended(app.identity);
        tokio::pin!(ended);
        loop {
            tokio::select! {
                () = &mut ended => return,
                ready = notice.readable() => {
                    let Ok(mut ready) = ready else { return ended.await };
                    let _ = rustix::io::read(notice.get_ref(), &mut [0_u8; 4096][..]);
                    ready.clear_ready();
                    self.kill_if_out_of_memory(home, before).await;
                }
            }
        }
    }

    /// The count follows the notice within milliseconds.
    async fn kill_if_out_of_memory(&self, home: &Home, before: u64) {
        for _ in 0..10 {
            if self.cgroups.oom_kills(&home.place).is_ok_and(|count| count > before) {
                if let Err(error) = self.cgroups.kill_app(&home.place) {
                    tracing::warn!(place = %home.place, "cannot kill the rest of an app: {error}");
                }
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Kills everything of the app, and says how its main process ended. Its last lines are in the log then.
    pub async fn collect(&self, home: &Home, app: App) -> Ended {
        let (this, home) = (self.clone(), home.clone());
        let ended = blocking(move || {
            let kept = this.kept(&home);
            let kills = this.cgroups.oom_kills(&home.place).unwrap_or_default();
            let others = this.cgroups.processes(&home.place, Leaf::App).unwrap_or_default();
            let left_behind = others.iter().any(|pid| *pid != app.identity.pid);
            // What main process ended by itself has its record already: the killing cannot change it.
            if let Err(error) = this.kill_app(&home) {
                tracing::error!(place = %home.place, "cannot kill an app: {error}");
            }
            let deadline = Instant::now() + EXIT_RECORD_WAIT;
            let mut status = process::recorded_exit(&home.exits(), app.pid_inside);
            while status.is_none()
                && Instant::now() < deadline
                && kept.as_ref().is_some_and(|kept| process::is_alive(kept.init))
            {
                std::thread::sleep(Duration::from_millis(2));
                status = process::recorded_exit(&home.exits(), app.pid_inside);
            }
            wait_for_last_lines(&home);
            let out_of_memory = kept.is_some_and(|kept| kept.boot_id == this.boot_id && kills > kept.kills_before);
            Ok(Ended { status, out_of_memory, left_behind })
        });
        ended.await.unwrap_or(Ended { status: None, out_of_memory: false, left_behind: false })
    }

    /// Takes the sandbox down: processes, link, groups, socket. The folder with what was written stays.
    ///
    /// # Errors
    /// Names the first step that failed; the others are done all the same.
    pub async fn clear(&self, home: &Home) -> Result<(), SandboxError> {
        let (this, owned) = (self.clone(), home.clone());
        let emptied = blocking(move || {
            fail_point!("sandbox-clear");
            this.empty(&owned)
        });
        let emptied = emptied.await;
        let detached = self.network.detach(&home.owner).await;
        let (this, owned) = (self.clone(), home.clone());
        let removed = blocking(move || {
            fail_point!("sandbox-emptied");
            // A group that is gone goes on being charged for files that its processes read.
            if let Err(error) = this.cgroups.drop_cache(&owned.place) {
                tracing::debug!(place = %owned.place, "what it read stays in memory: {error}");
            }
            this.cgroups.remove(&owned.place)?;
            remove_folder(&owned.run).map_err(|source| SandboxError::io("remove", &owned.run, source))
        });
        let removed = removed.await;
        emptied?;
        detached?;
        removed
    }

    /// Kills all that runs in the sandbox, init too, and forgets it.
    pub(super) fn empty(&self, home: &Home) -> Result<(), SandboxError> {
        self.cgroups.kill_all(&home.place)?;
        if let Some(kept) = self.kept(home) {
            // Also where a crash came between the clone and its attaching to a group.
            process::signal(kept.init, rustix::process::Signal::KILL);
        }
        self.wait_until_empty(home, &Leaf::ALL)?;
        let record = home.sandbox_record();
        remove_file(&record).map_err(|error| SandboxError::io("remove", &record, error))
    }

    pub(super) fn kill_app(&self, home: &Home) -> Result<(), SandboxError> {
        if !self.cgroups.is_populated(&home.place, Leaf::App)? {
            return Ok(());
        }
        self.cgroups.kill_app(&home.place)?;
        self.wait_until_empty(home, &[Leaf::App])
    }

    pub(super) fn is_populated(&self, home: &Home) -> Result<bool, SandboxError> {
        let [init, app] = Leaf::ALL.map(|leaf| self.cgroups.is_populated(&home.place, leaf));
        Ok(init? || app?)
    }

    fn wait_until_empty(&self, home: &Home, leaves: &[Leaf]) -> Result<(), SandboxError> {
        let deadline = Instant::now() + KILL_WAIT;
        for leaf in leaves {
            while self.cgroups.is_populated(&home.place, *leaf)? {
                if Instant::now() > deadline {
                    return Err(SandboxError::StillThere { place: home.place.clone(), waited: KILL_WAIT });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

/// Nobody writes to the app's pipes any more: init closes them when it has read them to the end.
fn wait_for_last_lines(home: &Home) {
    let deadline = Instant::now() + LAST_LINES_WAIT;
    let Ok(init) = InitClient::connect(&home.socket()) else { return };
    while init.state().is_ok_and(|state| state.open_pipes > 0) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}
