//! A program on a terminal, as somebody at a keyboard has it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

/// How long something may take to appear.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program and its terminal.
pub struct Pty {
    keyboard: File,
    child: Child,
    /// All that was shown.
    shown: String,
    /// Up to where it was looked at.
    seen: usize,
}

impl Pty {
    /// Starts a command on a terminal of this size, which is its controlling one.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &Command, rows: u16, columns: u16) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&keyboard).expect("a terminal");
        unlockpt(&keyboard).expect("a terminal");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let end = ioctl_tiocgptpeer(&keyboard, flags).expect("the other end");
        resize(&keyboard, rows, columns);
        let stdio = |end: &OwnedFd| Stdio::from(end.try_clone().expect("one more descriptor"));
        let mut leader = Command::new("setsid");
        leader.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => leader.env(name, value),
                None => leader.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            leader.current_dir(folder);
        }
        let child = leader.stdin(stdio(&end)).stdout(stdio(&end)).stderr(stdio(&end)).spawn().expect("setsid starts");
        Self { keyboard: keyboard.into(), child, shown: String::new(), seen: 0 }
    }

    /// Waits until this text is shown, after what was waited for before.
    ///
    /// # Panics
    /// When it is not shown in time, with all that was.
    pub fn shows(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.shown[self.seen..].find(text) {
                self.seen += at + text.len();
                return;
            }
            assert!(Instant::now() < deadline && self.read(), "{text:?} is not shown after {:?}", self.shown);
        }
    }

    /// Whether this was shown at any time.
    #[must_use]
    pub fn has_shown(&self, text: &str) -> bool {
        self.shown.contains(text)
    }

    /// Presses these keys.
    ///
    /// # Panics
    /// When nobody has the terminal any more.
    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("typed");
    }

    /// Gives the terminal another size.
    pub fn resizes(&self, rows: u16, columns: u16) {
        resize(&self.keyboard, rows, columns);
    }

    /// Waits until the program ends, and says with which code.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn ends(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        while self.read() {
            assert!(Instant::now() < deadline, "it does not end after {:?}", self.shown);
        }
        self.child.wait().expect("waited for").code()
    }

    /// Reads what is there; whether there can be more.
    fn read(&mut self) -> bool {
        let mut waited = [PollFd::from_borrowed_fd(self.keyboard.as_fd(), PollFlags::IN)];
        let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
        if !matches!(rustix::event::poll(&mut waited, Some(&limit)), Ok(1..)) {
            return true;
        }
        let mut buffer = [0; 4096];
        match self.keyboard.read(&mut buffer) {
            Ok(length @ 1..) => {
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
                true
            }
            _ => false,
        }
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Closing the terminal hangs it up; what does not end by that is killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(keyboard: impl AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(keyboard, size).expect("a terminal has a size");
}
