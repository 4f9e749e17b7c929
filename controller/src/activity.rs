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

/// Above this part of one processor an app works, in thousandths, beside what it used in its quiet
/// minute: measured of idle servers are 1 to 5.
const BUSY: u64 = 20;

/// The most that an app may use in its quiet minute without counting as busy for it, in thousandths: what
/// works from its first second on does not work in vain.
const MOST_QUIET: u64 = 30;

/// In which part of its life an app's quiet is measured, in milliseconds: not while it starts, and not
/// when it may have been given work.
const QUIET: std::ops::RangeInclusive<u64> = 5_000..=75_000;

/// Above this many bytes an app talks to somebody. What keeps connections open alone is far less.
const BUSY_TRAFFIC: u64 = 16 << 10;

/// What kind of thing keeps an app awake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Sign {
    /// Somebody asked for it.
    Request,
    /// It was started or woken.
    Awake,
    /// It worked.
    #[default]
    Processor,
    /// It talked to somebody.
    Traffic,
    /// It held a lease.
    Lease,
}

impl Sign {
    /// As what would have woken it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "a request or stream",
            Self::Awake => "a start or a wake",
            Self::Processor => "work of its own",
            Self::Traffic => "traffic of its own",
            Self::Lease => "a lease",
        }
    }
}

/// What was measured of one instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// When it was last found busy, if ever.
    pub busy_at: Option<Timestamp>,
    /// With what, as the beginning of a sentence that ends in the time.
    pub why: String,
    /// What kind of thing that is.
    pub sign: Sign,
    /// Until when it holds a lease, if it does.
    pub lease: Option<Timestamp>,
}

/// Compares counts.
#[derive(Debug, Default)]
pub struct Meter {
    before: BTreeMap<InstanceId, (Instant, Activity)>,
    measured: BTreeMap<InstanceId, Measured>,
    /// What each used in its quietest look of its quiet minute, in thousandths of a processor.
    quiet: BTreeMap<InstanceId, u64>,
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
        self.quiet.retain(|id, _| counts.contains_key(id));
        for (id, count) in counts {
            let Some((began, before)) = self.before.insert(id.clone(), (at, count)) else { continue };
            let elapsed = u64::try_from(at.duration_since(began).as_millis()).unwrap_or(u64::MAX).max(1);
            let used = count.cpu.saturating_sub(before.cpu).saturating_mul(1000) / elapsed;
            let traffic = count.traffic.saturating_sub(before.traffic);
            // The whole look was in its quiet minute, and nobody talked to it.
            if QUIET.contains(&before.age) && QUIET.contains(&count.age) && traffic <= BUSY_TRAFFIC {
                let quiet = self.quiet.entry(id.clone()).or_insert(MOST_QUIET);
                *quiet = used.min(*quiet);
            }
            let own = used.saturating_sub(self.quiet.get(&id).copied().unwrap_or_default());
            let measured = self.measured.entry(id).or_default();
            measured.lease = count.lease;
            let (sign, why) = if own > BUSY {
                (Sign::Processor, format!("it used {} % of a processor", used.div_ceil(10)))
            } else if traffic > BUSY_TRAFFIC {
                (Sign::Traffic, format!("it moved {} KiB", traffic >> 10))
            } else {
                continue;
            };
            *measured = Measured { busy_at: Some(now), why, sign, lease: count.lease };
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
            let counts = BTreeMap::from([(id.clone(), Activity { cpu, traffic, ..Activity::default() })]);
            let found = meter.update(counts, began + Duration::from_secs(seconds), now + Duration::from_secs(seconds));
            found.get(&id).cloned()
        };
        assert_eq!(at(0, 5_000, 1 << 20), None, "a first count says nothing");
        assert_eq!(at(10, 5_100, (1 << 20) + 900), Some(Measured::default()), "idle: 1 % and some keep-alives");
        let busy = at(20, 5_390, (1 << 20) + 900).expect("measured");
        assert_eq!(
            (busy.busy_at, busy.why.as_str()),
            (Some(now + Duration::from_secs(20)), "it used 3 % of a processor")
        );
        assert_eq!(at(30, 5_390, (1 << 20) + 900).and_then(|found| found.busy_at), busy.busy_at, "it was, then");
        assert_eq!(at(40, 5_390, 2 << 20).expect("measured").why, "it moved 1023 KiB");
        assert_eq!(at(50, 10, 10).and_then(|found| found.busy_at), Some(now + Duration::from_secs(40)), "started anew");
        assert!(meter.update(BTreeMap::new(), began, now).is_empty());
    }
    #[test]
    fn what_an_app_uses_in_its_quiet_minute_is_no_work_and_what_works_from_the_first_second_on_is() {
        let (began, now) = (Instant::now(), Timestamp::UNIX_EPOCH);
        // Thousandths of a processor, second by second of ten; and whether the last look found it busy.
        let busy_after = |uses: &[u64]| {
            let id = InstanceId::parse("one").expect("an id");
            let (mut meter, mut cpu, mut last) = (Meter::default(), 0, None);
            for (look, used) in std::iter::once(&0).chain(uses).enumerate() {
                let seconds = 10 * look as u64;
                cpu += used * 10;
                let count = Activity { cpu, age: 6_000 + seconds * 1000, ..Activity::default() };
                let at = began + Duration::from_secs(seconds);
                last = meter.update([(id.clone(), count)].into(), at, now + Duration::from_secs(seconds)).remove(&id);
            }
            last.and_then(|measured| measured.busy_at) == Some(now + Duration::from_secs(10 * uses.len() as u64))
        };
        assert!(!busy_after(&[25, 26, 24, 25, 25, 26, 25, 25]), "2.5 % from its start on is how it idles");
        assert!(busy_after(&[25, 26, 24, 25, 25, 26, 25, 50]), "twice of that is work");
        assert!(busy_after(&[1, 1, 1, 1, 1, 1, 1, 25]), "2.5 % where it was idle before is work");
        assert!(busy_after(&[500; 8]), "half a processor is work from the first second on");
        assert!(!busy_after(&[700, 1, 1, 1, 1, 1, 1, 1]), "a start is over when it is over");
    }
}
