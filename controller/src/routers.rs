//! Which routers there are, and what they have told. In memory: after a restart they tell again.
//!
//! A router is there as long as it follows the table or was heard of lately. One that is expected
//! (it is configured, or it reported to an earlier run) counts as there until its time is over, so
//! that a controller that has just started waits for routers that are on their way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drowse_api::NodeName;
use drowse_api::routing::RouterStatus;
use tokio::time::Instant;

/// How long a router that does not follow the table is waited for. It connects again within 2 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// The routers.
#[derive(Debug, Default)]
pub struct Routers(
    // Held for map operations, never across an await.
    Mutex<BTreeMap<NodeName, Router>>,
);

#[derive(Debug)]
struct Router {
    status: Option<RouterStatus>,
    /// Its open streams: two for a moment when it connects again.
    streams: usize,
    heard: Instant,
}

impl Router {
    fn is_there(&self, now: Instant) -> bool {
        self.streams > 0 || now.duration_since(self.heard) < PATIENCE
    }
}

/// A router follows the table until this is dropped.
#[derive(Debug)]
pub struct Following {
    routers: Arc<Routers>,
    name: NodeName,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.routers.touch(&self.name, |router| router.streams = router.streams.saturating_sub(1));
    }
}

impl Routers {
    /// With those that are expected.
    #[must_use]
    pub fn expecting(names: impl IntoIterator<Item = NodeName>) -> Self {
        let routers = Self::default();
        names.into_iter().for_each(|name| routers.touch(&name, |_| {}));
        routers
    }

    /// A router begins to follow the table.
    #[must_use]
    pub fn follow(self: &Arc<Self>, name: NodeName) -> Following {
        self.touch(&name, |router| router.streams += 1);
        Following { routers: Arc::clone(self), name }
    }

    /// Keeps what a router tells.
    pub fn put(&self, name: &NodeName, status: RouterStatus) {
        self.touch(name, |router| router.status = Some(status));
    }

    /// Those that are there, with what they told last.
    #[must_use]
    pub fn all(&self) -> BTreeMap<NodeName, Option<RouterStatus>> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> BTreeMap<NodeName, Option<RouterStatus>> {
        let mut routers = self.lock();
        routers.retain(|_, router| router.is_there(now));
        routers.iter().map(|(name, router)| (name.clone(), router.status.clone())).collect()
    }

    fn touch(&self, name: &NodeName, change: impl FnOnce(&mut Router)) {
        let mut routers = self.lock();
        let router = routers.entry(name.clone());
        let router = router.or_insert_with(|| Router { status: None, streams: 0, heard: Instant::now() });
        router.heard = Instant::now();
        change(router);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeName, Router>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).expect("a name")
    }

    #[test]
    fn a_router_that_is_gone_is_waited_for_no_longer_and_one_that_follows_is() {
        let routers = Arc::new(Routers::expecting([name("expected")]));
        let following = routers.follow(name("follows"));
        let status = RouterStatus {
            name: "told".to_owned(),
            applied: 1,
            run: None,
            in_flight: BTreeMap::new(),
            active: BTreeMap::new(),
        };
        routers.put(&name("told"), status.clone());
        assert_eq!(routers.all().len(), 3);
        assert_eq!(routers.all()[&name("told")], Some(status));
        let later = Instant::now() + PATIENCE;
        assert_eq!(routers.at(later).into_keys().collect::<Vec<_>>(), [name("follows")]);
        drop(following);
        assert_eq!(routers.all().len(), 1, "it may connect again");
        assert!(routers.at(Instant::now() + PATIENCE).is_empty());
    }
}
