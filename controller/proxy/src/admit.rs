//! Finding an instance for a request and going in: at once in the common case, else after waiting
//! for one that sleeps, is being started or replaced, or is busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drowse_api::sleep::{Depth, Glance, Wake};
use http::StatusCode;
use tokio::time::timeout_at;

use crate::asker::{Asker, Asking};
use crate::connection::Visitor;
use crate::fault::Fault;
use crate::host::HostKey;
use crate::instance::{Instance, Ticket};
use crate::instead::{self, Instead};
use crate::page::Shown;
use crate::picture::{App, Pick, Target};
use crate::waker::Order;

/// A request inside an instance's gate.
pub(crate) struct Admitted {
    pub(crate) ticket: Ticket,
    /// Absent for the controller's API.
    pub(crate) app: Option<Arc<App>>,
    /// It waited for the instance to wake from this.
    pub(crate) slept: Option<Depth>,
}

/// What to wait for.
enum Obstacle {
    /// A request leaving this instance.
    Busy(Arc<Instance>),
    /// This instance to wake.
    Asleep { app: Arc<App>, instance: Arc<Instance> },
    /// Any change, or this moment.
    Unserved { app: Arc<App>, again: Option<Instant> },
}

/// For how long a request may wait for an app that sleeps.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hold {
    /// By who asks: a person may get the Wake Up page instead, who only looks by wakes nothing.
    ByAsker,
    /// So long, whoever asks.
    Until(Duration),
}

/// The code of the error that a request gets that waited in vain for an app to wake.
pub(crate) const WAKING: &str = "waking";

/// Admits a request for `host`.
pub(crate) async fn admit(visitor: &Visitor, host: &HostKey, asking: Asking<'_>) -> Result<Admitted, Instead> {
    admit_by(visitor, host, asking, Hold::ByAsker).await
}

/// As [`admit`], with another time to wait.
pub(crate) async fn admit_by(
    visitor: &Visitor,
    host: &HostKey,
    asking: Asking<'_>,
    hold: Hold,
) -> Result<Admitted, Instead> {
    match look(visitor, host, asking)? {
        Ok(admitted) => Ok(admitted),
        // Boxed, since this is rare and every request's future would be as large as it.
        Err(_) => Box::pin(wait(visitor, host, asking, hold)).await,
    }
}

fn look(visitor: &Visitor, host: &HostKey, asking: Asking<'_>) -> Result<Result<Admitted, Obstacle>, Fault> {
    let shared = &visitor.shared;
    loop {
        let picture = shared.picture.load();
        let app = match picture.find(host.as_str()) {
            Some(Target::App(app)) => app,
            Some(Target::Controller) => return controller(visitor).map(Ok),
            Some(Target::Unavailable { code, message }) => return Err(unavailable(code, message)),
            None if picture.revision.is_none() => {
                return Err(Fault::unavailable("router-starting", "The router has no table yet."));
            }
            None => return Err(Fault::new(StatusCode::NOT_FOUND, "unknown-host", "No app answers at this address.")),
        };
        let now = Instant::now();
        return Ok(match app.pick(now, visitor.turn(), shared.limits.in_flight as u64) {
            Pick::Chosen(ticket) => {
                Ok(Admitted { ticket: counted(ticket, app, asking, now), app: Some(Arc::clone(app)), slept: None })
            }
            // A gate is closed only after the picture without it was published: the next look sees it.
            Pick::Stale => continue,
            Pick::Busy(instance) => Err(Obstacle::Busy(instance)),
            Pick::Asleep(instance) => Err(Obstacle::Asleep { app: Arc::clone(app), instance }),
            Pick::Quarantined(again) => Err(Obstacle::Unserved { app: Arc::clone(app), again: Some(again) }),
            Pick::Nobody => Err(Obstacle::Unserved { app: Arc::clone(app), again: None }),
        });
    }
}

/// Whether this request is use of the app. Looked at only where nobody used it just now: it makes no
/// difference then, and costs something.
fn counted(mut ticket: Ticket, app: &App, asking: Asking<'_>, now: Instant) -> Ticket {
    const JUST_NOW: Duration = Duration::from_secs(1);
    let is_in_use = now.saturating_duration_since(ticket.instance.used_at()) < JUST_NOW;
    ticket.counts = is_in_use || !asking.only_looks_by(app.glances);
    if ticket.counts {
        ticket.instance.touch(now);
    }
    ticket
}

