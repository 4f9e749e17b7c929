//! Whom apps were woken for: one address may not wake everything.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::instance::Instance;

/// For how long a wake counts.
const WINDOW: Duration = Duration::from_secs(60);
/// How many addresses are remembered; beyond, those whose time is over are forgotten, then all.
const ADDRESSES: usize = 10_000;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Woken(
    // Held for map operations; asked only by requests that would wake something from a deep sleep.
    Mutex<HashMap<IpAddr, Recent>>,
);

#[derive(Debug)]
struct Recent {
    began: Instant,
    apps: BTreeSet<usize>,
}

impl Woken {
    /// Whether a visitor from `address` may have this app woken; if not, in how many seconds.
    pub(crate) fn may(&self, address: IpAddr, instance: &Arc<Instance>, most: usize, now: Instant) -> Result<(), u32> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= ADDRESSES {
            known.retain(|_, recent| now.duration_since(recent.began) < WINDOW);
            if known.len() >= ADDRESSES {
                known.clear();
            }
        }
        let recent = known.entry(network(address)).or_insert_with(|| Recent { began: now, apps: BTreeSet::new() });
        if now.duration_since(recent.began) >= WINDOW {
            *recent = Recent { began: now, apps: BTreeSet::new() };
        }
        let app = Arc::as_ptr(instance) as usize;
        if recent.apps.contains(&app) {
            return Ok(());
        }
        if recent.apps.len() >= most {
            let left = WINDOW.saturating_sub(now.duration_since(recent.began));
            return Err(u32::try_from(left.as_secs()).unwrap_or_default() + 1);
        }
        recent.apps.insert(app);
        Ok(())
    }
}

/// One customer has many addresses of version 6: as many as a /64 holds.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_wakes_so_many_apps_in_a_minute_and_others_are_not_hindered() {
        let (woken, now) = (Woken::default(), Instant::now());
        let apps: Vec<_> =
            (0..4).map(|_| Instance::new(None, "10.0.0.1:1".parse().expect("one"), 1, Arc::default())).collect();
        let may = |ip: &str, app: usize, at| woken.may(ip.parse().expect("one"), &apps[app], 2, at);
        assert_eq!(may("192.0.2.1", 0, now), Ok(()));
        assert_eq!(may("192.0.2.1", 1, now), Ok(()));
        assert_eq!(may("192.0.2.1", 0, now), Ok(()), "the same app again");
        assert!(may("192.0.2.1", 2, now).is_err_and(|seconds| (1..=61).contains(&seconds)));
        assert_eq!(may("192.0.2.2", 2, now), Ok(()));
        assert_eq!(may("2001:db8::1", 0, now), Ok(()));
        assert_eq!(may("2001:db8::2", 1, now), Ok(()));
        assert!(may("2001:db8::3", 2, now).is_err(), "the same network");
        assert_eq!(may("192.0.2.1", 2, now + WINDOW), Ok(()));
    }
}
