//! Whose turn it is: so many builds of one user run at once, and the others wait in the order in which
//! they came. It knows nothing of what builds do.

use std::collections::{BTreeMap, VecDeque};

use drowse_api::{DeploymentId, UserId};
use tokio::sync::watch;

type Lines = BTreeMap<UserId, VecDeque<DeploymentId>>;

/// The builds of all users. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    at_once: usize,
    lines: watch::Sender<Lines>,
}

/// A build's place in the line of its user. Dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Place {
    queue: Queue,
    user: UserId,
    id: DeploymentId,
}

impl Queue {
    /// With room for so many builds of each user at once.
    pub fn new(at_once: usize) -> Self {
        Self { at_once, lines: watch::Sender::default() }
    }

    /// Takes the last place in the line of `user`.
    pub fn enter(&self, user: &UserId, id: &DeploymentId) -> Place {
        self.lines.send_modify(|lines| lines.entry(user.clone()).or_default().push_back(id.clone()));
        Place { queue: self.clone(), user: user.clone(), id: id.clone() }
    }
}

impl Place {
    /// Ready when it is this build's turn. Until then `told` hears behind how many it is, at first and
    /// whenever that changes.
    pub async fn turn(&self, mut told: impl FnMut(usize)) {
        let mut lines = self.queue.lines.subscribe();
        let mut last = None;
        loop {
            let ahead = self.ahead(&lines.borrow_and_update());
            if ahead < self.queue.at_once {
                return;
            }
            if last != Some(ahead) {
                told(ahead);
                last = Some(ahead);
            }
            // The sender is part of this very place.
            let _ = lines.changed().await;
        }
    }

    fn ahead(&self, lines: &Lines) -> usize {
        lines.get(&self.user).and_then(|line| line.iter().position(|id| *id == self.id)).unwrap_or(0)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.queue.lines.send_modify(|lines| {
            let Some(line) = lines.get_mut(&self.user) else { return };
            if let Some(at) = line.iter().position(|id| *id == self.id) {
                line.remove(at);
            }
            if line.is_empty() {
                lines.remove(&self.user);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserId {
        UserId::parse(name).expect("an id")
    }

    fn id(number: u32) -> DeploymentId {
        DeploymentId::parse(format!("d{number}")).expect("an id")
    }

    /// Whether it is the turn of `place`, and else behind how many it is.
    async fn waits(place: &Place) -> Option<usize> {
        let mut behind = None;
        tokio::select! {
            biased;
            () = place.turn(|ahead| behind = Some(ahead)) => None,
            () = tokio::task::yield_now() => Some(()),
        }?;
        behind
    }

    #[tokio::test]
    async fn builds_of_one_user_take_turns_in_the_order_in_which_they_came() {
        let queue = Queue::new(1);
        let (one, two, three) =
            (queue.enter(&user("a"), &id(1)), queue.enter(&user("a"), &id(2)), queue.enter(&user("a"), &id(3)));
        let other = queue.enter(&user("b"), &id(4));
        assert_eq!((waits(&one).await, waits(&other).await), (None, None), "users do not wait for each other");
        assert_eq!((waits(&two).await, waits(&three).await), (Some(1), Some(2)));
        // One that gives up while it waits makes room too.
        drop(two);
        assert_eq!(waits(&three).await, Some(1));
        drop(one);
        assert_eq!(waits(&three).await, None);
        drop((three, other));
        assert!(queue.lines.borrow().is_empty());
    }

    #[tokio::test]
    async fn a_waiting_build_is_told_of_every_change() {
        let queue = Queue::new(2);
        let mut before: VecDeque<_> = (0..4).map(|number| queue.enter(&user("a"), &id(number))).collect();
        let last = queue.enter(&user("a"), &id(9));
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        let waiting = tokio::spawn(async move { last.turn(|ahead| tell.send(ahead).expect("it is heard")).await });
        for expected in [4, 3, 2] {
            assert_eq!(told.recv().await, Some(expected));
            before.pop_front();
        }
        waiting.await.expect("its turn came");
    }
}
