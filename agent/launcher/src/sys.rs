//! System calls that the libraries lack or offer only to the careless. With [`crate::seccomp`]'s
//! loader this is all unsafe code of the launcher.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Which side of a clone this is.
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The old one, with the new one's pid and pidfd.
    Parent(i32, OwnedFd),
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `CLONE_INTO_CGROUP` of linux/sched.h, which does not fit into an int.
const INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes a child with copies of everything, in the new namespaces that `flags` asks for.
///
/// Only for the single-threaded: in a threaded process another thread may hold the allocator's
/// lock, for ever in the child.
pub(crate) fn clone_process(flags: i32) -> io::Result<Cloned> {
    clone_into(flags, None)
}

/// As [`clone_process`], with the child born in the version 2 control group whose folder is open.
pub(crate) fn clone_into(flags: i32, group: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = u64::from(flags.cast_unsigned()) | libc::CLONE_PIDFD as u64;
    if let Some(group) = group {
        arguments.flags |= INTO_CGROUP;
        arguments.cgroup = group.as_raw_fd() as u64;
    }
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with no stack this is fork: the child runs on a copy of this
    // stack. The launcher has one thread, so no lock is held by anybody else.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel has put a new descriptor there, which nobody else knows of.
    Ok(Cloned::Parent(pid as i32, unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Ends this process at once: nothing that was copied from the parent is tidied up twice.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// What `mount_setattr` changes.
#[derive(Default)]
pub(crate) struct MountChange<'a> {
    pub(crate) set: u64,
    pub(crate) id_map: Option<BorrowedFd<'a>>,
    pub(crate) make_private: bool,
    pub(crate) recursive: bool,
}

/// Changes the mount (and with `recursive` those below it) that `mount` is open on.
pub(crate) fn change_mount(mount: impl AsFd, change: &MountChange<'_>) -> io::Result<()> {
    // SAFETY: all-zero is a valid `mount_attr`.
    let mut attributes: libc::mount_attr = unsafe { std::mem::zeroed() };
    attributes.attr_set = change.set;
    if let Some(id_map) = change.id_map {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = id_map.as_raw_fd() as u64;
    }
    if change.make_private {
        attributes.propagation = libc::MS_PRIVATE;
    }
    let recursive = if change.recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is terminated, the attributes live until the call returns.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const attributes,
            size_of_val(&attributes),
        )
    })
    .map(drop)
}

/// A list of strings as `execve` takes it.
pub(crate) struct Strings {
    _strings: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    pub(crate) fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { _strings: strings, pointers }
    }
}

/// Executes the program at `path`.
pub(crate) fn execute(path: &CStr, arguments: &Strings, environment: &Strings) -> io::Result<Infallible> {
    // SAFETY: both lists end in a null pointer and own the strings that they point to.
    unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    Err(io::Error::last_os_error())
}

/// Executes the program that is open.
pub(crate) fn execute_open(program: impl AsFd, arguments: &Strings, environment: &Strings) -> io::Result<Infallible> {
    // SAFETY: as in `execute`; the empty path is terminated.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_fd().as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(io::Error::last_os_error())
}

/// Makes `descriptor` available under the number `at`, closing what was there.
///
/// Whoever calls this gives up all descriptors it owns: it is about to execute something.
pub(crate) fn place(descriptor: impl AsFd, at: RawFd, close_on_exec: bool) -> io::Result<()> {
    let flags = if close_on_exec { libc::O_CLOEXEC } else { 0 };
    let from = descriptor.as_fd().as_raw_fd();
    if from == at {
        // SAFETY: changes a flag of a descriptor that the caller holds.
        let flags = if close_on_exec { libc::FD_CLOEXEC } else { 0 };
        // SAFETY: as above.
        return check(unsafe { libc::fcntl(at, libc::F_SETFD, flags) }.into()).map(drop);
    }
    // SAFETY: the caller owns whatever has the number `at`, see above.
    check(unsafe { libc::dup3(from, at, flags) }.into()).map(drop)
}

