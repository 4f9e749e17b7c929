//! What the router knows at one moment, resolved so that a request needs one look-up: the table and
//! the addresses as one immutable value.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use drowse_api::agent::EndpointsPicture;
use drowse_api::routing::{Endpoint, Route, RouteTable};
use drowse_api::sleep::{Glances, Wake};
use drowse_api::{AppName, InstanceId, NodeName, RunId};

use crate::gate::Closed;
use crate::instance::{Instance, Ticket};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Picture {
    /// Absent until a table is known.
    pub(crate) revision: Option<u64>,
    /// The run of the controller that made the table.
    pub(crate) run: Option<RunId>,
    pub(crate) domain: String,
    hosts: HashMap<Box<str>, Target>,
    /// Every instance that a target names, for the sweeps and the status.
    pub(crate) instances: HashMap<InstanceId, Arc<Instance>>,
}

/// What answers for a host.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    App(Arc<App>),
    Unavailable { code: Arc<str>, message: Arc<str> },
    Controller,
}

/// The instances behind one host name.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) name: AppName,
    /// What a browser gets while the app sleeps deeply.
    pub(crate) wake: Wake,
    /// What those get then who only look by.
    pub(crate) glances: Glances,
    endpoints: Vec<Endpoint>,
    /// Those of them that can be dialled from here.
    instances: Vec<Arc<Instance>>,
    began: Instant,
    /// Milliseconds after `began` at which it was first found that nothing can serve; 0 if something can.
    unserved: AtomicU64,
    /// Requests that are held because nothing can serve.
    held: AtomicUsize,
}

/// What became of choosing an instance.
pub(crate) enum Pick {
    /// Inside, and this one is it.
    Chosen(Ticket),
    /// All have as many requests as they may; this one has the fewest.
    Busy(Arc<Instance>),
    /// All are in quarantine; one of them may be tried at this time.
    Quarantined(Instant),
    /// All of them sleep; this one is to be woken.
    Asleep(Arc<Instance>),
    /// None can be dialled.
    Nobody,
    /// This picture was replaced meanwhile.
    Stale,
}

impl Picture {
    pub(crate) fn find(&self, host: &str) -> Option<&Target> {
        self.hosts.get(host)
    }

    /// The picture after `self`. An instance whose address stays the same stays the same instance,
    /// with its connections and its count; `make` makes those that are new.
    pub(crate) fn next(
        &self,
        node: &NodeName,
        table: &RouteTable,
        addresses: &EndpointsPicture,
        mut make: impl FnMut(&InstanceId, SocketAddr) -> Arc<Instance>,
    ) -> Picture {
        let mut instances: HashMap<InstanceId, Arc<Instance>> = HashMap::new();
        let mut resolve = |endpoint: &Endpoint| {
            if endpoint.node != *node {
                return None;
            }
            let address = address_of(addresses, &endpoint.instance)?;
            let known = self.instances.get(&endpoint.instance).filter(|known| known.address == address);
            let entry = instances.entry(endpoint.instance.clone());
            Some(Arc::clone(entry.or_insert_with(|| match known {
                Some(known) => Arc::clone(known),
                None => make(&endpoint.instance, address),
            })))
        };
        let mut hosts = HashMap::with_capacity(table.hosts.len());
        for (host, route) in &table.hosts {
            let target = match route {
                Route::Controller => Target::Controller,
                Route::Unavailable { code, message, .. } => {
                    Target::Unavailable { code: code.as_str().into(), message: message.as_str().into() }
                }
                Route::Instances { app: name, endpoints, wake, glances, .. } => {
                    let resolved: Vec<_> = endpoints.iter().filter_map(&mut resolve).collect();
                    Target::App(match self.find(host.as_str()) {
                        Some(Target::App(app)) if app.is((*wake, *glances), endpoints, &resolved) => Arc::clone(app),
                        _ => App::new(name.clone(), (*wake, *glances), endpoints.clone(), resolved),
                    })
                }
            };
            hosts.insert(host.as_str().into(), target);
        }
        let (revision, run) = (Some(table.revision), table.run.clone());
        Picture { revision, run, domain: table.domain.clone(), hosts, instances }
    }
}

