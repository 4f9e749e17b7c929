//! Preloaded into CRIU. CRIU is executed and linked on the host, where its loader reads the host's files;
//! then, before its `main`, this waits for one message, enters the sandbox that it names, and returns.
//! Executing it inside instead would have its loader read the image's `/etc/ld.so.preload` as root.
//!
//! It acts only in a program called `criu` with [`VARIABLE`] in its environment; a shell that becomes
//! CRIU passes it on. It uses no heap. It knows nothing of CRIU but its name.

pub mod message;
mod sys;

use core::ffi::CStr;

use message::Entry;

/// The variable that has this act; its value does not matter. Taken out again before `main`.
pub const VARIABLE: &CStr = c"DROWSE_NSENTER";
/// The socket that the message comes by: standard input, which is the null device afterwards.
const GATE: i32 = 0;
/// Pids inside that are tried for CRIU: no image's processes come so far, and a restore must find
/// theirs free.
const PIDS: core::ops::Range<i32> = 30_000..30_010;

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn(i32, *const *const libc::c_char) = constructor;

extern "C" fn constructor(count: i32, arguments: *const *const libc::c_char) {
    if sys::variable(VARIABLE) && sys::is_program(count, arguments, b"criu") {
        sys::forget_variable(VARIABLE);
        sys::forget_variable(c"LD_PRELOAD");
        if let Err(errno) = enter() {
            sys::exit(if (1..100).contains(&errno) { errno } else { 100 });
        }
    }
}

/// Returns in the process that is in the sandbox. The one that entered first stays outside, waits for
/// it, and ends as it does.
fn enter() -> Result<(), i32> {
    let mut bytes = [0; message::SIZE];
    let mut descriptors = [-1; message::MAX_DESCRIPTORS];
    let received = sys::receive(GATE, &mut bytes, &mut descriptors)?;
    let Some(received) = received else {
        // Whoever held the other end does not need this one any more.
        sys::exit(0)
    };
    let entry = Entry::from_bytes(&bytes).filter(|entry| entry.descriptors() == received).ok_or(libc::EBADMSG)?;
    let (sandbox, rpc) = (descriptors[0], descriptors[1]);
    let (kept, groups) = descriptors[2..received].split_at(usize::from(entry.kept));
    for group in groups {
        sys::write(*group, b"0")?;
        sys::close(*group);
    }
    // These two are of children only.
    sys::setns(sandbox, libc::CLONE_NEWPID | libc::CLONE_NEWTIME)?;
    let mut clone = Err(libc::EEXIST);
    for pid in PIDS {
        clone = sys::clone_as(pid);
        if clone != Err(libc::EEXIST) {
            break;
        }
    }
    if let Some((child, pidfd)) = clone? {
        sys::send(GATE, &child.to_le_bytes(), pidfd)?;
        sys::close(GATE);
        sys::close(rpc);
        sys::exit(sys::wait(child));
    }
    sys::setsid()?;
    let all = libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    if entry.is_own_root {
        sys::own_cgroup_root()?;
        sys::setns(sandbox, all)?;
    } else {
        sys::setns(sandbox, all | libc::CLONE_NEWCGROUP)?;
    }
    sys::go_to_root()?;
    sys::close(sandbox);
    for (at, descriptor) in kept.iter().enumerate() {
        sys::place(*descriptor, message::FIRST_KEPT + i32::try_from(at).unwrap_or_default())?;
    }
    sys::place(rpc, message::RPC)?;
    sys::stdin_from_null()?;
    if entry.is_abortable {
        sys::make_abortable();
    }
    if let Some((uid, gid)) = entry.real_ids {
        sys::set_real_ids(uid, gid)?;
    }
    Ok(())
}
