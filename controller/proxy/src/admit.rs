//! Finding an instance for a request and going in: at once in the common case, else after waiting
//! for one that is being started, replaced, or busy.

use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use tokio::time::timeout_at;

use crate::connection::Visitor;
use crate::fault::Fault;
use crate::host::HostKey;
use crate::instance::{Instance, Ticket};
use crate::picture::{App, Pick, Target};

/// A request inside an instance's gate.
pub(crate) struct Admitted {
    pub(crate) ticket: Ticket,
    /// Absent for the controller's API.
    pub(crate) app: Option<Arc<App>>,
}

/// What to wait for.
enum Obstacle {
    /// A request leaving this instance.
    Busy(Arc<Instance>),
    /// Any change, or this moment.
    Unserved { app: Arc<App>, again: Option<Instant> },
}

/// Admits a request for `host`.
pub(crate) async fn admit(visitor: &Visitor, host: &HostKey) -> Result<Admitted, Fault> {
    match look(visitor, host)? {
        Ok(admitted) => Ok(admitted),
        // Boxed, since this is rare and every request's future would be as large as it.
        Err(_) => Box::pin(wait(visitor, host)).await,
    }
}

fn look(visitor: &Visitor, host: &HostKey) -> Result<Result<Admitted, Obstacle>, Fault> {
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
        return Ok(match app.pick(Instant::now(), visitor.turn(), shared.limits.in_flight as u64) {
            Pick::Chosen(ticket) => Ok(Admitted { ticket, app: Some(Arc::clone(app)) }),
            // A gate is closed only after the picture without it was published: the next look sees it.
            Pick::Stale => continue,
            Pick::Busy(instance) => Err(Obstacle::Busy(instance)),
            Pick::Quarantined(again) => Err(Obstacle::Unserved { app: Arc::clone(app), again: Some(again) }),
            Pick::Nobody => Err(Obstacle::Unserved { app: Arc::clone(app), again: None }),
        });
    }
}

async fn wait(visitor: &Visitor, host: &HostKey) -> Result<Admitted, Fault> {
    let limits = &visitor.shared.limits;
    let arrived = Instant::now();
    let mut changes = visitor.shared.changed.subscribe();
    loop {
        changes.borrow_and_update();
        match look(visitor, host)? {
            Ok(admitted) => return Ok(admitted),
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
                    return Err(unserved());
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
        Ok(ticket) => Ok(Admitted { ticket, app: None }),
        Err(crate::gate::Closed) => {
            Err(Fault::unavailable("controller-unavailable", "The controller does not answer."))
        }
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
