//! The boot check: connects to an instance's port, and asks for its path where it has one, until it
//! is as it must be. What looks wrong is told early, and not only when the time is over.

use std::future::pending;
use std::time::Duration;

use drowse_api::event::EventKind;
use tokio::sync::watch;
use tokio::time::Instant;

use super::host::{Host, Record};
use super::state::{Lack, Running};
use crate::events::EventLog;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Between two requests for its path: they cost the app more than a connection.
const PATH_PAUSE: Duration = Duration::from_millis(250);
/// When an app that is not ready is looked at closer, and how often from then on.
const EARLY: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_secs(1);

/// How far an app came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing accepts.
    #[default]
    Deaf,
    /// It accepts, and answers its path in a way that will not do.
    Unfit {
        /// The path.
        path: String,
        /// As the rest of a sentence about the app.
        instead: String,
    },
    /// It is as it must be, and has to stay so for a moment.
    Fit,
}

/// Ready when the instance is. What is seen of it meanwhile is in `seen`.
pub(super) async fn check<H: Host>(
    host: &H,
    events: &EventLog,
    record: &Record,
    running: Running,
    seen: &watch::Sender<Seen>,
) {
    tokio::select! {
        () = is_fit(host, record, seen) => {}
        () = tell_early(host, events, record, running, seen) => {}
    }
}

async fn is_fit<H: Host>(host: &H, record: &Record, seen: &watch::Sender<Seen>) {
    // What was ready before is a restart, which visitors wait for.
    let settle = if record.life.proven { 0 } else { record.life.spec.boot.settle_milliseconds };
    let mut pause = FIRST_PAUSE;
    loop {
        let found = look(host, record, seen).await;
        let was_fit = found == Seen::Fit;
        let unfit = matches!(found, Seen::Unfit { .. });
        seen.send_replace(found);
        if was_fit {
            if settle == 0 {
                return;
            }
            if settles(host, record, Duration::from_millis(settle.into())).await {
                return;
            }
            seen.send_replace(Seen::Deaf);
        }
        tokio::time::sleep(if unfit { PATH_PAUSE } else { pause }).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
}

/// Whether it goes on accepting for so long.
async fn settles<H: Host>(host: &H, record: &Record, time: Duration) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        tokio::time::sleep(LONGEST_PAUSE.min(time)).await;
        if !host.accepts(record.endpoint()).await {
            return false;
        }
    }
    true
}

async fn look<H: Host>(host: &H, record: &Record, seen: &watch::Sender<Seen>) -> Seen {
    if !host.accepts(record.endpoint()).await {
        return Seen::Deaf;
    }
    let boot = &record.life.spec.boot;
    let Some(path) = boot.path.clone() else { return Seen::Fit };
    seen.send_if_modified(|seen| {
        // Until the first answer, that there is none is what is known.
        let is_first = *seen == Seen::Deaf;
        if is_first {
            *seen = Seen::Unfit { path: path.clone(), instead: "it has not answered".to_owned() };
        }
        is_first
    });
    match host.answers(record.endpoint(), boot).await {
        Ok(()) => Seen::Fit,
        Err(instead) => Seen::Unfit { path, instead },
    }
}

/// Tells, once, what looks wrong. Never ends.
async fn tell_early<H: Host>(
    host: &H,
    events: &EventLog,
    record: &Record,
    running: Running,
    seen: &watch::Sender<Seen>,
) {
    let mut pause = EARLY;
    loop {
        tokio::time::sleep(std::mem::replace(&mut pause, AGAIN)).await;
        let now = seen.borrow().clone();
        let text = match now {
            Seen::Fit => continue,
            Seen::Unfit { path, instead } => {
                format!("it accepts connections, and GET {path} is not answered well: {instead}")
            }
            Seen::Deaf => {
                let found = host.listening(record, running).await;
                if !found.is_wrong {
                    continue;
                }
                format!("no connection to its port yet: {}", found.text)
            }
        };
        host.say(record, &text);
        events.about(&record.life.spec, EventKind::Instance, text);
        pending::<()>().await;
    }
}

/// What an app lacks whose time is over; nothing if it only had to stay as it is.
pub(super) async fn lack<H: Host>(host: &H, record: &Record, running: Running, seen: Seen) -> Option<Lack> {
    match seen {
        Seen::Deaf => Some(Lack::Connection { instead: host.listening(record, running).await.text }),
        Seen::Unfit { path, instead } => Some(Lack::Answer { path, instead }),
        Seen::Fit => None,
    }
}
