//! System calls, and the C library's before `main`. The only unsafe code of the object; errors are errnos.

use core::ffi::CStr;

fn errno() -> i32 {
    // SAFETY: the location is valid for the life of the thread.
    unsafe { *libc::__errno_location() }
}

fn check(result: i64) -> Result<i64, i32> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// Ends this process at once.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Whether the environment has this variable.
pub fn variable(name: &CStr) -> bool {
    // SAFETY: the name is terminated; there is one thread before `main`.
    !unsafe { libc::getenv(name.as_ptr()) }.is_null()
}

/// Takes a variable out of the environment.
pub fn forget_variable(name: &CStr) {
    // SAFETY: as in `variable`.
    unsafe { libc::unsetenv(name.as_ptr()) };
}

/// Whether the first argument is a path to a program of this name.
pub fn is_program(count: i32, arguments: *const *const libc::c_char, name: &[u8]) -> bool {
    if count < 1 || arguments.is_null() {
        return false;
    }
    // SAFETY: the loader passes `count` pointers to strings that live as long as the program.
    let first = unsafe { CStr::from_ptr(*arguments) }.to_bytes();
    first.rsplit(|byte| *byte == b'/').next() == Some(name)
}

/// Space for the descriptors of one message, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 256]);

/// Receives one datagram: how many descriptors came with it; nothing if the other end is gone.
pub fn receive(socket: i32, bytes: &mut [u8], descriptors: &mut [i32]) -> Result<Option<usize>, i32> {
    let mut control = Control([0; 256]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { core::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control.0).cast();
    header.msg_controllen = control.0.len();
    let length = loop {
        // SAFETY: the header points to buffers that outlive the call, with their lengths.
        match check(unsafe { libc::recvmsg(socket, &raw mut header, 0) } as i64) {
            Err(libc::EINTR) => {}
            other => break other?,
        }
    };
    if length == 0 {
        return Ok(None);
    }
    if length.cast_unsigned() != bytes.len() as u64 || header.msg_flags & (libc::MSG_CTRUNC | libc::MSG_TRUNC) != 0 {
        return Err(libc::EBADMSG);
    }
    // SAFETY: the kernel has filled header and control.
    let first = unsafe { libc::CMSG_FIRSTHDR(&raw const header) };
    if first.is_null() {
        return Ok(Some(0));
    }
    // SAFETY: it points to a header inside `control`.
    let found = unsafe { &*first };
    if found.cmsg_level != libc::SOL_SOCKET || found.cmsg_type != libc::SCM_RIGHTS {
        return Err(libc::EBADMSG);
    }
    // SAFETY: CMSG_LEN only computes.
    let count = (found.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize) / size_of::<i32>();
    for (at, descriptor) in descriptors.iter_mut().take(count).enumerate() {
        // SAFETY: the kernel has put `count` numbers there.
        *descriptor = unsafe { libc::CMSG_DATA(first).cast::<i32>().add(at).read_unaligned() };
    }
    Ok(Some(count))
}

/// Sends a datagram with one descriptor.
pub fn send(socket: i32, bytes: &[u8], descriptor: i32) -> Result<(), i32> {
    let mut control = Control([0; 256]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is a valid `msghdr`.
    let mut header: libc::msghdr = unsafe { core::mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = (&raw mut control.0).cast();
    // SAFETY: the macros only compute.
    header.msg_controllen = unsafe { libc::CMSG_SPACE(size_of::<i32>() as u32) } as usize;
    // SAFETY: the control is large enough for one header.
    let first = unsafe { &mut *libc::CMSG_FIRSTHDR(&raw const header) };
    first.cmsg_level = libc::SOL_SOCKET;
    first.cmsg_type = libc::SCM_RIGHTS;
    // SAFETY: as above.
    first.cmsg_len = unsafe { libc::CMSG_LEN(size_of::<i32>() as u32) } as usize;
    // SAFETY: there is room for one number behind the header.
    unsafe { libc::CMSG_DATA(first).cast::<i32>().write_unaligned(descriptor) };
    // SAFETY: the header points to buffers that outlive the call.
    check(unsafe { libc::sendmsg(socket, &raw const header, libc::MSG_NOSIGNAL) } as i64).map(drop)
}

/// Writes all of it in one call.
pub fn write(descriptor: i32, bytes: &[u8]) -> Result<(), i32> {
    // SAFETY: the kernel reads the bytes.
    check(unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) } as i64).map(drop)
}

/// Closes a descriptor.
pub fn close(descriptor: i32) {
    // SAFETY: each is closed once, by whoever uses it last.
    unsafe { libc::close(descriptor) };
}

/// Enters namespaces of the process that `pidfd` is.
pub fn setns(pidfd: i32, flags: i32) -> Result<(), i32> {
    // SAFETY: namespaces share no memory.
    check(unsafe { libc::setns(pidfd, flags) }.into()).map(drop)
}

/// Makes the groups that this process is in the root of what it sees of them.
pub fn own_cgroup_root() -> Result<(), i32> {
    // SAFETY: as in `setns`.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }.into()).map(drop)
}

/// A child with this pid in its own pid namespace: nothing in the child, pid and pidfd in the parent.
pub fn clone_as(pid: i32) -> Result<Option<(i32, i32)>, i32> {
    let mut pidfd = -1;
    // SAFETY: all-zero is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { core::mem::zeroed() };
    arguments.flags = libc::CLONE_PIDFD as u64;
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = (&raw const pid) as u64;
    arguments.set_tid_size = 1;
    // SAFETY: without CLONE_VM this is fork, and there is one thread before `main`.
    match check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of_val(&arguments)) })? {
        0 => Ok(None),
        child => Ok(Some((child as i32, pidfd))),
    }
}

