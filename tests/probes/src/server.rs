//! The trivial server that `scripts/bench start` has started: notes the time as its first act, and tells it
//! to everybody who connects. Linked statically, so that its own start costs next to nothing.

use std::io::Write;
use std::net::TcpListener;

/// The port of every side.
const PORT: u16 = 8080;

fn main() -> std::io::Result<()> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the time, which lives until the call returns.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let listener = TcpListener::bind(("0.0.0.0", PORT))?;
    for visitor in listener.incoming() {
        // Who only looks whether somebody listens is gone already.
        let _ = visitor?.write_all(format!("{}.{:09}\n", now.tv_sec, now.tv_nsec).as_bytes());
    }
    Ok(())
}
