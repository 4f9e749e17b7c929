//! The real [`Host`]: instances in sandboxes of their own, and sites at the node's file server.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use drowse_api::event::EventKind;
use drowse_api::instance::{BootCheck, InstanceSpec, InstanceStatus, Workload};
use drowse_api::sleep::Activity;
use drowse_rootfs::ImageStore;
use drowse_seal::Key;
use jiff::Timestamp;
use tokio::net::TcpStream;

use super::ask::ask;
use super::error::SandboxError;
use super::hibernate::Snapshots;
use super::home::{Home, remove_folder};
use super::paging::{SETTLES, Turn};
use super::sandbox::{Sandboxes, blocking};
use super::{hibernate, plan, process, profile, reached, sites};
use crate::config::Config;
use crate::durable::{self, DurableError};
use crate::events::EventLog;
use crate::identity::UserIds;
use crate::inside::{self, Doors};
use crate::instance::host::{Hook, Host, KeepError, Listening, Record, Written};
use crate::instance::record;
use crate::instance::state::{Exit, LaunchFailure, NotDumped, Running};
use crate::listening::{explain, listening};
use crate::logs;
use crate::pages;
use crate::snapshot::{Abort, SnapshotError, Subject, Taken};

/// How many lines of its log explain a failure.
const LAST_WORDS: usize = 50;
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// This host. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    /// How the agent is set up.
    pub config: Arc<Config>,
    /// Images.
    pub store: ImageStore,
    /// Host ids of users.
    pub users: Arc<UserIds>,
    /// Sandboxes.
    pub sandboxes: Sandboxes,
    /// What happened.
    pub events: Arc<EventLog>,
    /// Seals the secrets in records.
    pub key: Arc<Key>,
    /// What snapshots are made with, or why there are none.
    pub snapshots: Result<Snapshots, String>,
    /// Where apps hold leases.
    pub doors: Doors,
    /// Whose turn it is to be paged out.
    pub paging: Turn,
}

impl Node {
    /// Where an instance is on this host.
    #[must_use]
    pub fn home(&self, spec: &InstanceSpec) -> Home {
        if sites::is_server(&spec.id) {
            sites::sites_home(&self.config)
        } else {
            Home::instance(&self.config, &spec.user, &spec.id)
        }
    }

    async fn launch_process(&self, record: &Record) -> Result<Running, SandboxError> {
        let (node, owned) = (self.clone(), record.clone());
        let began = Instant::now();
        let home = self.home(&record.life.spec);
        let app = if sites::is_server(&record.life.spec.id) {
            let plan = blocking(move || plan::of_instance(&node, &owned)).await?;
            self.sandboxes.raise(&plan).await?;
            sites::restore_addresses(self).await?;
            self.sandboxes.run(&plan).await?
        } else {
            // In one go: a start is too short for handing it from thread to thread.
            let launched = blocking(move || {
                // What is started anew is another life: what an earlier one left on disk is not to come back.
                hibernate::forget(&home)?;
                let plan = plan::of_instance(&node, &owned)?;
                node.open_door(&owned, true)?;
                node.sandboxes.launch(&plan)
            });
            launched.await?
        };
        tracing::debug!(instance = %record.life.spec.id, took = ?began.elapsed(), "launched");
        Ok(Running::Process(app))
    }

    /// Opens what the app sees as `/run/drowse`; `anew`: its processes begin. Blocking.
    ///
    /// # Errors
    /// If something of it cannot be made.
    pub fn open_door(&self, record: &Record, anew: bool) -> Result<(), SandboxError> {
        let spec = &record.life.spec;
        let (home, ids) = (self.home(spec), self.users.range(&spec.user)?);
        let folder = home.inside();
        std::fs::create_dir_all(&folder).map_err(|source| SandboxError::io("make", &folder, source))?;
        self.doors.open(&spec.id, &home, ids, anew)?;
        self.tell_inside(record);
        Ok(())
    }

