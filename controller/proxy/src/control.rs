//! The half of the router that learns: it follows the controller's table and the agent's addresses,
//! publishes pictures, and reports what it serves by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use drowse_api::agent::EndpointsPicture;
use drowse_api::client::Client;
use drowse_api::routing::{RouteTable, RouterStatus};
use drowse_api::{InstanceId, NodeName, Problem};
use http::Method;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::{Notify, mpsc, watch};

use crate::instance::Instance;
use crate::memory;
use crate::picture::Picture;
use crate::saved::Saved;
use crate::shared::Shared;

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
    pub(crate) endpoints: EndpointsPicture,
    /// Instances that are in no picture any more, until their last request has left.
    pub(crate) retired: Vec<Arc<Instance>>,
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
            Ok(endpoints) => self.endpoints = endpoints.unwrap_or_default(),
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
        let path = "/v1/endpoints/watch".to_owned();
        let endpoints = follow(self.agent.clone(), path, news, News::Endpoints, false);
        let followers = [tokio::spawn(table), tokio::spawn(endpoints)];
        let reporter = tokio::spawn(report_changes(self.controller.clone(), self.node.clone(), report));
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
                    News::Endpoints(endpoints) => self.apply_endpoints(endpoints),
                },
                () = emptied.notified() => tokio::time::sleep(DEBOUNCE).await,
                _ = look.tick() => trimmed = self.trim(trimmed),
            }
            self.retired.retain(|instance| instance.gate.inside() > 0);
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

    fn apply_endpoints(&mut self, endpoints: EndpointsPicture) {
        if self.endpoints == endpoints {
            return;
        }
        self.endpoints = endpoints;
        self.publish();
        if let Err(error) = self.saved_endpoints.write(&self.endpoints) {
            tracing::warn!(%error, "new addresses could not be saved");
        }
    }

    /// Puts the next picture in place, then closes the gates of the instances it leaves out.
    fn publish(&mut self) {
        let Some(table) = &self.table else { return };
        let shared = &self.shared;
        let before = shared.picture.load_full();
        let (emptied, workers) = (&self.emptied, shared.open.len());
        let retired = &mut self.retired;
        let next = before.next(&self.node, table, &self.endpoints, |id, address| {
            // One that comes back while its last requests are still on their way is the same one.
            let same = |old: &Arc<Instance>| old.id.as_ref() == Some(id) && old.address == address;
            match retired.iter().position(same) {
                Some(at) => {
                    let back = retired.swap_remove(at);
                    back.gate.open();
                    back.stay();
                    back
                }
                None => Instance::new(Some(id.clone()), address, workers, Arc::clone(emptied)),
            }
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
        }
        self.retired.extend(gone);
        shared.changed.send_replace(());
    }

    fn status(&self) -> RouterStatus {
        let picture: Arc<Picture> = self.shared.picture.load_full();
        let mut in_flight: BTreeMap<InstanceId, u64> = BTreeMap::new();
        for instance in picture.instances.values().chain(&self.retired) {
            let inside = instance.gate.inside();
            if let (Some(id), 1..) = (&instance.id, inside) {
                *in_flight.entry(id.clone()).or_default() += inside;
            }
        }
        let (applied, run) = (picture.revision.unwrap_or(0), picture.run.clone());
        RouterStatus { name: self.node.to_string(), applied, run, in_flight }
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
