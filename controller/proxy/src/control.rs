//! The half of the router that learns: it follows the controller's table and the agent's addresses,
//! publishes pictures, and reports what it serves by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use drowse_api::agent::EndpointsPicture;
use drowse_api::client::Client;
use drowse_api::routing::{RouteTable, RouterStatus};
use drowse_api::sleep::Quiet;
use drowse_api::{InstanceId, NodeName, Problem};
use http::Method;
use jiff::Timestamp;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::{Notify, mpsc, watch};

use crate::gate::Closing;
use crate::instance::Instance;
use crate::keeper::{self, Kept, Numbered};
use crate::memory;
use crate::picture::{Picture, address_of};
use crate::saved::Saved;
use crate::shared::Shared;
use crate::waker::Order;

/// How long after the first change a report waits for others.
const DEBOUNCE: Duration = Duration::from_millis(20);
/// How often requests in flight are looked at, while nothing else asks for a report.
const LOOK: Duration = Duration::from_secs(1);
/// How many connections must have become idle to make giving their memory back worth a look.
const WORTH_TRIMMING: usize = 500;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the streams bring.
enum News {
    Table(RouteTable),
    Endpoints(EndpointsPicture),
    /// The controller answers (again): it does not know yet what we serve by.
    Connected,
}

/// The learning half.
pub(crate) struct Control {
    pub(crate) shared: Arc<Shared>,
    pub(crate) node: NodeName,
    pub(crate) controller: Client,
    pub(crate) agent: Client,
    pub(crate) saved_table: Saved,
    pub(crate) saved_endpoints: Saved,
    pub(crate) table: Option<RouteTable>,
    pub(crate) endpoints: Arc<EndpointsPicture>,
    /// How many pictures of addresses came, and up to which of them they are on disk.
    pub(crate) pictures: u64,
    pub(crate) kept: u64,
    /// When the router began, by both clocks: so the same moment is always told as the same time.
    pub(crate) began: (Instant, Timestamp),
    /// Instances that are in no picture any more, until their last request has left.
    pub(crate) retired: Vec<Arc<Instance>>,
    /// Instances that are about to sleep, as long as the agent was not told that they were let go of.
    pub(crate) letting_go: BTreeMap<InstanceId, LettingGo>,
    pub(crate) emptied: Arc<Notify>,
}

impl Control {
    /// Takes what was saved as the first picture.
    pub(crate) fn restore(&mut self) {
        match self.saved_table.read() {
            Ok(table) => self.table = table,
            Err(error) => tracing::warn!(%error, "starting without the last known table"),
        }
        match self.saved_endpoints.read() {
            // The number is of a stream that is over.
            Ok(endpoints) => {
                self.endpoints = Arc::new(EndpointsPicture { follower: None, ..endpoints.unwrap_or_default() });
            }
            Err(error) => tracing::warn!(%error, "starting without the last known addresses"),
        }
        self.publish();
    }

