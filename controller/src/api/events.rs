//! Events for users: the kept ones, then those to come.

use axum::extract::State;
use axum::response::Response;
use drowse_api::UserId;
use drowse_api::event::Event;
use serde::Deserialize;

use super::Api;
use super::access::Caller;
use super::answer::{Answer, Params};
use super::ndjson;
use crate::events::{Follower, stored};
use crate::ledger::{Ledger, problem};

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

pub(super) async fn events(caller: Caller, State(api): State<Api>, Params(query): Params<Query>) -> Answer<Response> {
    let after = query.after.unwrap_or(0);
    let (mut found, read_at) = stored(api.ledger.store(), after).await.map_err(|error| problem(&error))?;
    let newest = found.last().map_or(after, |event| event.revision);
    let filter = Filter { app: query.app, caller };
    found.retain(|event| filter.admits(&api.ledger, event));
    if let Some(tail) = query.tail {
        found = found.split_off(found.len().saturating_sub(tail));
    }
    Ok(ndjson::stream(api.end.clone(), |out| async move {
        for event in &found {
            out.send(event).await?;
        }
        if !query.follow {
            return Ok(());
        }
        let mut follower = Follower::new(api.ledger.store(), read_at, newest);
        loop {
            let Ok(events) = follower.next().await else { return Ok(()) };
            for event in events.iter().filter(|event| filter.admits(&api.ledger, event)) {
                out.send(event).await?;
            }
        }
    }))
}