    /// Tells the app how it slept. Blocking, on a file in memory.
    fn tell_inside(&self, record: &Record) {
        let folder = self.home(&record.life.spec).inside();
        if let Err(error) = inside::state::write(&folder, record.life.slept.as_ref()) {
            tracing::debug!(instance = %record.life.spec.id, "it was not told how it slept: {error}");
        }
    }

    fn subject(record: &Record) -> Result<Subject, SandboxError> {
        let spec = &record.life.spec;
        let of_interest = (&spec.user, &spec.deployment, &spec.env, &spec.secrets, &spec.limits, record.address);
        let text = serde_json::to_vec(&of_interest).map_err(|error| SandboxError::Image(error.to_string()))?;
        Ok(Subject::here(spec.id.clone(), spec.image.clone(), &text)?)
    }

    async fn dump_process(&self, record: &Record, running: Running, abort: Arc<Abort>) -> Result<Taken, SandboxError> {
        let snapshots = self.snapshots.as_ref().map_err(|why| SandboxError::Image(why.clone()))?;
        let Running::Process(app) = running else { return Err(SandboxError::NoProcess) };
        let home = self.home(&record.life.spec);
        self.sandboxes.hibernate(&home, app, Self::subject(record)?, snapshots, abort).await
    }

    async fn restore_process(&self, record: &Record, taken: &Taken) -> Result<Running, SandboxError> {
        let snapshots = self.snapshots.as_ref().map_err(|why| SandboxError::Image(why.clone()))?;
        let (home, subject) = (self.home(&record.life.spec), Self::subject(record)?);
        let (node, owned) = (self.clone(), record.clone());
        blocking(move || node.open_door(&owned, false)).await?;
        if !self.sandboxes.stands(&home) {
            let (node, owned) = (self.clone(), record.clone());
            let plan = blocking(move || plan::of_instance(&node, &owned)).await?;
            match hibernate::clocks(&home, &subject, snapshots) {
                Some(clocks) => self.sandboxes.raise_at(&plan, clocks).await?,
                // The restore says what is wrong with it.
                None => self.sandboxes.raise(&plan).await?,
            }
        }
        self.sandboxes.restore(&home, subject, taken, snapshots).await.map(Running::Process)
    }

    /// What an instance that runs has used since it was started. Blocking.
    #[must_use]
    pub fn activity(&self, status: &InstanceStatus) -> Option<Activity> {
        let home = Home::instance(&self.config, &status.user, &status.id);
        let cpu = self.sandboxes.cgroups.usage(&home.place).ok()?.cpu;
        let traffic = self.sandboxes.network.traffic(&home.owner).unwrap_or_default();
        let age = status.process.and_then(process::age).unwrap_or_default();
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let lease = self.doors.lease(&status.id);
        Some(Activity { cpu: milliseconds(cpu), traffic, age: milliseconds(age), lease })
    }

    /// Whether the app of a paused instance stands still. If not it goes on for good: half of a sleep
    /// that an earlier agent began is not waited for.
    pub async fn stands_still(&self, spec: &InstanceSpec) -> bool {
        let (cgroups, place) = (Arc::clone(&self.sandboxes.cgroups), self.home(spec).place);
        let looked = blocking(move || {
            // The agent before this one may have been about to page it out.
            cgroups.let_swap(&place, false)?;
            let is_frozen = cgroups.is_frozen(&place)?;
            if !is_frozen {
                cgroups.thaw(&place)?;
            }
            Ok(is_frozen)
        });
        looked.await.unwrap_or_else(|error| {
            tracing::warn!(instance = %spec.id, "it is not known whether it sleeps: {}", error.in_full());
            false
        })
    }