    /// Follows, publishes and reports until the router ends.
    pub(crate) async fn run(mut self) {
        let (news, mut inbox) = mpsc::channel(16);
        let (reports, report) = watch::channel(Report { status: self.status(), contact: 0 });
        let table = {
            // By its name: the controller counts on whoever follows.
            let path = format!("/v1/routes/watch?router={}", self.node);
            follow(self.controller.clone(), path, news.clone(), News::Table, true)
        };
        // By its name: the agent waits for whoever follows before anything sleeps.
        let path = format!("/v1/endpoints/watch?router={}", self.node);
        let endpoints = follow(self.agent.clone(), path, news, News::Endpoints, false);
        let followers = [tokio::spawn(table), tokio::spawn(endpoints)];
        let reporter = tokio::spawn(report_changes(self.controller.clone(), self.node.clone(), report));
        let (pictures, wanted) = watch::channel::<Numbered>((0, Arc::default()));
        let (told, mut outcomes) = mpsc::channel(1);
        let keeper = tokio::spawn(keeper::keep(self.saved_endpoints.clone(), wanted, told));
        let emptied = Arc::clone(&self.emptied);
        let ending = self.shared.ending.clone();
        let mut look = tokio::time::interval(LOOK);
        let (mut contact, mut trimmed) = (0, 0);
        loop {
            tokio::select! {
                () = ending.cancelled() => break,
                Some(news) = inbox.recv() => match news {
                    News::Connected => contact += 1,
                    News::Table(table) => self.apply_table(table),
                    News::Endpoints(endpoints) => {
                        if self.apply_endpoints(endpoints) {
                            pictures.send_replace((self.pictures, Arc::clone(&self.endpoints)));
                        }
                    }
                },
                Some(kept) = outcomes.recv() => self.is_kept(kept),
                () = emptied.notified() => tokio::time::sleep(DEBOUNCE).await,
                _ = look.tick() => trimmed = self.trim(trimmed),
            }
            self.retired.retain(|instance| instance.gate.inside() > 0);
            self.let_go();
            let fresh = Report { status: self.status(), contact };
            reports.send_if_modified(|report| {
                let differs = report.is_news(&fresh);
                if differs {
                    *report = fresh;
                }
                differs
            });
        }
        for task in followers.iter().chain([&reporter]) {
            task.abort();
        }
        // What it is writing is finished before the last picture takes its place.
        drop((pictures, outcomes));
        let _ = keeper.await;
        if self.kept < self.pictures
            && let Err(error) = self.saved_endpoints.write(&*self.endpoints)
        {
            tracing::warn!(%error, "the last addresses could not be saved");
        }
    }

    /// Gives memory back when enough connections have become idle since the last time; returns how
    /// many had by then.
    fn trim(&self, trimmed: usize) -> usize {
        let parked = self.shared.parked.load(Ordering::Relaxed);
        if parked.wrapping_sub(trimmed) < WORTH_TRIMMING {
            return trimmed;
        }
        memory::trim();
        parked
    }

    fn apply_table(&mut self, table: RouteTable) {
        let revision = table.revision;
        if self.table.as_ref().is_some_and(|known| known.run == table.run && known.revision > revision) {
            tracing::warn!(revision, "the controller's table is older than ours; taking it as the truth");
        }
        if self.table.as_ref() == Some(&table) {
            return;
        }
        let table = self.table.insert(table);
        let saved = self.saved_table.write(table);
        self.publish();
        match saved {
            Ok(()) => tracing::info!(revision, "serving by a new table"),
            Err(error) => tracing::warn!(revision, %error, "serving by a new table that could not be saved"),
        }
    }

    /// Takes what the agent says. True if it is something new.
    fn apply_endpoints(&mut self, endpoints: EndpointsPicture) -> bool {
        if *self.endpoints == endpoints {
            return false;
        }
        let before = std::mem::replace(&mut self.endpoints, Arc::new(endpoints));
        self.pictures += 1;
        let has_moved = |id: &InstanceId| address_of(&before, id) != address_of(&self.endpoints, id);
        let known = |picture: &EndpointsPicture| picture.ready.len() + picture.asleep.len();
        let all = self.endpoints.ready.keys().chain(self.endpoints.asleep.keys());
        // Falling asleep and waking move nothing: the picture stays, and who waits for others is not woken.
        if known(&before) != known(&self.endpoints) || all.into_iter().any(has_moved) {
            self.publish();
        }
        self.close_and_open(&before);
        true
    }

    /// Pictures are on disk, or cannot be: then what is in none that is stays awake.
    fn is_kept(&mut self, kept: Kept) {
        match kept {
            Kept::Yes(number) => self.kept = number,
            Kept::No(number) => {
                let is_lost =
                    |letting: &LettingGo| !letting.is_told && (self.kept + 1..=number).contains(&letting.since);
                for (id, letting) in self.letting_go.iter_mut().filter(|(_, letting)| is_lost(letting)) {
                    letting.is_told = true;
                    let cause = "a router that could not save that it sleeps".to_owned();
                    let _ = self.shared.orders.send(Order::Keep(id.clone(), cause));
                }
            }
        }
    }

