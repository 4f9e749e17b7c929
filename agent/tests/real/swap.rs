//! Swap for a test: a compressed device of its own, for as long as it is needed.

use std::path::Path;
use std::process::Command;

/// A device that the kernel swaps to.
pub struct Swap(u32);

impl Swap {
    /// Switched on; nothing, and why, where this machine can have none.
    pub fn on() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            return skipped("not root");
        }
        let control = Path::new("/sys/class/zram-control/hot_add");
        if !control.exists() {
            let _ = Command::new("modprobe").arg("zram").status();
        }
        // Reading it makes one.
        let Ok(number) = std::fs::read_to_string(control) else { return skipped("no zram: nothing can be paged out") };
        let swap = Self(number.trim().parse().expect("a number"));
        std::fs::write(format!("/sys/block/zram{}/disksize", swap.0), "256M").expect("a size");
        for arguments in [&["mkswap", "-q"][..], &["swapon", "-p", "50"]] {
            let done = Command::new(arguments[0]).args(&arguments[1..]).arg(swap.device()).output();
            let done = done.expect("util-linux is there");
            assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Some(swap)
    }

    fn device(&self) -> String {
        format!("/dev/zram{}", self.0)
    }
}

fn skipped(why: &str) -> Option<Swap> {
    eprintln!("SKIPPED: {why}");
    None
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(self.device()).status();
        let removed = std::fs::write("/sys/class/zram-control/hot_remove", self.0.to_string());
        if !std::thread::panicking() {
            removed.expect("the device is gone");
        }
    }
}
