//! System calls in children of their own, so that an attempt that works changes nothing for the next.
//! All unsafe code of the probe.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// The argument that asks the probe to try nothing.
pub const NOTHING: &str = "nothing";

/// How a child ended.
pub enum Ended {
    /// With what the call in it returned; an errno is negative.
    Returned(i64),
    /// By this signal.
    Killed(i32),
}

/// Runs `work` in a child.
pub fn in_child(work: impl FnOnce() -> i64) -> Ended {
    let mut ends = [0; 2];
    // SAFETY: the kernel fills the two numbers.
    unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) };
    // SAFETY: the probe has one thread.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let bytes = work().to_ne_bytes();
        // SAFETY: writes eight bytes that are there, and ends.
        unsafe {
            libc::write(ends[1], bytes.as_ptr().cast(), bytes.len());
            libc::_exit(0)
        }
    }
    let mut bytes = [0; 8];
    let mut status = 0;
    // SAFETY: the descriptors are ours, the buffer takes eight bytes, the child is ours.
    let length = unsafe {
        libc::close(ends[1]);
        let length = libc::read(ends[0], bytes.as_mut_ptr().cast(), bytes.len());
        libc::close(ends[0]);
        libc::waitpid(pid, &raw mut status, 0);
        length
    };
    match length {
        8 => Ended::Returned(i64::from_ne_bytes(bytes)),
        _ if libc::WIFSIGNALED(status) => Ended::Killed(libc::WTERMSIG(status)),
        _ => Ended::Killed(0),
    }
}

/// A system call with plain numbers; an errno comes back negative.
pub fn call(number: i64, arguments: [i64; 5]) -> i64 {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the attempts pass numbers, null or addresses of strings that live.
    let result = unsafe { libc::syscall(number, a, b, c, d, e) };
    if result < 0 { -i64::from(errno()) } else { result }
}

/// As [`call`], in a child; a child that ended otherwise counts as refused.
pub fn call_in_child(number: i64, arguments: [i64; 5]) -> i64 {
    match in_child(|| call(number, arguments)) {
        Ended::Returned(result) => result,
        Ended::Killed(signal) => -1000 - i64::from(signal),
    }
}

/// `clone` with these flags; the new process ends at once.
pub fn clone_with(flags: i32) -> i64 {
    match in_child(|| {
        // SAFETY: without CLONE_VM this is a fork.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0, 0, 0, 0) };
        match pid {
            // SAFETY: ends the new process.
            0 => unsafe { libc::_exit(0) },
            pid if pid < 0 => -i64::from(errno()),
            pid => pid,
        }
    }) {
        Ended::Returned(result) => result,
        Ended::Killed(signal) => -1000 - i64::from(signal),
    }
}

/// getpid by the way of 32-bit programs.
pub fn call_of_another_machine() -> Ended {
    in_child(|| {
        let mut result: i64 = 20;
        // SAFETY: this call of the 32-bit table takes nothing and changes nothing but rax.
        unsafe {
            std::arch::asm!("int 0x80", inout("rax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _)
        };
        result
    })
}

/// Executes the probe at `path` in a child: the errno, or nothing if it ran.
pub fn execute(path: &str) -> Option<i32> {
    let (path, nothing) = (c(path), c(NOTHING));
    let ended = in_child(|| {
        let arguments = [path.as_ptr(), nothing.as_ptr(), std::ptr::null()];
        // SAFETY: both lists end with null and their strings live.
        unsafe { libc::execv(path.as_ptr(), arguments.as_ptr()) };
        -i64::from(errno())
    });
    match ended {
        Ended::Returned(result) => i32::try_from(-result).ok(),
        Ended::Killed(_) => None,
    }
}

/// Opens with these flags, by the kernel's answer alone.
pub fn open(path: &str, flags: i32) -> io::Result<OwnedFd> {
    let path = c(path);
    // SAFETY: the path is terminated; a number that comes back is a new descriptor.
    match unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY) } {
        -1 => Err(io::Error::last_os_error()),
        // SAFETY: as above.
        number => Ok(unsafe { OwnedFd::from_raw_fd(number) }),
    }
}

/// Makes a device node.
pub fn make_node(path: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
    let path = c(path);
    // SAFETY: the path is terminated.
    check(unsafe { libc::mknod(path.as_ptr(), mode | 0o666, libc::makedev(major, minor)) })
}

/// Whether the file system at `path` is mounted read-only.
pub fn is_read_only(path: &str) -> io::Result<bool> {
    let path = c(path);
    // SAFETY: all-zero is valid for the kernel to overwrite.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is terminated, the structure is ours.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut found) })?;
    Ok(found.f_flag & libc::ST_RDONLY != 0)
}

/// Sends signal 0: whether one could be sent.
pub fn may_signal(pid: i32) -> io::Result<()> {
    // SAFETY: asks only.
    check(unsafe { libc::kill(pid, 0) })
}

/// The session of this process.
pub fn session() -> i32 {
    // SAFETY: asks only.
    unsafe { libc::getsid(0) }
}

/// Hard limit of a resource.
pub fn hard_limit(resource: u32) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the structure.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    limit.rlim_max
}

/// The shared memory segment of a key.
pub fn shared_memory(key: i32) -> io::Result<()> {
    // SAFETY: looks for a segment and makes none.
    check(unsafe { libc::shmget(key, 0, 0) })
}

/// Opens a message queue.
pub fn message_queue(name: &str) -> io::Result<()> {
    let name = c(name);
    // SAFETY: the name is terminated.
    check(unsafe { libc::mq_open(name.as_ptr(), libc::O_RDONLY) })
}

/// Attaches to a process as a debugger would, without stopping it.
pub fn seize(pid: i32) -> io::Result<()> {
    // SAFETY: no addresses are passed.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } as i32)
}

/// Stays.
pub fn wait_for_ever() {
    loop {
        // SAFETY: waits for a signal.
        unsafe { libc::pause() };
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A terminated string; those of the attempts hold no zero.
pub fn c(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or_default()
}

/// Types one character into the terminal at `number`, as if somebody had.
pub fn type_into(number: i32, character: u8) -> io::Result<()> {
    // SAFETY: the kernel reads the one byte.
    check(unsafe { libc::ioctl(number, libc::TIOCSTI, &raw const character) })
}

/// A request to the terminal at `number` without an argument.
pub fn ask_terminal(number: i32, request: libc::Ioctl) -> io::Result<()> {
    // SAFETY: these requests take no address.
    check(unsafe { libc::ioctl(number, request, 0) })
}

/// The device number of the terminal that is open (ioctl_tty(2), TIOCGDEV).
pub fn terminal_number(terminal: &OwnedFd) -> io::Result<u32> {
    terminal_of(std::os::fd::AsRawFd::as_raw_fd(terminal))
}

/// As [`terminal_number`], by the descriptor's number.
pub fn terminal_of(number: i32) -> io::Result<u32> {
    const TIOCGDEV: libc::Ioctl = 0x8004_5432;
    let mut device: u32 = 0;
    // SAFETY: the kernel writes the one word.
    check(unsafe { libc::ioctl(number, TIOCGDEV, &raw mut device) })?;
    Ok(device)
}