    /// Brings the gates to what the agent says of each instance.
    fn close_and_open(&mut self, before: &EndpointsPicture) {
        let picture = self.shared.picture.load_full();
        self.letting_go.retain(|id, letting| self.endpoints.closing.get(id) == Some(&letting.ticket));
        for (id, instance) in &picture.instances {
            set_gate(instance, id, &self.endpoints);
            if self.endpoints.asleep.contains_key(id) && instance.gate.inside() > 0 {
                // It was not waited for this router: what is inside is woken for.
                let _ = self.shared.orders.send(Order::Keep(id.clone(), "a request in flight".to_owned()));
            }
        }
        let Some(follower) = self.endpoints.follower else { return };
        for (id, &ticket) in &self.endpoints.closing {
            let same = |letting: &LettingGo| letting.follower == follower;
            if !self.letting_go.get(id).is_some_and(same) {
                self.letting_go
                    .insert(id.clone(), LettingGo { follower, ticket, since: self.pictures, is_told: false });
                if let Some(instance) = picture.instances.get(id) {
                    // It was awake before this attempt, also where we were not told so in between: who waits goes in.
                    if before.closing.get(id) != Some(&ticket) {
                        open_gate(instance);
                    }
                    instance.gate.begin_closing();
                }
            }
        }
    }

    /// Tells the agent of what nothing is in flight any more, and of what is needed after all.
    fn let_go(&mut self) {
        let picture = self.shared.picture.load();
        // Before anything is let go of: a router that starts from the file must not send requests to it.
        let is_due = |letting: &LettingGo| !letting.is_told && letting.since <= self.kept;
        for (id, letting) in self.letting_go.iter_mut().filter(|(_, letting)| is_due(letting)) {
            let is_same = |instance: &&Arc<Instance>| instance.id.as_ref() == Some(id);
            let outcome = match picture.instances.get(id) {
                Some(instance) if instance.nap.is_waited_for() => Closing::CalledOff,
                Some(instance) => instance.gate.finish_closing(),
                None if self.retired.iter().any(|retired| is_same(&retired)) => Closing::Busy,
                None => Closing::Shut,
            };
            let quiet = Quiet { follower: letting.follower, ticket: letting.ticket };
            let order = match outcome {
                Closing::Busy => continue,
                Closing::Shut => Order::LetGo(id.clone(), quiet),
                Closing::CalledOff => Order::Keep(id.clone(), "a request that came meanwhile".to_owned()),
            };
            letting.is_told = true;
            let _ = self.shared.orders.send(order);
        }
    }

    /// Puts the next picture in place, then closes the gates of the instances it leaves out.
    fn publish(&mut self) {
        let Some(table) = &self.table else { return };
        let shared = &self.shared;
        let before = shared.picture.load_full();
        let (emptied, workers, endpoints) = (&self.emptied, shared.open.len(), &self.endpoints);
        let retired = &mut self.retired;
        let next = before.next(&self.node, table, &self.endpoints, |id, address| {
            // One that comes back while its last requests are still on their way is the same one.
            let same = |old: &Arc<Instance>| old.id.as_ref() == Some(id) && old.address == address;
            let instance = match retired.iter().position(same) {
                Some(at) => {
                    let back = retired.swap_remove(at);
                    back.gate.open();
                    back.stay();
                    back
                }
                None => Instance::new(Some(id.clone()), address, workers, Arc::clone(emptied)),
            };
            // Before anybody can find it.
            set_gate(&instance, id, endpoints);
            instance
        });
        let kept =
            |id: &InstanceId, old: &Arc<Instance>| next.instances.get(id).is_some_and(|new| Arc::ptr_eq(old, new));
        let gone: Vec<Arc<Instance>> =
            before.instances.iter().filter(|(id, old)| !kept(id, old)).map(|(_, old)| Arc::clone(old)).collect();
        shared.picture.store(Arc::new(next));
        for instance in &gone {
            instance.gate.close();
            instance.leave();
            instance.forget_connections();
            instance.nap.tell();
        }
        self.retired.extend(gone);
        shared.changed.send_replace(());
    }