/// Borrows a number that [`place`] has filled.
pub(crate) fn placed(at: RawFd) -> BorrowedFd<'static> {
    // SAFETY: `place` has just opened it, and nothing closes it before the exec, or the end.
    unsafe { BorrowedFd::borrow_raw(at) }
}

/// A copy of `descriptor` with a number of at least `lowest`.
pub(crate) fn copy_above(descriptor: impl AsFd, lowest: RawFd, close_on_exec: bool) -> io::Result<OwnedFd> {
    let command = if close_on_exec { libc::F_DUPFD_CLOEXEC } else { libc::F_DUPFD };
    // SAFETY: makes a new descriptor.
    let copy = check(unsafe { libc::fcntl(descriptor.as_fd().as_raw_fd(), command, lowest) }.into())?;
    // SAFETY: it is new.
    Ok(unsafe { OwnedFd::from_raw_fd(copy as RawFd) })
}

/// Closes every descriptor from `first` on.
pub(crate) fn close_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the caller gives up all descriptors that it owns, as in `place`.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Sets every signal back to its default and blocks none: an ignored or blocked one would stay so
/// over an exec.
pub(crate) fn reset_signals() {
    // What the kernel takes: handler, flags, restorer, mask. All zero is SIG_DFL. The library's own
    // call would leave out the two signals that it keeps for itself.
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads the action; SIGKILL and SIGSTOP only answer EINVAL.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), 8) };
    }
    // SAFETY: all-zero is valid memory for sigemptyset to overwrite.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: the set is initialised.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

/// From now on this process goes on when it is hung up.
pub(crate) fn ignore_hang_up() {
    // As above; 1 is SIG_IGN.
    let ignore = [1u64, 0, 0, 0];
    // SAFETY: the kernel reads the action, which has no handler.
    unsafe { libc::syscall(libc::SYS_rt_sigaction, libc::SIGHUP, ignore.as_ptr(), std::ptr::null::<u64>(), 8) };
}

/// Brings up the loopback link of this process's network namespace.
pub(crate) fn loopback_up(socket: impl AsFd) -> io::Result<()> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l'.cast_signed();
    request.ifr_name[1] = b'o'.cast_signed();
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives until the call returns.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into()).map(drop)
}

/// The working folder as the kernel names it; outside of the root it starts with `(unreachable)`.
pub(crate) fn working_folder() -> io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; libc::PATH_MAX as usize];
    // SAFETY: the kernel writes at most the buffer's length.
    let length = check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    buffer.truncate(usize::try_from(length).unwrap_or(1) - 1);
    Ok(buffer)
}

/// Sets soft and hard limit of a resource.
pub(crate) fn set_limit(resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads the limit.
    check(unsafe { libc::prlimit64(0, resource, &raw const limit, std::ptr::null_mut()) }.into()).map(drop)
}

/// The hard limit of a resource.
pub(crate) fn hard_limit(resource: u32) -> io::Result<u64> {
    let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes the limit.
    check(unsafe { libc::prlimit64(0, resource, std::ptr::null(), &raw mut limit) }.into())?;
    Ok(limit.rlim_max)
}

/// Whether the capability is in the bounding set; nothing if the kernel knows no such one.
pub(crate) fn is_bounding(capability: u32) -> Option<bool> {
    // SAFETY: only asks.
    match unsafe { libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(capability), 0, 0, 0) } {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Takes a capability out of the bounding set.
pub(crate) fn drop_bounding(capability: u32) -> io::Result<()> {
    // SAFETY: changes only this process.
    check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) }.into()).map(drop)
}

/// Empties the ambient set.
pub(crate) fn clear_ambient() -> io::Result<()> {
    // SAFETY: changes only this process.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) }.into()).map(drop)
}

