//! The monotonic and boot-time clocks inside of sandboxes: where they are, and how they go on elsewhere.
//! Timers are absolute: a process that came back to a clock that is lower would sleep until it is not.

use drowse_api::instance::ProcessIdentity;
use drowse_launcher::{Clock, ClockOffset};
use rustix::time::{ClockId, clock_gettime};

const SECOND: i128 = 1_000_000_000;

/// The host's two clocks, in nanoseconds.
fn host() -> [i128; 2] {
    [ClockId::Monotonic, ClockId::Boottime].map(|clock| {
        let now = clock_gettime(clock);
        i128::from(now.tv_sec) * SECOND + i128::from(now.tv_nsec)
    })
}

/// The two clocks in the time namespace of a sandbox, in nanoseconds; the host's if it has none.
pub(super) fn inside(init: ProcessIdentity) -> [i128; 2] {
    let offsets = std::fs::read_to_string(format!("/proc/{}/timens_offsets", init.pid)).unwrap_or_default();
    let [monotonic, boottime] = host();
    [monotonic + offset(&offsets, "monotonic"), boottime + offset(&offsets, "boottime")]
}

/// Seconds and nanoseconds behind a name, as the kernel lists them.
fn offset(offsets: &str, name: &str) -> i128 {
    let numbers = offsets.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    let mut numbers = numbers.split_whitespace().map(|number| number.parse::<i128>().unwrap_or_default());
    numbers.next().unwrap_or_default() * SECOND + numbers.next().unwrap_or_default()
}

/// Clocks that go on from these.
pub(super) fn going_on_from(clocks: [i128; 2]) -> Clock {
    let [monotonic, boottime] = host();
    let distance = |of: i128| ClockOffset {
        seconds: i64::try_from(of.div_euclid(SECOND)).unwrap_or_default(),
        nanoseconds: u32::try_from(of.rem_euclid(SECOND)).unwrap_or_default(),
    };
    Clock::Own { monotonic: distance(clocks[0] - monotonic), boottime: distance(clocks[1] - boottime) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_read_as_the_kernel_lists_them() {
        let offsets = "monotonic           -5         500000000\nboottime            6000         0\n";
        assert_eq!((offset(offsets, "monotonic"), offset(offsets, "boottime")), (-4_500_000_000, 6000 * SECOND));
        assert_eq!(offset("", "monotonic"), 0);
    }

    #[test]
    fn clocks_go_on_backwards_and_forwards() {
        let [monotonic, boottime] = host();
        let Clock::Own { monotonic: back, boottime: on } =
            going_on_from([monotonic - SECOND / 2, boottime + 7 * SECOND])
        else {
            panic!("clocks of its own");
        };
        // Some time has passed since.
        assert!(back.seconds < 0 && i128::from(back.nanoseconds) < SECOND);
        assert!((6..=7).contains(&on.seconds));
    }
}