    /// Whether an app that was being put to disk goes on after all: it is whole, nobody dumps it, and it does not
    /// stand still.
    pub async fn was_woken(&self, spec: &InstanceSpec, running: Running) -> bool {
        let Running::Process(app) = running else { return false };
        let (sandboxes, home) = (self.sandboxes.clone(), self.home(spec));
        let looked = blocking(move || {
            let is_dumped = sandboxes.is_traced(&home)?;
            Ok(process::is_alive(app.identity) && !is_dumped && !sandboxes.cgroups.is_frozen(&home.place)?)
        });
        looked.await.unwrap_or(false)
    }

    async fn take_down(&self, record: &Record) -> Result<(), SandboxError> {
        let spec = &record.life.spec;
        match spec.workload {
            Workload::Web => {
                let home = self.home(spec);
                self.doors.close(&spec.id);
                let cleared = self.sandboxes.clear(&home).await;
                // It comes back cold from here, so what is on disk is of no more use.
                cleared.and(blocking(move || hibernate::forget(&home)).await)
            }
            Workload::Site => sites::unpublish(self, record.address).await,
        }
    }
}

impl Host for Node {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn jitter(&self) -> f64 {
        let mut byte = [0_u8; 2];
        // Without it every delay is the middle one.
        let _ = getrandom::fill(&mut byte);
        f64::from(u16::from_le_bytes(byte)) / f64::from(u16::MAX)
    }

    async fn keep(&self, record: &Record) -> Result<(), KeepError> {
        self.write(record).await?.commit().await
    }