/// Puts a capability into the ambient set.
pub(crate) fn raise_ambient(capability: u32) -> io::Result<()> {
    let capability = libc::c_ulong::from(capability);
    // SAFETY: changes only this process.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) }.into()).map(drop)
}

/// Whether a capability is in the ambient set.
pub(crate) fn is_ambient(capability: u32) -> bool {
    let capability = libc::c_ulong::from(capability);
    // SAFETY: only asks.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_IS_SET, capability, 0, 0) == 1 }
}

/// Header of `capset` and `capget`, version 3: 64 bits, for this thread.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// The three sets that `capset` and `capget` know, as masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ThreadCapabilities {
    pub(crate) effective: u64,
    pub(crate) permitted: u64,
    pub(crate) inheritable: u64,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Sets the three sets.
pub(crate) fn set_capabilities(sets: ThreadCapabilities) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| {
        [sets.effective, sets.permitted, sets.inheritable].map(|mask| ((mask >> shift) & 0xffff_ffff) as u32)
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads two entries of three words, which is what `data` is.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Reads the three sets.
pub(crate) fn capabilities() -> io::Result<ThreadCapabilities> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [[0u32; 3]; 2];
    // SAFETY: version 3 writes two entries of three words, which is what `data` is.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let whole = |at: usize| u64::from(data[0][at]) | u64::from(data[1][at]) << 32;
    Ok(ThreadCapabilities { effective: whole(0), permitted: whole(1), inheritable: whole(2) })
}

/// Leaves the namespaces that `flags` names for new ones.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: namespaces do not share memory with anybody; CLONE_FILES and the like are not used.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Enters the namespaces that `flags` names of the process that `pidfd` is.
pub(crate) fn enter(pidfd: impl AsFd, flags: i32) -> io::Result<()> {
    // SAFETY: as in `unshare`.
    check(unsafe { libc::setns(pidfd.as_fd().as_raw_fd(), flags) }.into()).map(drop)
}

/// What the kernel has to say about a file system that could not be made, in brackets.
pub(crate) fn said(context: &OwnedFd) -> String {
    let mut buffer = [0; 256];
    match rustix::io::read(context, &mut buffer) {
        Ok(length) if length > 2 => format!(" ({})", String::from_utf8_lossy(&buffer[2..length]).trim()),
        _ => String::new(),
    }
}

/// The number of a loop device that nobody uses.
pub(crate) fn free_loop(control: impl AsFd) -> io::Result<i64> {
    // SAFETY: takes no argument.
    check(unsafe { libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE) }.into())
}

const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4C82;
const LOOP_CONFIGURE: libc::Ioctl = 0x4C0A;
/// The device lets the file go with its own last user.
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Pages of the disk are not kept a second time as pages of the file, where the file system can do that.
const LO_FLAGS_DIRECT_IO: u32 = 16;

/// `struct loop_config` of linux/loop.h.
#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    /// device, inode, rdevice, offset, size limit
    places: [u64; 5],
    /// number, encryption, length of its key
    numbers: [u32; 3],
    flags: u32,
    names: [u8; 64 + 64 + 32],
    init: [u64; 2],
    reserved: [u64; 8],
}

/// Makes `file` the content of a loop device.
pub(crate) fn attach_loop(device: impl AsFd, file: impl AsFd) -> io::Result<()> {
    let config = LoopConfig {
        fd: file.as_fd().as_raw_fd().cast_unsigned(),
        block_size: 4096,
        places: [0; 5],
        numbers: [0; 3],
        flags: LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO,
        names: [0; 160],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads the structure, which has its layout and lives until the call returns.
    check(unsafe { libc::ioctl(device.as_fd().as_raw_fd(), LOOP_CONFIGURE, &raw const config) }.into()).map(drop)
}

/// Loads a filter of system calls for this thread, of which there is one.
pub(crate) fn load_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, whose length is right.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) }).map(drop)
}
