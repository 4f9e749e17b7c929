//! What the sandboxes of users use at this moment: instances, and commands with sandboxes of their own.

use drowse_api::agent::{Occupant, PlaceUsage};
use drowse_api::{InstanceId, MemoryBytes, Problem};

use super::{Commands, blocking, lock};
use crate::cgroup::Slice;
use crate::host::home::RUN;
use crate::instance::Instances;

impl Commands {
    /// Of every sandbox of a user that has groups now.
    ///
    /// # Errors
    /// If the groups cannot be listed; one that goes meanwhile is left out.
    pub async fn usage(&self, instances: &Instances<crate::host::Node>) -> Result<Vec<PlaceUsage>, Problem> {
        let known: std::collections::BTreeMap<_, _> =
            instances.list().instances.into_iter().map(|status| (status.id, status.app)).collect();
        let runs = lock(&self.runs).clone();
        let cgroups = std::sync::Arc::clone(&self.node.sandboxes.cgroups);
        blocking(move || {
            let places = cgroups.list().map_err(|error| crate::problem::of_sandbox(&error.into()))?;
            let mut all = Vec::new();
            for place in places {
                let Slice::User(user) = place.slice() else { continue };
                let id = |text: &str| InstanceId::parse(text).ok();
                let found = match place.id().strip_prefix(RUN) {
                    Some(own) => id(own).and_then(|id| Some((runs.get(&id)?.clone(), Occupant::Run(id)))),
                    None => id(place.id()).and_then(|id| Some((known.get(&id)?.clone(), Occupant::Instance(id)))),
                };
                let (Some((app, what)), Ok(usage), Ok(limits)) = (found, cgroups.usage(&place), cgroups.limits(&place))
                else {
                    continue;
                };
                all.push(PlaceUsage {
                    user: user.clone(),
                    app,
                    what,
                    memory: MemoryBytes(usage.memory),
                    peak: usage.peak.map(MemoryBytes),
                    pids: usage.pids,
                    cpu_microseconds: u64::try_from(usage.cpu.as_micros()).unwrap_or(u64::MAX),
                    limits,
                    at_microseconds: now(),
                });
            }
            Ok(all)
        })
        .await
    }
}

/// Microseconds of the monotonic clock.
fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000 + u64::try_from(now.tv_nsec / 1000).unwrap_or_default()
}