    async fn write(&self, record: &Record) -> Result<Written, KeepError> {
        let folder = self.home(&record.life.spec).folder;
        let kept = record::Kept::of(record.clone(), &self.key).map_err(|error| KeepError::Io(error.to_string()))?;
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder).map_err(|source| DurableError::Io {
                action: "make",
                path: folder.clone(),
                source,
            })?;
            durable::write(&record::path(&folder), record::MAGIC, record::VERSION, &kept)
        });
        let written = written.await.map_err(|error| KeepError::Io(error.to_string()))?.map_err(not_kept)?;
        Ok(Written::new(move || written.commit().map_err(not_kept)))
    }

    async fn launch(&self, record: &Record) -> Result<Running, LaunchFailure> {
        let launched = match record.life.spec.workload {
            Workload::Web => self.launch_process(record).await,
            Workload::Site => sites::publish(self, record).await.map(|()| Running::Published),
        };
        launched.map_err(|error| LaunchFailure { detail: error.in_full(), by_app: Sandboxes::is_by_app(&error) })
    }

    async fn gone(&self, record: &Record, running: Running) {
        match running {
            Running::Process(app) => {
                let home = self.home(&record.life.spec);
                tokio::select! {
                    () = self.sandboxes.ended(&home, app) => {}
                    never = reached::tell(self, &record.life.spec, &home) => match never {},
                }
            }
            Running::Published => pending().await,
        }
    }

    async fn accepts(&self, endpoint: SocketAddr) -> bool {
        matches!(tokio::time::timeout(CONNECT_LIMIT, TcpStream::connect(endpoint)).await, Ok(Ok(_)))
    }

    async fn answers(&self, endpoint: SocketAddr, boot: &BootCheck) -> Result<(), String> {
        match &boot.path {
            Some(path) => ask(endpoint, boot.host.as_deref(), path).await,
            None => Ok(()),
        }
    }

    fn port(&self, spec: &InstanceSpec) -> u16 {
        plan::port(self, spec)
    }

    async fn listening(&self, record: &Record, running: Running) -> Listening {
        let Running::Process(app) = running else {
            let text = "the node's file server does not answer at its address".to_owned();
            return Listening { text, is_wrong: false };
        };
        if profile::is_running(app.identity) {
            let text = ".profile, or a script in .profile.d, has not come to its end: the start command waits for it";
            return Listening { text: text.to_owned(), is_wrong: true };
        }
        match listening(app.identity.pid) {
            Ok(found) => Listening { text: explain(&found, record.port), is_wrong: !found.is_empty() },
            Err(_) => Listening { text: "it is gone".to_owned(), is_wrong: false },
        }
    }

    async fn limit(&self, record: &Record) {
        let spec = &record.life.spec;
        if spec.workload != Workload::Web {
            return;
        }
        let (node, owned) = (self.clone(), spec.clone());
        let limited = blocking(move || {
            let limits = plan::limits(&node, &owned)?;
            Ok(node.sandboxes.cgroups.create(&node.home(&owned).place, &limits)?)
        });
        if let Err(error) = limited.await {
            let text = format!("the new limits were not taken: {}", error.in_full());
            self.events.about(spec, EventKind::Node, text);
        }
    }

    async fn freeze(&self, record: &Record) -> Result<(), String> {
        let (cgroups, place) = (Arc::clone(&self.sandboxes.cgroups), self.home(&record.life.spec).place);
        let frozen = blocking(move || {
            fail::fail_point!("instance-freeze");
            cgroups.freeze(&place)?;
            fail::fail_point!("instance-frozen");
            Ok(())
        });
        frozen.await.map_err(|error| error.in_full())
    }

    async fn thaw(&self, record: &Record) -> Result<(), String> {
        let (node, record) = (self.clone(), record.clone());
        let thawed = blocking(move || {
            let (cgroups, place) = (&node.sandboxes.cgroups, node.home(&record.life.spec).place);
            node.tell_inside(&record);
            fail::fail_point!("instance-thaw");
            cgroups.thaw(&place)?;
            fail::fail_point!("instance-thawed");
            Ok(())
        });
        thawed.await.map_err(|error| error.in_full())
    }

    async fn hook(&self, record: &Record, hook: Hook) -> Result<(), String> {
        crate::command::hook::run(self.clone(), record.clone(), hook).await
    }

    fn no_paging(&self) -> Option<String> {
        pages::no_swap()
    }

    async fn page_out(&self, record: &Record, stop: Arc<AtomicBool>) -> Result<u64, String> {
        let (sandboxes, home) = (self.sandboxes.clone(), self.home(&record.life.spec));
        let turn = Arc::clone(&self.paging).acquire_owned().await.map_err(|error| error.to_string())?;
        let paged = blocking(move || {
            // Also when nobody waits for it any more: the next one begins when this one has ended.
            let _turn = turn;
            sandboxes.page_out(&home, &stop)
        });
        paged.await.map_err(|error| error.in_full())
    }

    async fn page_in(&self, record: &Record) {
        let (sandboxes, home) = (self.sandboxes.clone(), self.home(&record.life.spec));
        let fetched = blocking(move || {
            sandboxes.page_in(&home);
            Ok(())
        });
        if let Err(error) = fetched.await {
            tracing::warn!(instance = %record.life.spec.id, "its working set was not read back: {}", error.in_full());
        }
        let (sandboxes, home) = (self.sandboxes.clone(), self.home(&record.life.spec));
        tokio::spawn(async move {
            tokio::time::sleep(SETTLES).await;
            tokio::task::spawn_blocking(move || sandboxes.note_working_set(&home)).await
        });
    }

    fn no_snapshots(&self) -> Option<String> {
        self.snapshots.as_ref().err().cloned()
    }

    async fn dump(&self, record: &Record, running: Running, abort: Arc<Abort>) -> Result<Taken, NotDumped> {
        self.dump_process(record, running, abort).await.map_err(|error| match &error {
            SandboxError::Snapshot(SnapshotError::NoRoom { .. }) => NotDumped::NoRoom(error.in_full()),
            _ => NotDumped::Never(error.in_full()),
        })
    }

    async fn restore(&self, record: &Record, taken: &Taken) -> Result<Running, String> {
        self.restore_process(record, taken).await.map_err(|error| error.in_full())
    }

    async fn terminate(&self, record: &Record, running: Running) {
        if let Running::Process(app) = running {
            if let Err(error) = self.thaw(record).await {
                tracing::warn!(instance = %record.life.spec.id, "it may not hear that it is to end: {error}");
            }
            let (node, spec) = (self.clone(), record.life.spec.clone());
            let named = blocking(move || Ok(plan::stop_signal_of(&node, &spec))).await;
            process::signal(app.identity, named.unwrap_or(rustix::process::Signal::TERM));
        }
    }

    async fn collect(&self, record: &Record, running: Running) -> Exit {
        let Running::Process(app) = running else {
            return Exit { what: "was taken down".to_owned(), out_of_memory: false, because: None, log: Vec::new() };
        };
        let home = self.home(&record.life.spec);
        let ended = self.sandboxes.collect(&home, app).await;
        let what = ended.status.map_or_else(|| "ended together with its sandbox".to_owned(), process::in_words);
        let log = tokio::task::spawn_blocking(move || logs::last_words(&home.folder, LAST_WORDS)).await;
        let log = log.unwrap_or_default();
        let went_on = ended.status == Some(0) && ended.left_behind;
        let because = profile::ended_the_start(&log).or_else(|| {
            let text = "processes of it went on, but the start command itself has to stay: run it in the foreground";
            went_on.then(|| text.to_owned())
        });
        Exit { what, out_of_memory: ended.out_of_memory, because, log }
    }

    async fn clear(&self, record: &Record) {
        if let Err(error) = self.take_down(record).await {
            let text = format!("cleaning up failed: {}", error.in_full());
            self.events.about(&record.life.spec, EventKind::Node, text);
        }
    }

    async fn remove(&self, record: &Record) -> Result<(), String> {
        let folder = self.home(&record.life.spec).folder;
        let removed = async {
            // The record owns link and address: it goes last.
            self.take_down(record).await?;
            blocking(move || {
                fail::fail_point!("instance-remove");
                remove_folder(&folder).map_err(|source| SandboxError::io("remove", &folder, source))
            })
            .await
        };
        removed.await.map_err(|error| error.in_full())
    }

    fn say(&self, record: &Record, text: &str) {
        logs::say(&self.home(&record.life.spec).folder, text);
    }
}

