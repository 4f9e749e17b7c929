//! A host without a kernel, whose time is tokio's: for tests of the task and of all instances.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use drowse_api::instance::{BootCheck, InstanceSpec, InstanceStatus, Limits, OnBootFailure, ProcessIdentity, Workload};
use drowse_api::secrets::Secrets;
use drowse_api::{AppName, DeploymentId, Digest, Epoch, InstanceId, UserId};
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Instances;
use super::followers::Followers;
use super::host::{Hook, Host, KeepError, Listening, PORT, Record, Written};
use super::state::{App, Exit, LaunchFailure, NotDumped, Running};
use crate::addresses::Addresses;
use crate::config::AddressRange;
use crate::events::EventLog;
use crate::network::AddressPool;
use crate::snapshot::{Abort, Taken};

/// How a fake app behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Accepts after so long, and stays.
    Serves(Duration),
    /// Stays and never accepts.
    Deaf,
    /// Stays, and listens where nobody looks for it.
    Astray,
    /// Accepts, and answers no request.
    Silent,
    /// Accepts at once and ends after so long.
    Fleeting(Duration),
    /// Ends after so long.
    Crashes(Duration),
    /// Ignores SIGTERM.
    Stubborn,
    /// Cannot be launched by a fault of the host.
    NoHost,
}

#[derive(Debug)]
struct Process {
    behaviour: Behaviour,
    began: Instant,
    ended: bool,
    frozen: bool,
}

#[derive(Debug, Default)]
struct World {
    /// What the next launches get; then the last again.
    behaviours: VecDeque<Behaviour>,
    processes: BTreeMap<i32, Process>,
    kept: BTreeMap<InstanceId, Record>,
    calls: Vec<String>,
    said: Vec<String>,
    disk_full: bool,
    /// How many waits for an exit break off by a fault.
    broken_waits: u32,
    /// How many removals fail.
    refused_removals: u32,
    /// How many times freezing and thawing fail.
    stuck: u32,
    /// How many dumps fail.
    refused_dumps: u32,
    /// The host has no swap.
    no_swap: bool,
    /// Nothing is paged out.
    refused_pages: bool,
    /// The disk has no room for dumps.
    has_no_room: bool,
    /// What is on disk.
    on_disk: Option<Behaviour>,
    /// How long the app's hooks take, and what comes of them.
    hook: Option<(Duration, Result<(), String>)>,
}

/// A host without a kernel.
#[derive(Debug)]
pub struct FakeHost {
    world: Mutex<World>,
    began: Instant,
    pid: AtomicI32,
    changed: Notify,
    launch_takes: Duration,
}

impl FakeHost {
    pub fn new(behaviours: &[Behaviour]) -> Arc<Self> {
        let world = World { behaviours: behaviours.iter().copied().collect(), ..World::default() };
        Arc::new(Self {
            world: Mutex::new(world),
            began: Instant::now(),
            pid: AtomicI32::new(100),
            changed: Notify::new(),
            launch_takes: Duration::from_millis(50),
        })
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no test panics in it")
    }

    /// Processes that run.
    pub fn alive(&self) -> usize {
        self.world().processes.values().filter(|process| !process.ended).count()
    }

    /// Everything that was done, in order.
    pub fn calls(&self) -> Vec<String> {
        self.world().calls.clone()
    }

    /// What was told in its log, in order.
    pub fn said(&self) -> Vec<String> {
        self.world().said.clone()
    }

    /// What is on disk.
    pub fn kept(&self, id: &InstanceId) -> Option<Record> {
        self.world().kept.get(id).cloned()
    }

    pub fn set_disk_full(&self, full: bool) {
        self.world().disk_full = full;
    }

    pub fn break_waits(&self, count: u32) {
        self.world().broken_waits = count;
    }

    pub fn refuse_removals(&self, count: u32) {
        self.world().refused_removals = count;
    }

    pub fn be_stuck(&self, count: u32) {
        self.world().stuck = count;
    }

    pub fn have_hooks(&self, take: Duration, outcome: Result<(), String>) {
        self.world().hook = Some((take, outcome));
    }

