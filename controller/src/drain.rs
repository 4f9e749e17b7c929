//! When an instance that gets no new requests has finished its old ones.

use drowse_api::InstanceId;
use drowse_api::routing::RouterStatus;
use drowse_store::Revision;
use jiff::{SignedDuration, Timestamp};

use crate::picture::Picture;

/// Whether an instance that was decided to drain at revision `decided` (and at `since` by the
/// clock) may be stopped: a table without it is published, every router serves by it and has
/// nothing of it in flight; or the time is over. With no router known, only time tells.
#[must_use]
pub fn is_drained(
    picture: &Picture,
    instance: &InstanceId,
    decided: Revision,
    since: Timestamp,
    now: Timestamp,
) -> bool {
    let limit = SignedDuration::from_secs(i64::from(picture.settings.drain_seconds));
    if now.duration_since(since) >= limit {
        return true;
    }
    let is_published = picture.published.as_of >= decided;
    let has_let_go = |status: &Option<RouterStatus>| {
        let is_free = |status: &RouterStatus| status.in_flight.get(instance).is_none_or(|count| *count == 0);
        picture.published.is_applied(status.as_ref()) && status.as_ref().is_some_and(is_free)
    };
    is_published && !picture.routers.is_empty() && picture.routers.values().all(has_let_go)
}
