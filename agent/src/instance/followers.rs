//! The routers of this node, as far as sleep is concerned: who follows the addresses of instances,
//! and who has let go of which.
//!
//! A router is one stream of pictures. One whose stream broke a moment ago, or that an earlier agent
//! had, may still be sending requests: nobody is sure until it has had time to come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use drowse_api::InstanceId;
use drowse_api::sleep::Quiet;
use tokio::sync::watch;
use tokio::time::Instant;

/// See the module.
#[derive(Debug)]
pub struct Followers {
    known: watch::Sender<Known>,
    patience: Duration,
    next: AtomicU64,
}

#[derive(Debug)]
struct Known {
    present: BTreeMap<u64, Follower>,
    /// Until when somebody who is not present may still send requests.
    unsure_until: Instant,
}

#[derive(Debug)]
struct Follower {
    name: String,
    /// What it has let go of, each by the number of the attempt.
    let_go: BTreeMap<InstanceId, u64>,
}

/// A router follows until this is dropped.
#[derive(Debug)]
pub struct Following {
    followers: Arc<Followers>,
    /// The number of its stream.
    pub number: u64,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.followers.known.send_modify(|known| {
            known.present.remove(&self.number);
            known.unsure_until = Instant::now() + self.followers.patience;
        });
    }
}

impl Followers {
    /// Nobody yet; whoever is on the way has `patience` to arrive.
    #[must_use]
    pub fn new(patience: Duration) -> Arc<Self> {
        let known = Known { present: BTreeMap::new(), unsure_until: Instant::now() + patience };
        Arc::new(Self { known: watch::Sender::new(known), patience, next: AtomicU64::new(1) })
    }

    /// A router begins to follow.
    #[must_use]
    pub fn follow(self: &Arc<Self>, name: &str) -> Following {
        let number = self.number();
        let follower = Follower { name: name.to_owned(), let_go: BTreeMap::new() };
        self.known.send_modify(|known| drop(known.present.insert(number, follower)));
        Following { followers: Arc::clone(self), number }
    }

    /// A number that was not given before: of a stream, or of an attempt.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A router has let go of an instance. `false` if it does not follow.
    #[must_use]
    pub fn let_go(&self, instance: &InstanceId, quiet: Quiet) -> bool {
        let mut is_present = false;
        self.known.send_if_modified(|known| {
            let follower = known.present.get_mut(&quiet.follower);
            is_present = follower.is_some();
            follower
                .is_some_and(|follower| follower.let_go.insert(instance.clone(), quiet.ticket) != Some(quiet.ticket))
        });
        is_present
    }

    /// Waits until every router has let go of `instance` in this attempt.
    pub async fn quiet(self: Arc<Self>, instance: InstanceId, ticket: u64) {
        let _forget = Forget { followers: &self, instance: &instance, ticket };
        let mut known = self.known.subscribe();
        loop {
            let (has_let_go, unsure_until) = {
                let known = known.borrow_and_update();
                let has_let_go = |follower: &Follower| follower.let_go.get(&instance) == Some(&ticket);
                (known.present.values().all(has_let_go), known.unsure_until)
            };
            let now = Instant::now();
            if has_let_go && unsure_until <= now {
                return;
            }
            tokio::select! {
                changed = known.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(unsure_until), if unsure_until > now => {}
            }
        }
    }

    /// The names of those who have not let go of `instance` in this attempt.
    #[must_use]
    pub fn holding(&self, instance: &InstanceId, ticket: u64) -> Vec<String> {
        let known = self.known.borrow();
        let holds = |follower: &&Follower| follower.let_go.get(instance) != Some(&ticket);
        known.present.values().filter(holds).map(|follower| follower.name.clone()).collect()
    }
}

/// Forgets what was told in an attempt when the attempt is over.
struct Forget<'a> {
    followers: &'a Followers,
    instance: &'a InstanceId,
    ticket: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.followers.known.send_if_modified(|known| {
            for follower in known.present.values_mut() {
                if follower.let_go.get(self.instance) == Some(&self.ticket) {
                    follower.let_go.remove(self.instance);
                }
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> InstanceId {
        InstanceId::parse("one").expect("an id")
    }

    async fn is_quiet(followers: &Arc<Followers>, ticket: u64) -> bool {
        let quiet = Arc::clone(followers).quiet(id(), ticket);
        tokio::time::timeout(Duration::from_millis(10), quiet).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn every_router_must_let_go_in_this_attempt() {
        let followers = Followers::new(Duration::ZERO);
        let (a, b) = (followers.follow("a"), followers.follow("b"));
        assert!(followers.let_go(&id(), Quiet { follower: a.number, ticket: 7 }));
        assert_eq!(followers.holding(&id(), 7), ["b"]);
        assert!(!is_quiet(&followers, 7).await, "one is missing");
        assert!(followers.let_go(&id(), Quiet { follower: a.number, ticket: 7 }));
        assert!(followers.let_go(&id(), Quiet { follower: b.number, ticket: 6 }));
        assert!(!is_quiet(&followers, 7).await, "it answered an earlier attempt");
        assert!(followers.let_go(&id(), Quiet { follower: a.number, ticket: 7 }));
        assert!(followers.let_go(&id(), Quiet { follower: b.number, ticket: 7 }));
        assert!(is_quiet(&followers, 7).await);
        assert!(!is_quiet(&followers, 7).await, "what was told is over with the attempt");
        assert!(!followers.let_go(&id(), Quiet { follower: 99, ticket: 7 }), "nobody follows by that number");
    }

    #[tokio::test(start_paused = true)]
    async fn a_router_that_was_lost_has_time_to_come_back() {
        let followers = Followers::new(Duration::from_secs(5));
        assert!(!is_quiet(&followers, 1).await, "one of before may be on its way");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(is_quiet(&followers, 1).await, "there is none");
        let router = followers.follow("a");
        assert!(followers.let_go(&id(), Quiet { follower: router.number, ticket: 2 }));
        assert!(is_quiet(&followers, 2).await);
        drop(router);
        assert!(!is_quiet(&followers, 3).await, "it may still send requests");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(is_quiet(&followers, 3).await);
    }
}