    pub fn refuse_dumps(&self, count: u32) {
        self.world().refused_dumps = count;
    }

    pub fn have_no_swap(&self, is_gone: bool) {
        self.world().no_swap = is_gone;
    }

    pub fn refuse_pages(&self, is_refused: bool) {
        self.world().refused_pages = is_refused;
    }

    pub fn have_no_room(&self, is_full: bool) {
        self.world().has_no_room = is_full;
    }

    /// What is on disk is damaged.
    pub fn damage(&self) {
        self.world().on_disk = None;
    }

    /// Processes that stand still.
    pub fn frozen(&self) -> usize {
        self.world().processes.values().filter(|process| process.frozen && !process.ended).count()
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), String> {
        let mut world = self.world();
        if world.stuck > 0 {
            world.stuck -= 1;
            return Err("the kernel took too long".to_owned());
        }
        world.processes.values_mut().for_each(|process| process.frozen = frozen);
        Ok(())
    }

    /// Ends whatever runs, as a crash would.
    pub fn crash_all(&self) {
        for process in self.world().processes.values_mut() {
            process.ended = true;
        }
        self.changed.notify_waiters();
    }

    fn note(&self, call: &str) {
        self.world().calls.push(call.to_owned());
    }

    fn end(&self, running: Running) {
        if let Running::Process(app) = running
            && let Some(process) = self.world().processes.get_mut(&app.identity.pid)
        {
            process.ended = true;
        }
        self.changed.notify_waiters();
    }

    /// Whether it is over, or when it will be.
    fn end_of(&self, pid: i32) -> Result<(), Option<Instant>> {
        match self.world().processes.get(&pid) {
            None | Some(Process { ended: true, .. }) => Ok(()),
            Some(Process { behaviour: Behaviour::Crashes(after) | Behaviour::Fleeting(after), began, .. }) => {
                Err(Some(*began + *after))
            }
            Some(_) => Err(None),
        }
    }
}

