//! Whether the host's clock shows the time.

#![allow(unsafe_code, reason = "the C library's adjtimex has no wrapper")]

use std::time::SystemTime;

use drowse_api::agent::Check;

use super::{failure, ok, warning};

const ADVICE: &str = "have it set from the network: apt install systemd-timesyncd, or chrony";

/// Certificates and backoffs need a time that is not nonsense; logs of several hosts need the same one.
pub(super) fn clock() -> Check {
    let own = std::env::current_exe().and_then(|path| path.metadata()).and_then(|program| program.modified());
    if own.is_ok_and(|built| SystemTime::now() < built) {
        return failure("clock", "it shows a time before this program was built", ADVICE);
    }
    let now = format!("{:.0}", jiff::Timestamp::now());
    if is_kept() { ok("clock", now) } else { warning("clock", format!("{now}, and nothing keeps it right"), ADVICE) }
}

/// Whether something has told the kernel lately that its clock is right (adjtimex(2), `TIME_ERROR`).
fn is_kept() -> bool {
    // SAFETY: all-zero is a valid `timex`, and with no modes the kernel only writes into it.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure lives until the call returns.
    let result = unsafe { libc::adjtimex(&raw mut state) };
    result >= 0 && result != libc::TIME_ERROR
}