/// Where an instance is reached, or will be when it is awake.
pub(crate) fn address_of(addresses: &EndpointsPicture, id: &InstanceId) -> Option<SocketAddr> {
    addresses.ready.get(id).copied().or_else(|| addresses.asleep.get(id).map(|sleeper| sleeper.address))
}

impl App {
    fn new(
        name: AppName,
        (wake, glances): (Wake, Glances),
        endpoints: Vec<Endpoint>,
        instances: Vec<Arc<Instance>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name,
            wake,
            glances,
            endpoints,
            instances,
            began: Instant::now(),
            unserved: AtomicU64::new(0),
            held: AtomicUsize::new(0),
        })
    }

    fn is(&self, policy: (Wake, Glances), endpoints: &[Endpoint], instances: &[Arc<Instance>]) -> bool {
        (self.wake, self.glances) == policy
            && self.endpoints == endpoints
            && self.instances.len() == instances.len()
            && self.instances.iter().zip(instances).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Chooses the instance with the fewest requests in flight, and goes in. `turn` differs from
    /// request to request, so that equals take turns.
    pub(crate) fn pick(&self, now: Instant, turn: usize, most: u64) -> Pick {
        let mut best: Option<(u64, &Arc<Instance>)> = None;
        let mut again: Option<Instant> = None;
        let mut asleep: Option<&Arc<Instance>> = None;
        for at in 0..self.instances.len() {
            let instance = &self.instances[(turn + at) % self.instances.len()];
            if instance.gate.is_shut() {
                asleep = asleep.or(Some(instance));
                continue;
            }
            let inside = instance.gate.inside();
            if best.is_some_and(|(fewest, _)| fewest <= inside) {
                continue;
            }
            match instance.is_usable(now) {
                Ok(()) => best = Some((inside, instance)),
                Err(at) => again = Some(again.map_or(at, |earliest| earliest.min(at))),
            }
        }
        match (best, again, asleep) {
            (Some((inside, instance)), _, _) if inside >= most => Pick::Busy(Arc::clone(instance)),
            (Some((_, instance)), _, _) => match instance.enter() {
                Ok(ticket) => Pick::Chosen(ticket),
                Err(Closed::Gone) => Pick::Stale,
                Err(Closed::Asleep) => Pick::Asleep(Arc::clone(instance)),
            },
            (None, _, Some(instance)) => Pick::Asleep(Arc::clone(instance)),
            (None, Some(at), None) => Pick::Quarantined(at),
            (None, None, None) => Pick::Nobody,
        }
    }

    /// Its instances that can be dialled from here, or woken.
    pub(crate) fn instances(&self) -> &[Arc<Instance>] {
        &self.instances
    }

    /// An instance was reached.
    pub(crate) fn served(&self) {
        if self.unserved.load(Ordering::Relaxed) != 0 {
            self.unserved.store(0, Ordering::Relaxed);
        }
    }

    /// A place among the held requests, if there are not too many.
    pub(crate) fn hold(&self, limit: usize) -> Option<Held<'_>> {
        let place = Held { app: self };
        (self.held.fetch_add(1, Ordering::SeqCst) < limit).then_some(place)
    }

    /// Until when a request may be held, given that nothing can serve now: all requests together
    /// have `hold`, counted from the first that found this.
    pub(crate) fn held_until(&self, now: Instant, hold: Duration) -> Instant {
        let elapsed = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX).max(1);
        let since = match self.unserved.compare_exchange(0, elapsed, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => elapsed,
            Err(earlier) => earlier,
        };
        self.began + Duration::from_millis(since) + hold
    }
}

/// A request that is held. Dropping it makes room for another.
pub(crate) struct Held<'a> {
    app: &'a App,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.app.held.fetch_sub(1, Ordering::SeqCst);
    }
}
