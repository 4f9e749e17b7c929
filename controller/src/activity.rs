//! How much instances do by themselves: processor time and traffic, measured from what their node counts.

use std::collections::BTreeMap;
use std::time::Duration;

use drowse_api::InstanceId;
use drowse_api::client::Client;
use drowse_api::sleep::Activity;
use jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::picture::NodeView;

/// Above this part of one processor an app works: measured of idle servers are 0.1 to 0.5 %.
const BUSY_PERCENT: u128 = 2;

/// Above this many bytes an app talks to somebody. What keeps connections open alone is far less.
const BUSY_TRAFFIC: u64 = 16 << 10;

/// What was measured of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// When it was last found busy, if ever.
    pub busy_at: Option<Timestamp>,
    /// With what, as the beginning of a sentence that ends in the time.
    pub why: String,
}

/// Compares counts.
#[derive(Debug, Default)]
pub struct Meter {
    before: BTreeMap<InstanceId, (Instant, Activity)>,
    measured: BTreeMap<InstanceId, Measured>,
}

impl Meter {
    /// With new counts. What is not among them does not run any more, and is measured anew when it does.
    pub fn update(
        &mut self,
        counts: BTreeMap<InstanceId, Activity>,
        at: Instant,
        now: Timestamp,
    ) -> BTreeMap<InstanceId, Measured> {
        self.measured.retain(|id, _| counts.contains_key(id));
        self.before.retain(|id, _| counts.contains_key(id));
        for (id, count) in counts {
            let Some((began, before)) = self.before.insert(id.clone(), (at, count)) else { continue };
            let measured = self.measured.entry(id).or_default();
            let elapsed = at.duration_since(began).as_millis().max(1);
            let percent = u128::from(count.cpu.saturating_sub(before.cpu)) * 100 / elapsed;
            let traffic = count.traffic.saturating_sub(before.traffic);
            if percent > BUSY_PERCENT {
                *measured = Measured { busy_at: Some(now), why: format!("it used {percent} % of a processor") };
            } else if traffic > BUSY_TRAFFIC {
                *measured = Measured { busy_at: Some(now), why: format!("it moved {} KiB", traffic >> 10) };
            }
        }
        self.measured.clone()
    }
}

/// Measures again and again, and puts it into what is known of the node.
pub async fn follow(client: Client, view: watch::Sender<NodeView>, every: Duration) {
    let mut meter = Meter::default();
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if !view.borrow().is_connected {
            continue;
        }
        match client.get::<BTreeMap<InstanceId, Activity>>("/v1/activity").await {
            Ok(counts) => {
                let measured = meter.update(counts, Instant::now(), Timestamp::now());
                view.send_if_modified(|view| {
                    let is_new = view.measured != measured;
                    view.measured = measured;
                    is_new
                });
            }
            Err(problem) => tracing::debug!(%problem, "what instances do was not told"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_and_traffic_count_and_keeping_a_connection_does_not() {
        let id = InstanceId::parse("one").expect("an id");
        let (began, now) = (Instant::now(), Timestamp::UNIX_EPOCH);
        let mut meter = Meter::default();
        let mut at = |seconds: u64, cpu, traffic| {
            let counts = BTreeMap::from([(id.clone(), Activity { cpu, traffic })]);
            let found = meter.update(counts, began + Duration::from_secs(seconds), now + Duration::from_secs(seconds));
            found.get(&id).cloned()
        };
        assert_eq!(at(0, 5_000, 1 << 20), None, "a first count says nothing");
        assert_eq!(at(10, 5_100, (1 << 20) + 900), Some(Measured::default()), "idle: 1 % and some keep-alives");
        let busy = at(20, 5_400, (1 << 20) + 900).expect("measured");
        assert_eq!(
            (busy.busy_at, busy.why.as_str()),
            (Some(now + Duration::from_secs(20)), "it used 3 % of a processor")
        );
        assert_eq!(at(30, 5_400, (1 << 20) + 900).and_then(|found| found.busy_at), busy.busy_at, "it was, then");
        assert_eq!(at(40, 5_400, 2 << 20).expect("measured").why, "it moved 1023 KiB");
        assert_eq!(at(50, 10, 10).and_then(|found| found.busy_at), Some(now + Duration::from_secs(40)), "started anew");
        assert!(meter.update(BTreeMap::new(), began, now).is_empty());
    }
}
