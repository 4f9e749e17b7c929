//! Snapshots take bounded room on the disk: those of each user, and all of the node. The oldest go first; their
//! instances sleep on, cold.

use std::collections::{BTreeMap, BTreeSet};

use drowse_api::instance::{InstanceState, InstanceStatus};
use drowse_api::sleep::{Depth, SleepRequest};
use drowse_api::{Epoch, InstanceId, MemoryBytes, UserId};
use jiff::Timestamp;

use super::host::Host;
use super::registry::Instances;
use crate::config::Room;

/// One whose snapshot is to be dropped.
#[derive(Debug, PartialEq, Eq)]
struct Dropped {
    id: InstanceId,
    epoch: Epoch,
    /// As the rest of a sentence.
    reason: String,
}

/// Who is on disk: the oldest first.
fn on_disk(board: &BTreeMap<InstanceId, InstanceStatus>) -> Vec<(Timestamp, u64, &InstanceStatus)> {
    let mut found: Vec<_> = board
        .values()
        .filter_map(|status| match (&status.state, status.on_disk) {
            (InstanceState::Frozen { since, .. }, Some(size)) => Some((*since, size.0, status)),
            _ => None,
        })
        .collect();
    found.sort_by_key(|(since, _, _)| *since);
    found
}

/// What has to go so that the rest is within its bounds.
fn overflow(board: &BTreeMap<InstanceId, InstanceStatus>, room: Room) -> Vec<Dropped> {
    let found = on_disk(board);
    let mut dropped = Vec::new();
    let mut gone = BTreeSet::new();
    let mut within = |most: MemoryBytes, whose: &str, of: Option<&UserId>| {
        let is_meant = |status: &InstanceStatus| of.is_none_or(|user| status.user == *user);
        let left = found.iter().filter(|(_, _, status)| is_meant(status) && !gone.contains(&status.id));
        let left: Vec<_> = left.collect();
        let mut sum: u64 = left.iter().map(|(_, size, _)| size).sum();
        let taken = MemoryBytes(sum);
        for (_, size, status) in left {
            if sum <= most.0 {
                break;
            }
            sum -= size;
            gone.insert(status.id.clone());
            let reason = format!("snapshots of {whose} took {taken} of {most} on the disk, and this was the oldest");
            dropped.push(Dropped { id: status.id.clone(), epoch: status.epoch, reason });
        }
    };
    let users: BTreeSet<_> = found.iter().map(|(_, _, status)| &status.user).collect();
    for user in users {
        within(room.user, "its user", Some(user));
    }
    within(room.node, "the node", None);
    dropped
}

impl<H: Host> Instances<H> {
    /// Sees to it for good that snapshots are within `room`.
    pub async fn keep_within(&self, room: Room) {
        let mut board = self.watch();
        loop {
            let over = overflow(&board.borrow_and_update(), room);
            for Dropped { id, epoch, reason } in over {
                let request =
                    SleepRequest { epoch, depth: Depth::Cold, grace_seconds: 0, reason, unless_leased: false };
                // One that is woken meanwhile uses its snapshot up, which is as well.
                if let Err(problem) = self.sleep(&id, request).await {
                    tracing::debug!(instance = %id, "its snapshot is not dropped: {problem}");
                }
            }
            if board.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::fake::Bench;
    use crate::instance::naps::{asleep, demand, depth_of};

    const ROOM: Room = Room { user: MemoryBytes::mib(100), node: MemoryBytes::mib(150), keep_free: MemoryBytes(0) };

    /// A board of sleepers: whose, since when, and how many MiB.
    async fn board(sleepers: &[(&str, i64, u64)]) -> BTreeMap<InstanceId, InstanceStatus> {
        let bench: Bench = asleep(Depth::Snapshot).await;
        let like = bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
        let one = |(number, (user, since, size)): (usize, &(&str, i64, u64))| {
            let mut status = like.clone();
            status.id = InstanceId::parse(format!("i{number}")).expect("an id");
            status.user = UserId::parse(*user).expect("an id");
            status.on_disk = Some(MemoryBytes::mib(*size));
            if let InstanceState::Frozen { since: at, .. } = &mut status.state {
                *at = Timestamp::from_second(*since).expect("a time");
            }
            (status.id.clone(), status)
        };
        sleepers.iter().enumerate().map(one).collect()
    }

    async fn dropped(sleepers: &[(&str, i64, u64)]) -> Vec<String> {
        overflow(&board(sleepers).await, ROOM).into_iter().map(|dropped| dropped.id.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_go_until_the_user_and_the_node_are_within_their_bounds() {
        assert_eq!(dropped(&[("ann", 1, 50), ("ann", 2, 50), ("bob", 3, 50)]).await, Vec::<String>::new());
        assert_eq!(dropped(&[("ann", 3, 60), ("ann", 1, 30), ("ann", 2, 30)]).await, ["i1"]);
        assert_eq!(dropped(&[("ann", 3, 90), ("ann", 1, 10), ("ann", 2, 10)]).await, ["i1"]);
        // The node's own bound, over all users; what a user's bound dropped counts no more.
        assert_eq!(dropped(&[("ann", 2, 80), ("bob", 1, 80)]).await, ["i1"]);
        assert_eq!(dropped(&[("ann", 1, 80), ("ann", 2, 80), ("bob", 3, 60)]).await, ["i0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_dropped_sleeps_on_cold_is_told_why_and_can_be_woken() {
        let bench: Bench = asleep(Depth::Snapshot).await;
        bench.until(|status| depth_of(status) == Some(Depth::Snapshot)).await;
        let room = Room { user: MemoryBytes(4095), ..ROOM };
        tokio::select! {
            () = bench.instances.keep_within(room) => unreachable!("it goes on"),
            _ = bench.until(|status| depth_of(status) == Some(Depth::Cold)) => {}
        }
        let told = bench.messages();
        let why =
            "sleeps deeper (cold): snapshots of its user took 4 KiB of 3.9 KiB on the disk, and this was the oldest";
        assert!(told.iter().any(|message| message == why), "{told:?}");
        bench.instances.demand(&bench.id, demand()).await.expect("taken");
        bench.until(|status| status.state.is_ready()).await;
        assert_eq!(bench.host.calls(), ["launch", "dump", "clear", "launch"]);
    }
}