    fn status(&self) -> RouterStatus {
        let picture: Arc<Picture> = self.shared.picture.load_full();
        let mut in_flight: BTreeMap<InstanceId, u64> = BTreeMap::new();
        let mut active = BTreeMap::new();
        for instance in picture.instances.values().filter(|instance| !instance.gate.is_shut()) {
            if let Some(id) = &instance.id {
                let since_start = instance.used_at().saturating_duration_since(self.began.0);
                active.insert(id.clone(), self.began.1 + since_start);
            }
        }
        for instance in picture.instances.values().chain(&self.retired) {
            let inside = instance.gate.inside();
            if let (Some(id), 1..) = (&instance.id, inside) {
                *in_flight.entry(id.clone()).or_default() += inside;
            }
        }
        let (applied, run) = (picture.revision.unwrap_or(0), picture.run.clone());
        RouterStatus { name: self.node.to_string(), applied, run, in_flight, active }
    }
}

/// An instance that is about to sleep.
#[derive(Debug)]
pub(crate) struct LettingGo {
    follower: u64,
    ticket: u64,
    /// The picture that first said so, by its number.
    since: u64,
    /// The agent was told how it went.
    is_told: bool,
}

/// Shuts or opens the gate of an instance as the agent says of it. One that is only about to sleep is
/// closed as it is: a picture that was read from a file does not say how far that went.
fn set_gate(instance: &Instance, id: &InstanceId, endpoints: &EndpointsPicture) {
    if let Some(sleeper) = endpoints.asleep.get(id) {
        let was_deep = instance.gate.is_shut() && instance.nap.depth() == sleeper.depth;
        if !sleeper.depth.wakes_unnoticed() && !was_deep {
            // Its process is gone, or will be.
            instance.forget_connections();
        }
        instance.nap.is(Some(sleeper.clone()));
        instance.gate.shut();
        // Who waits may be told something else now.
        instance.nap.tell();
    } else if endpoints.closing.contains_key(id) {
        if endpoints.follower.is_none() {
            instance.gate.shut();
        }
    } else {
        open_gate(instance);
    }
}

/// It is awake: whoever waits goes in.
fn open_gate(instance: &Instance) {
    if instance.gate.wake() {
        instance.nap.is(None);
        instance.reached();
        instance.touch(Instant::now());
        instance.nap.tell();
    }
}

/// What the controller should know.
#[derive(Debug, Clone)]
struct Report {
    status: RouterStatus,
    /// Rises when the controller was reached anew.
    contact: u64,
}

impl Report {
    /// Whether the controller waits for this: another revision, or another set of busy instances.
    fn is_news(&self, fresh: &Report) -> bool {
        self.contact != fresh.contact
            || (self.status.applied, &self.status.run) != (fresh.status.applied, &fresh.status.run)
            || !self.status.in_flight.keys().eq(fresh.status.in_flight.keys())
            || self.status.active != fresh.status.active
    }
}

/// Follows a stream for as long as the router lives, connecting again when it ends.
async fn follow<T: DeserializeOwned + Send + 'static>(
    client: Client,
    path: String,
    news: mpsc::Sender<News>,
    wrap: fn(T) -> News,
    announces: bool,
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = async {
            let mut lines = client.lines::<T>(&path).await?;
            if announces && news.send(News::Connected).await.is_err() {
                return Ok(());
            }
            while let Some(line) = lines.next().await? {
                pause = FIRST_PAUSE;
                if news.send(wrap(line)).await.is_err() {
                    return Ok(());
                }
            }
            Ok::<(), Problem>(())
        }
        .await;
        if news.is_closed() {
            return;
        }
        match ended {
            Ok(()) => tracing::debug!(daemon = client.target(), path, "a stream ended"),
            Err(problem) => tracing::debug!(daemon = client.target(), path, %problem, "a stream broke off"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Puts every change to the controller, again and again until it takes it.
async fn report_changes(controller: Client, node: NodeName, mut report: watch::Receiver<Report>) {
    let path = format!("/v1/routers/{node}");
    let mut pause = FIRST_PAUSE;
    while report.changed().await.is_ok() {
        loop {
            let status = report.borrow_and_update().status.clone();
            match controller.call::<IgnoredAny>(Method::PUT, &path, Some(&status)).await {
                Ok(_) => {
                    pause = FIRST_PAUSE;
                    break;
                }
                Err(problem) => {
                    tracing::debug!(%problem, "the controller did not take a report");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}
