//! A terminal for a process, made inside the sandbox as the app's user: of the sandbox's own devpts,
//! so that no descriptor inside leads to a terminal of the host, and nothing that is typed into it
//! from inside (TIOCSTI) can reach one.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, makedev};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

use crate::failure::{Failure, OrFail, Step};
use crate::message::WindowSize;

const MULTIPLEXER: &str = "/dev/pts/ptmx";
/// `DEVPTS_SUPER_MAGIC` (statfs(2)).
const DEVPTS: i64 = 0x1cd1;

/// Both ends. The controlling one goes to whoever asked for the process, the other is its streams.
pub(super) struct Terminal {
    pub(super) controlling: OwnedFd,
    pub(super) streams: OwnedFd,
}

impl Terminal {
    /// A new one in the devpts that this process sees. It belongs to the user that this process is.
    pub(super) fn open(size: WindowSize) -> Result<Self, Failure> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let controlling = rustix::fs::openat2(CWD, MULTIPLEXER, flags, Mode::empty(), resolve)
            .or_fail(Step::Terminal, MULTIPLEXER)?;
        if !is_multiplexer(&controlling).or_fail(Step::Terminal, MULTIPLEXER)? {
            return Err(Failure::refused(Step::Terminal, MULTIPLEXER, "it is not devpts' own, char 5:2"));
        }
        rustix::pty::unlockpt(&controlling).or_fail(Step::Terminal, MULTIPLEXER)?;
        // The other end by descriptor: no path is looked up for it.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let streams = rustix::pty::ioctl_tiocgptpeer(&controlling, flags).or_fail(Step::Terminal, MULTIPLEXER)?;
        let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&controlling, size).or_fail(Step::Terminal, MULTIPLEXER)?;
        Ok(Self { controlling, streams })
    }

    /// Makes it the controlling terminal of this process, which leads a session that has none.
    pub(super) fn take_control(&self) -> Result<(), Failure> {
        rustix::process::ioctl_tiocsctty(&self.streams).or_fail(Step::Terminal, "the process")
    }
}

fn is_multiplexer(file: impl AsFd) -> std::io::Result<bool> {
    let found = rustix::fs::fstat(&file)?;
    let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
    Ok(is_device && found.st_rdev == makedev(5, 2) && rustix::fs::fstatfs(&file)?.f_type == DEVPTS)
}