impl Host for FakeHost {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH + self.began.elapsed()
    }

    fn jitter(&self) -> f64 {
        0.5
    }

    async fn write(&self, record: &Record) -> Result<Written, KeepError> {
        self.keep(record).await.map(|()| Written::new(|| Ok(())))
    }

    async fn keep(&self, record: &Record) -> Result<(), KeepError> {
        if self.world().disk_full {
            return Err(KeepError::DiskFull);
        }
        self.world().kept.insert(record.life.spec.id.clone(), record.clone());
        Ok(())
    }

    async fn launch(&self, _record: &Record) -> Result<Running, LaunchFailure> {
        self.note("launch");
        tokio::time::sleep(self.launch_takes).await;
        let mut world = self.world();
        let behaviour =
            if world.behaviours.len() > 1 { world.behaviours.pop_front() } else { world.behaviours.front().copied() };
        let behaviour = behaviour.unwrap_or(Behaviour::Serves(Duration::ZERO));
        if behaviour == Behaviour::NoHost {
            return Err(LaunchFailure { detail: "no namespaces".to_owned(), by_app: false });
        }
        let pid = self.pid.fetch_add(1, Ordering::Relaxed);
        // What is launched again replaces what a crash of the agent left.
        world.processes.values_mut().for_each(|process| process.ended = true);
        world.processes.insert(pid, Process { behaviour, began: Instant::now(), ended: false, frozen: false });
        Ok(Running::Process(App { identity: ProcessIdentity { pid, start_time: 1 }, pid_inside: 2 }))
    }

    async fn gone(&self, _record: &Record, running: Running) {
        let Running::Process(app) = running else { return std::future::pending().await };
        let broken = {
            let mut world = self.world();
            let left = world.broken_waits;
            world.broken_waits = left.saturating_sub(1);
            left > 0
        };
        assert!(!broken, "a fault of the wait, as the test wants it");
        loop {
            let changed = self.changed.notified();
            match self.end_of(app.identity.pid) {
                Ok(()) => return,
                Err(Some(end)) => {
                    tokio::select! { () = changed => {}, () = tokio::time::sleep_until(end) => return }
                }
                Err(None) => changed.await,
            }
        }
    }

    async fn accepts(&self, _endpoint: SocketAddr) -> bool {
        self.world().processes.values().any(|process| match process.behaviour {
            Behaviour::Serves(after) => !process.ended && !process.frozen && process.began.elapsed() >= after,
            Behaviour::Stubborn | Behaviour::Silent => !process.ended,
            Behaviour::Fleeting(after) => !process.ended && process.began.elapsed() < after,
            Behaviour::Deaf | Behaviour::Astray | Behaviour::Crashes(_) | Behaviour::NoHost => false,
        })
    }

    async fn answers(&self, _endpoint: SocketAddr, _boot: &BootCheck) -> Result<(), String> {
        let answers = |process: &Process| process.behaviour == Behaviour::Silent && !process.ended;
        if self.world().processes.values().any(answers) {
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Err("it did not answer within 5 s".to_owned());
        }
        Ok(())
    }

    async fn listening(&self, _record: &Record, _running: Running) -> Listening {
        let is_wrong = self.world().processes.values().any(|process| process.behaviour == Behaviour::Astray);
        Listening { text: if is_wrong { "listens elsewhere" } else { "nothing listens" }.to_owned(), is_wrong }
    }

    fn port(&self, _spec: &InstanceSpec) -> u16 {
        PORT
    }

    async fn limit(&self, record: &Record) {
        self.note(&format!("limit {}", record.life.spec.limits.memory));
    }

    async fn freeze(&self, _record: &Record) -> Result<(), String> {
        self.note("freeze");
        self.set_frozen(true)
    }

    async fn hook(&self, _record: &Record, hook: Hook) -> Result<(), String> {
        let Some((takes, outcome)) = self.world().hook.clone() else { return Ok(()) };
        self.note(&hook.to_string());
        tokio::time::sleep(takes).await;
        outcome
    }

    async fn thaw(&self, _record: &Record) -> Result<(), String> {
        self.note("thaw");
        self.set_frozen(false)
    }

    fn no_paging(&self) -> Option<String> {
        self.world().no_swap.then(|| "the node has no swap".to_owned())
    }

    async fn page_out(&self, _record: &Record, stop: Arc<AtomicBool>) -> Result<u64, String> {
        self.note("page-out");
        tokio::time::sleep(self.launch_takes).await;
        assert!(!stop.load(Ordering::Relaxed), "what was broken off is not waited for");
        if self.world().refused_pages { Err("the swap is full".to_owned()) } else { Ok(8192) }
    }

    async fn page_in(&self, _record: &Record) {
        self.note("page-in");
    }

    fn no_snapshots(&self) -> Option<String> {
        None
    }

    async fn dump(&self, _record: &Record, running: Running, abort: Arc<Abort>) -> Result<Taken, NotDumped> {
        self.note("dump");
        let never = |why: &str| NotDumped::Never(why.to_owned());
        self.set_frozen(true).map_err(NotDumped::Never)?;
        tokio::time::sleep(self.launch_takes).await;
        if abort.is_asked() {
            return Err(never("it was broken off"));
        }
        let Running::Process(app) = running else { return Err(never("it has no process")) };
        let mut world = self.world();
        if world.refused_dumps > 0 {
            world.refused_dumps -= 1;
            return Err(never("it has a terminal"));
        }
        if world.has_no_room {
            return Err(NotDumped::NoRoom("the disk is full".to_owned()));
        }
        let process = world.processes.remove(&app.identity.pid).ok_or_else(|| never("it is gone"))?;
        world.on_disk = Some(process.behaviour);
        Ok(Taken { size: 4096, mark: "first".to_owned() })
    }

    async fn restore(&self, _record: &Record, _taken: &Taken) -> Result<Running, String> {
        self.note("restore");
        tokio::time::sleep(self.launch_takes).await;
        let mut world = self.world();
        let behaviour = world.on_disk.take().ok_or("it is damaged")?;
        let pid = self.pid.fetch_add(1, Ordering::Relaxed);
        world.processes.insert(pid, Process { behaviour, began: Instant::now(), ended: false, frozen: false });
        Ok(Running::Process(App { identity: ProcessIdentity { pid, start_time: 1 }, pid_inside: 2 }))
    }

    async fn terminate(&self, record: &Record, running: Running) {
        if self.frozen() > 0 {
            let _ = self.thaw(record).await;
        }
        self.note("terminate");
        let Running::Process(app) = running else { return };
        let stubborn = self.world().processes.get(&app.identity.pid).map(|process| process.behaviour);
        if stubborn != Some(Behaviour::Stubborn) {
            self.end(running);
        }
    }

    async fn collect(&self, _record: &Record, running: Running) -> Exit {
        self.note("collect");
        self.end(running);
        Exit {
            what: "exited with status 1".to_owned(),
            out_of_memory: false,
            because: None,
            log: vec!["last word".to_owned()],
        }
    }

    async fn clear(&self, _record: &Record) {
        self.note("clear");
    }

    async fn remove(&self, record: &Record) -> Result<(), String> {
        self.note("remove");
        self.crash_all();
        let left = self.world().refused_removals;
        if left > 0 {
            self.world().refused_removals = left - 1;
            return Err("the kernel refused".to_owned());
        }
        self.world().kept.remove(&record.life.spec.id);
        Ok(())
    }

    fn say(&self, _record: &Record, text: &str) {
        self.world().said.push(text.to_owned());
    }
}