fn not_kept(error: DurableError) -> KeepError {
    match error {
        DurableError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => KeepError::DiskFull,
        error => KeepError::Io(super::error::chain(&error)),
    }
}

#[cfg(test)]
mod tests {
    use drowse_api::instance::OnBootFailure;
    use drowse_api::{DeploymentId, Digest, MemoryBytes, UserId};

    use super::*;
    use crate::instance::fake::spec;
    use crate::instance::state::Life;

    #[test]
    fn a_snapshot_is_of_one_image_its_environment_secrets_limits_user_deployment_and_address() {
        let (life, _) = Life::new(spec(1, OnBootFailure::Fail));
        let record = Record { life, address: [10, 0, 0, 1].into(), port: 8080, boot_id: "boot".to_owned() };
        let subject = |record: &Record| Node::subject(record).expect("this host");
        assert_eq!(subject(&record), subject(&record.clone()));
        let changes: [fn(&mut Record); 7] = [
            |record| record.life.spec.image = Digest::from_sha256([8; 32]),
            |record| drop(record.life.spec.env.insert("A".to_owned(), "b".to_owned())),
            |record| record.life.spec.secrets = [("TOKEN".to_owned(), "new".to_owned())].into_iter().collect(),
            |record| record.life.spec.limits.memory = MemoryBytes::mib(7),
            |record| record.life.spec.user = UserId::parse("other").expect("an id"),
            |record| record.life.spec.deployment = DeploymentId::parse("second").expect("an id"),
            |record| record.address = [10, 0, 0, 2].into(),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut other = record.clone();
            change(&mut other);
            assert_ne!(subject(&record), subject(&other), "change {number}");
        }
    }
}
