//! Swap for a test or a benchmark: a compressed device of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context;

/// A device that the kernel swaps to, for as long as this lives.
#[derive(Debug)]
pub struct Swap(u32);

impl Swap {
    /// Switched on, with this size: `256M`.
    ///
    /// # Errors
    /// Where this machine can have none.
    pub fn on(size: &str) -> anyhow::Result<Self> {
        let control = Path::new("/sys/class/zram-control/hot_add");
        if !control.exists() {
            let _ = Command::new("modprobe").arg("zram").status();
        }
        // Reading it makes one.
        let swap = Self(fs::read_to_string(control).context("no zram")?.trim().parse()?);
        fs::write(format!("/sys/block/zram{}/disksize", swap.0), size)?;
        for arguments in [&["mkswap", "-q"][..], &["swapon", "-p", "60"]] {
            let done = Command::new(arguments[0]).args(&arguments[1..]).arg(swap.device()).output()?;
            anyhow::ensure!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok(swap)
    }

    fn device(&self) -> String {
        format!("/dev/zram{}", self.0)
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(self.device()).output();
        let _ = fs::write("/sys/class/zram-control/hot_remove", self.0.to_string());
    }
}