/// A spec that differs from test to test only where it matters.
pub fn spec(epoch: u64, on_boot_failure: OnBootFailure) -> InstanceSpec {
    InstanceSpec {
        controller: None,
        id: InstanceId::parse("one").expect("an id"),
        epoch: Epoch(epoch),
        user: UserId::parse("user").expect("an id"),
        app: AppName::parse("shop").expect("a name"),
        deployment: DeploymentId::parse("first").expect("an id"),
        workload: Workload::Web,
        image: Digest::from_sha256([7; 32]),
        env: BTreeMap::new(),
        limits: Limits::default(),
        secrets: Secrets::default(),
        boot: BootCheck::default(),
        on_boot_failure,
    }
}

/// All instances on a fake host, with their events on disk.
pub struct Bench {
    pub host: Arc<FakeHost>,
    pub instances: Instances<FakeHost>,
    pub events: Arc<EventLog>,
    pub id: InstanceId,
    _folder: tempfile::TempDir,
}

impl Bench {
    pub fn new(behaviours: &[Behaviour]) -> Self {
        Self::on(FakeHost::new(behaviours))
    }

    /// A new agent on a host that may have been used before.
    pub fn on(host: Arc<FakeHost>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let events = Arc::new(EventLog::open(&folder.path().join("events")).expect("opens"));
        let range = AddressRange { base: [10, 0, 0, 0].into(), prefix: 24 };
        let addresses = Arc::new(Addresses::new(AddressPool::new(range)));
        let followers = Followers::new(Duration::ZERO);
        let (shared, log) = (Arc::clone(&host), Arc::clone(&events));
        let instances = Instances::new(shared, log, addresses, "boot".to_owned(), followers, None);
        Self { host, instances, events, id: InstanceId::parse("one").expect("an id"), _folder: folder }
    }

    /// Waits until the status is as wanted; fails after a day of the fake's time.
    pub async fn until(&self, wanted: impl Fn(&InstanceStatus) -> bool) -> InstanceStatus {
        let mut board = self.instances.watch();
        let found = tokio::time::timeout(Duration::from_secs(86_400), async {
            loop {
                if let Some(status) = board.borrow_and_update().get(&self.id).filter(|status| wanted(status)) {
                    return status.clone();
                }
                board.changed().await.expect("the board stays");
            }
        });
        found.await.unwrap_or_else(|_| panic!("never came: {:?}", self.instances.status(&self.id)))
    }

    pub fn messages(&self) -> Vec<String> {
        self.events.after(0).into_iter().map(|event| event.message).collect()
    }
}
