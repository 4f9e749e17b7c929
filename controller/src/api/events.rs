//! Events for users: the kept ones, then those to come.
//!
//! As NDJSON, or as server-sent events to who accepts them: then each has its revision as its id, and
//! a browser that was cut off goes on after the last it saw.

use axum::extract::State;
use axum::response::Response;
use drowse_api::event::Event;
use drowse_api::{ErrorCode, Problem, UserId};
use http::{HeaderMap, header};
use serde::Deserialize;

use super::Api;
use super::access::Caller;
use super::answer::{Answer, Params, bad_request};
use super::ndjson::{self, Form};
use crate::desired::Desired;
use crate::events::{Follower, stored};
use crate::ledger::{Ledger, problem};

const EVENT_STREAM: &str = "text/event-stream";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    app: Option<String>,
    after: Option<u64>,
    #[serde(default)]
    follow: bool,
    tail: Option<usize>,
}

/// Which events someone asked for and may see.
struct Filter {
    app: Option<String>,
    caller: Caller,
}

impl Filter {
    fn admits(&self, ledger: &Ledger, event: &Event) -> bool {
        let name = event.app.as_ref().map(AsRef::<str>::as_ref);
        if self.app.is_some() && self.app.as_deref() != name {
            return false;
        }
        let owner = |name: &str| -> Option<UserId> { Some(ledger.desired().apps.get(name)?.owner.clone()) };
        // Events of apps that are gone, and of the platform, are the operator's.
        self.caller.is_admin || name.and_then(owner).is_some_and(|owner| owner == self.caller.user)
    }
}

pub(super) async fn events(
    caller: Caller,
    State(api): State<Api>,
    Params(query): Params<Query>,
    headers: HeaderMap,
) -> Answer<Response> {
    let form = form(&headers);
    let resumed = last_event_id(&headers)?.or(query.after);
    let after = resumed.unwrap_or(0);
    let (mut found, read_at) = stored(api.ledger.store(), after).await.map_err(|error| problem(&error))?;
    if resumed.is_some() {
        check_kept(&api.ledger.desired(), after)?;
    }
    let newest = found.last().map_or(after, |event| event.revision);
    let filter = Filter { app: query.app, caller };
    found.retain(|event| filter.admits(&api.ledger, event));
    if let Some(tail) = query.tail {
        found = found.split_off(found.len().saturating_sub(tail));
    }
    Ok(ndjson::stream_as(form, api.end.clone(), |out| async move {
        for event in &found {
            out.send(event).await?;
        }
        if !query.follow {
            return Ok(());
        }
        let mut follower = Follower::new(api.ledger.store(), read_at, newest);
        loop {
            // A reader that was too slow for what is kept is cut off, and told when it comes again.
            let Ok(events) = follower.next().await else { return Ok(()) };
            for event in events.iter().filter(|event| filter.admits(&api.ledger, event)) {
                out.send(event).await?;
            }
        }
    }))
}

fn form(headers: &HeaderMap) -> Form<Event> {
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let wants = accepted
        .flat_map(|value| value.split(','))
        .any(|media| media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case(EVENT_STREAM)));
    let sse = Form { media: EVENT_STREAM, heartbeat: b":\n\n", encode: server_sent };
    if wants { sse } else { Form::NDJSON }
}

/// JSON has no line ends of its own: it is one line of data.
fn server_sent(event: &Event) -> Option<Vec<u8>> {
    let data = serde_json::to_string(event).ok()?;
    Some(format!("id: {}\ndata: {data}\n\n", event.revision).into_bytes())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    number.map(Some).ok_or_else(|| bad_request("Last-Event-ID must be the revision of an event"))
}

/// Whether every event after this one is there. Looked at after they were read: what is dropped
/// meanwhile is told to be gone rather than left out.
fn check_kept(desired: &Desired, after: u64) -> Result<(), Problem> {
    let Some(counter) = desired.counters.get("events") else { return Ok(()) };
    if after.saturating_add(1) < counter.first {
        let detail = format!("events {} to {} are not kept any more", after + 1, counter.first - 1);
        let problem = Problem::new(ErrorCode::Compacted, detail);
        return Err(problem.hint(format!("ask for those after {}, or for all that are kept", counter.first - 1)));
    }
    if after >= counter.next {
        let detail = format!("there is no event {after}: the newest is {}", counter.next - 1);
        let problem = Problem::new(ErrorCode::Compacted, detail);
        return Err(problem.hint("the records were put back to an older state; ask for all events that are kept"));
    }
    Ok(())
}