async fn wait(visitor: &Visitor, host: &HostKey, asking: Asking<'_>, hold: Hold) -> Result<Admitted, Instead> {
    let limits = &visitor.shared.limits;
    let arrived = Instant::now();
    let mut changes = visitor.shared.changed.subscribe();
    let mut slept = None;
    loop {
        changes.borrow_and_update();
        match look(visitor, host, asking)? {
            Ok(admitted) => return Ok(Admitted { slept, ..admitted }),
            Err(Obstacle::Asleep { app, instance }) => {
                let depth = instance.nap.depth();
                slept = slept.max(Some(depth));
                let until = arrived + patience(visitor, &app, &instance, depth, asking, hold)?;
                let over = instance.nap.over();
                let mut over = std::pin::pin!(over);
                over.as_mut().enable();
                let _waits = instance.nap.wait();
                if !instance.gate.is_shut() {
                    continue;
                }
                if until <= Instant::now() {
                    return Err(not_awake(visitor, &app, &instance, depth, asking, hold));
                }
                let _place = app
                    .hold(limits.waking)
                    .ok_or_else(|| Fault::unavailable("queue-full", "Too many requests wait for the app to wake."))?;
                if instance.nap.begin_demand() {
                    let _ = visitor.shared.orders.send(Order::Wake(Arc::clone(&instance), asking.cause()));
                }
                // Awake, another picture, or the time: look again.
                tokio::select! {
                    () = over => {}
                    _ = changes.changed() => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                }
            }
            Err(Obstacle::Busy(instance)) => {
                let place = instance.queue(limits.queued).ok_or_else(|| {
                    Fault::unavailable("queue-full", "The app has more requests than it can take now.")
                })?;
                let mut turn = std::pin::pin!(place.turn());
                turn.as_mut().enable();
                if instance.gate.inside() >= limits.in_flight as u64 {
                    let deadline = arrived + limits.first_byte();
                    timeout_at(deadline.into(), turn).await.map_err(|_| {
                        Fault::unavailable("queue-timeout", "The app had no room for this request in time.")
                    })?;
                }
            }
            Err(Obstacle::Unserved { app, again }) => {
                let now = Instant::now();
                let until = app.held_until(now, limits.hold());
                let unserved = || match again {
                    Some(_) => Fault::unavailable("instance-unreachable", "The app does not accept connections."),
                    None => Fault::unavailable("no-instance", "No instance of the app is ready."),
                };
                if until <= now {
                    return Err(unserved().into());
                }
                let _place = app.hold(limits.queued).ok_or_else(|| {
                    Fault::unavailable("queue-full", "Too many requests wait for the app to be ready.")
                })?;
                let next = again.map_or(until, |again| again.min(until));
                // Either a change, or the time: look again.
                let _ = timeout_at(next.into(), changes.changed()).await;
            }
        }
    }
}

/// For how long this request may wait for a sleeping app, or what it gets at once.
fn patience(
    visitor: &Visitor,
    app: &App,
    instance: &Arc<Instance>,
    depth: Depth,
    asking: Asking<'_>,
    hold: Hold,
) -> Result<Duration, Instead> {
    let limits = &visitor.shared.limits;
    // Nobody notices this.
    if depth.wakes_unnoticed() {
        return Ok(limits.wake());
    }
    let patience = match (hold, asking.who()) {
        (Hold::Until(time), _) => time,
        (Hold::ByAsker, Asker::Bystander(bystander)) => match bystander.of(app.glances) {
            Glance::Hold => limits.wake(),
            Glance::Wake => {
                may_wake(visitor, instance)?;
                wake_beside(visitor, instance, asking);
                return Err(Instead::own(instead::sleeping(bystander)));
            }
            Glance::Answer => {
                tracing::debug!(app = %app.name, by = bystander.as_str(), "not woken");
                return Err(Instead::own(instead::sleeping(bystander)));
            }
        },
        (Hold::ByAsker, Asker::Person) => match app.wake {
            Wake::Page => return Err(page(visitor, app, instance, asking)),
            Wake::Auto => limits.auto(),
        },
        (Hold::ByAsker, Asker::Program) => limits.wake(),
    };
    may_wake(visitor, instance)?;
    Ok(patience)
}