/// Waits for a child's end: its exit code, 128 and the signal if it was killed.
pub fn wait(child: i32) -> i32 {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0 {
        if errno() != libc::EINTR {
            return 101;
        }
    }
    if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) }
}

/// A session of its own, which outlives the agent's.
pub fn setsid() -> Result<(), i32> {
    // SAFETY: changes only this process.
    check(unsafe { libc::setsid() }.into()).map(drop)
}

/// The working folder: the root of the namespace.
pub fn go_to_root() -> Result<(), i32> {
    // SAFETY: the path is terminated.
    check(unsafe { libc::chdir(c"/".as_ptr()) }.into()).map(drop)
}

/// Gives a descriptor this number, and closes the other.
pub fn place(descriptor: i32, at: i32) -> Result<(), i32> {
    if descriptor != at {
        // SAFETY: nothing of this program is open at `at`: the message's come right after the standard three.
        check(unsafe { libc::dup2(descriptor, at) }.into())?;
        close(descriptor);
    }
    Ok(())
}

/// Standard input reads nothing. A null device of the host is not at hand, an empty pipe is.
pub fn stdin_from_null() -> Result<(), i32> {
    let mut ends = [-1; 2];
    // SAFETY: the kernel writes two numbers.
    check(unsafe { libc::pipe(ends.as_mut_ptr()) }.into())?;
    close(ends[1]);
    place(ends[0], 0)
}

extern "C" fn no_more_bytes(_signal: i32) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls only touch the limit, and are safe in a handler.
    unsafe {
        libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit);
        limit.rlim_cur = 0;
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
    }
}

/// On SIGUSR1 the next write to a file fails, and kills nobody.
pub fn make_abortable() {
    // SAFETY: the handler is async-signal-safe; SIG_IGN is a valid disposition.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        libc::signal(libc::SIGUSR1, no_more_bytes as *const () as libc::sighandler_t);
    }
}

/// Changes the real ids and no others.
pub fn set_real_ids(uid: u32, gid: u32) -> Result<(), i32> {
    const KEEP: u32 = u32::MAX;
    // SAFETY: changes only this process.
    check(unsafe { libc::setresgid(gid, KEEP, KEEP) }.into())?;
    // SAFETY: as above.
    check(unsafe { libc::setresuid(uid, KEEP, KEEP) }.into()).map(drop)
}
