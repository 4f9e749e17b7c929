//! The system calls that init makes. The only unsafe code of the program; errors are errnos.

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::{AtomicBool, Ordering};

/// An event that says nothing, to fill an array with.
pub const NO_EVENT: libc::epoll_event = libc::epoll_event { events: 0, u64: 0 };

/// A value that one function takes out once.
pub struct Single<T> {
    value: UnsafeCell<T>,
    taken: AtomicBool,
}

// SAFETY: the value is only reached through `take`, which hands it out once.
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    pub const fn new(value: T) -> Self {
        Self { value: UnsafeCell::new(value), taken: AtomicBool::new(false) }
    }

    /// The value; a second call ends the program.
    #[allow(clippy::mut_from_ref, reason = "it is handed out once")]
    pub fn take(&'static self) -> &'static mut T {
        if self.taken.swap(true, Ordering::Relaxed) {
            // SAFETY: abort has no preconditions.
            unsafe { libc::abort() }
        }
        // SAFETY: the flag was false, so no other reference exists or ever will.
        unsafe { &mut *self.value.get() }
    }
}

fn errno() -> i32 {
    // SAFETY: the location is valid for the life of the thread.
    unsafe { *libc::__errno_location() }
}

fn check(result: i32) -> Result<i32, i32> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// An argument of the program.
pub fn argument<'a>(count: i32, arguments: *const *const libc::c_char, at: i32) -> Option<&'a CStr> {
    if at >= count {
        return None;
    }
    // SAFETY: the kernel gives `count` pointers to strings that live as long as the program.
    Some(unsafe { CStr::from_ptr(*arguments.offset(at as isize)) })
}