/// Whether this visitor may have that one woken.
fn may_wake(visitor: &Visitor, instance: &Arc<Instance>) -> Result<(), Fault> {
    let (woken, most) = (&visitor.shared.woken, visitor.shared.limits.wakes_per_visitor);
    woken.may(visitor.ip, instance, most, Instant::now()).map_err(|seconds| {
        let detail = "Your address had too many sleeping apps woken in the last minute.";
        Fault::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-wakes", detail).retry_after(seconds)
    })
}

/// Has it woken for whoever comes next, while this request is answered: somebody waits in its place.
fn wake_beside(visitor: &Visitor, instance: &Arc<Instance>, asking: Asking<'_>) {
    if !instance.nap.begin_demand() {
        return;
    }
    let (shared, instance, cause) = (Arc::clone(&visitor.shared), Arc::clone(instance), asking.cause());
    tokio::spawn(async move {
        let _waits = instance.nap.wait();
        let _ = shared.orders.send(Order::Wake(Arc::clone(&instance), cause));
        let until = tokio::time::Instant::now() + shared.limits.wake();
        loop {
            let over = instance.nap.over();
            if !instance.gate.is_shut() || timeout_at(until, over).await.is_err() {
                return;
            }
        }
    });
}

/// The time is over, and it is still on its way.
fn not_awake(
    visitor: &Visitor,
    app: &App,
    instance: &Arc<Instance>,
    depth: Depth,
    asking: Asking<'_>,
    hold: Hold,
) -> Instead {
    if !depth.wakes_unnoticed() && matches!(hold, Hold::ByAsker) && asking.who() == Asker::Person {
        return page(visitor, app, instance, asking);
    }
    let takes = instance.nap.sleeper().and_then(|sleeper| sleeper.takes);
    let seconds = takes.map_or(5, |takes| takes.div_ceil(1000)).clamp(1, 60);
    let detail = "The app was asleep and is being woken; it was not ready in time.";
    Fault::new(StatusCode::SERVICE_UNAVAILABLE, WAKING, detail).retry_after(seconds).into()
}

fn page(visitor: &Visitor, app: &App, instance: &Instance, asking: Asking<'_>) -> Instead {
    let sleeper = instance.nap.sleeper();
    let is_waking = instance.nap.is_waited_for() || sleeper.as_ref().is_some_and(|sleeper| sleeper.is_waking);
    let to = asking.uri.path_and_query().map_or("/", |path| path.as_str());
    let shown = Shown { app: app.name.as_str(), to, sleeper: sleeper.as_ref(), is_waking };
    Instead::own(visitor.shared.page.answer(&shown))
}

/// The controller's API: without TLS it is for visitors from this machine alone.
fn controller(visitor: &Visitor) -> Result<Admitted, Fault> {
    if !visitor.is_local {
        return Err(Fault::new(
            StatusCode::FORBIDDEN,
            "local-only",
            "The API is served without encryption, and so only to this machine itself.",
        )
        .hint(format!(
            "Open a tunnel first: ssh -L {port}:127.0.0.1:{port} this host, then use 127.0.0.1:{port}.",
            port = visitor.shared.api.address.port(),
        )));
    }
    let api = &visitor.shared.api;
    match api.enter() {
        Ok(ticket) => Ok(Admitted { ticket, app: None, slept: None }),
        Err(_) => Err(Fault::unavailable("controller-unavailable", "The controller does not answer.")),
    }
}

/// A known app that cannot serve.
fn unavailable(code: &str, message: &str) -> Fault {
    let fault = Fault {
        status: StatusCode::SERVICE_UNAVAILABLE,
        code: code.to_owned().into(),
        detail: message.to_owned().into(),
        hint: None,
        retry_after: None,
    };
    if code == "starting" { fault.retry_after(2) } else { fault }
}