/// A decimal number.
pub fn parse(text: &CStr) -> Option<u64> {
    text.to_bytes().iter().try_fold(0u64, |number, digit| {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

pub fn set_name(name: &CStr) {
    // SAFETY: the string is terminated; the kernel copies it.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Nobody but root may look into this process.
pub fn set_undumpable() {
    // SAFETY: changes a flag of this process only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
}

/// Blocks SIGCHLD and gives a descriptor that tells of it.
pub fn child_signals() -> Result<i32, i32> {
    // SAFETY: an all-zero set is valid memory for sigemptyset to overwrite.
    let mut set: libc::sigset_t = unsafe { core::mem::zeroed() };
    // SAFETY: the set is ours.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above; SIGCHLD is a signal.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGCHLD) };
    // SAFETY: the set is initialised; the old one is not wanted.
    check(unsafe { libc::sigprocmask(libc::SIG_BLOCK, &raw const set, core::ptr::null_mut()) })?;
    // SAFETY: the set is initialised.
    check(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })
}

pub fn read_signals(signals: i32) {
    let mut buffer = [0u8; 1024];
    while read(signals, &mut buffer).is_ok_and(|length| length > 0) {}
}

pub fn epoll() -> Result<i32, i32> {
    // SAFETY: makes a new descriptor.
    check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// Has `epoll` tell when `descriptor` can be read.
pub fn watch(epoll: i32, descriptor: i32) -> Result<(), i32> {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: descriptor.unsigned_abs().into() };
    // SAFETY: the event is ours; the kernel copies it.
    check(unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) }).map(drop)
}

/// Waits for events; none after the timeout.
pub fn wait(epoll: i32, events: &mut [libc::epoll_event], timeout: i32) -> Result<&[libc::epoll_event], i32> {
    let capacity = i32::try_from(events.len()).unwrap_or(i32::MAX);
    loop {
        // SAFETY: the kernel writes at most `capacity` events into the slice.
        match check(unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), capacity, timeout) }) {
            Ok(count) => return Ok(&events[..count.unsigned_abs() as usize]),
            Err(libc::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

pub fn descriptor_of(event: &libc::epoll_event) -> i32 {
    let value = event.u64;
    i32::try_from(value).unwrap_or(-1)
}

pub fn read(descriptor: i32, buffer: &mut [u8]) -> Result<usize, i32> {
    // SAFETY: the kernel writes at most the buffer's length.
    let length = unsafe { libc::read(descriptor, buffer.as_mut_ptr().cast(), buffer.len()) };
    usize::try_from(length).map_err(|_| errno())
}

/// Writes everything; how much was written if that failed.
pub fn write_all(descriptor: i32, bytes: &[u8]) -> Result<(), usize> {
    let mut written = 0;
    while written < bytes.len() {
        let rest = &bytes[written..];
        // SAFETY: the kernel reads at most the slice's length.
        let length = unsafe { libc::write(descriptor, rest.as_ptr().cast(), rest.len()) };
        match usize::try_from(length) {
            Ok(0) => return Err(written),
            Ok(length) => written += length,
            Err(_) if errno() == libc::EINTR => {}
            Err(_) => return Err(written),
        }
    }
    Ok(())
}

pub fn write_at(descriptor: i32, bytes: &[u8], offset: u64) {
    let offset = i64::try_from(offset).unwrap_or(0);
    // SAFETY: the kernel reads at most the slice's length.
    unsafe { libc::pwrite(descriptor, bytes.as_ptr().cast(), bytes.len(), offset) };
}

pub fn truncate(descriptor: i32) {
    // SAFETY: only changes the file.
    unsafe { libc::ftruncate(descriptor, 0) };
}

/// Size and time of the last change, in nanoseconds.
pub fn size_and_change(descriptor: i32) -> (u64, i64) {
    // SAFETY: an all-zero stat is valid memory for fstat to overwrite.
    let mut stat: libc::stat = unsafe { core::mem::zeroed() };
    // SAFETY: the memory is ours.
    unsafe { libc::fstat(descriptor, &raw mut stat) };
    let change = stat.st_mtime.saturating_mul(1_000_000_000).saturating_add(stat.st_mtime_nsec);
    (u64::try_from(stat.st_size).unwrap_or(0), change)
}

/// Sets and clears flags of an open file.
pub fn change_flags(descriptor: i32, set: i32, clear: i32) {
    // SAFETY: reads the flags.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFL) };
    if flags >= 0 {
        // SAFETY: sets the flags.
        unsafe { libc::fcntl(descriptor, libc::F_SETFL, (flags | set) & !clear) };
    }
}

pub fn close(descriptor: i32) {
    if descriptor >= 0 {
        // SAFETY: the caller owns the descriptor and forgets it.
        unsafe { libc::close(descriptor) };
    }
}

/// Nanoseconds since 1970.
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the memory is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    time.tv_sec.unsigned_abs().wrapping_mul(1_000_000_000).wrapping_add(time.tv_nsec.unsigned_abs())
}

/// A child that ended, with its status; nothing if none has.
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: the memory is ours.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

/// A connection of somebody who is root.
pub fn accept(listener: i32) -> Option<i32> {
    // SAFETY: the peer's address is not wanted.
    let client = unsafe {
        libc::accept4(listener, core::ptr::null_mut(), core::ptr::null_mut(), libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK)
    };
    if client < 0 {
        return None;
    }
    let mut peer = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes.
    let result = unsafe {
        libc::getsockopt(client, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut peer).cast(), &raw mut length)
    };
    if result < 0 || peer.uid != 0 {
        close(client);
        return None;
    }
    Some(client)
}

pub fn send(socket: i32, bytes: &[u8]) -> bool {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the kernel reads at most the slice's length.
    unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) >= 0 }
}

/// Room for the header of a control message and two descriptors, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 24]);

/// Receives one datagram and up to two descriptors: its length, 0 if the peer is gone; nothing if
/// there is no datagram.
pub fn receive(socket: i32, buffer: &mut [u8], descriptors: &mut [i32; 2]) -> Result<Option<usize>, i32> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = Control([0; 24]);
    // SAFETY: an all-zero header is a valid one.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len() as _;
    // SAFETY: all pointers are to memory that lives until the call returns, with the right lengths.
    let length = unsafe { libc::recvmsg(socket, &raw mut message, libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT) };
    if length < 0 {
        return match errno() {
            libc::EAGAIN | libc::EINTR => Ok(None),
            errno => Err(errno),
        };
    }
    // SAFETY: the kernel has filled the control buffer; this looks at its first header.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    if !header.is_null() {
        // SAFETY: not null, so it is inside of the control buffer.
        let found = unsafe { &*header };
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let bytes = found.cmsg_len as usize - unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data follows the header inside of the control buffer.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<i32>();
            for (at, descriptor) in descriptors.iter_mut().enumerate().take(bytes / size_of::<i32>()) {
                // SAFETY: `bytes` says that this many descriptors are there.
                *descriptor = unsafe { data.add(at).read_unaligned() };
            }
        }
    }
    Ok(Some(length.unsigned_abs()))
}
