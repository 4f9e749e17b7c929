//! Keeps the launcher's own program from being written.
//!
//! Until its exec a new process of a sandbox runs the launcher's program, and `/proc/self/exe` names
//! it there: an image can have it executed, and try to write it (CVE-2019-5736). So the launcher runs
//! from a read-only mount of its program that is attached nowhere: whoever opens it through /proc gets
//! that mount. It costs no memory, as a copy would.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt;

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::mount::MountAttrFlags;

use super::mounts;
use crate::rules::Rule;
use crate::sys::{self, MountChange, Strings, change_mount};

/// Executes the program again from such a mount, unless that is where it already is.
pub(super) fn program() -> io::Result<()> {
    if !Rule::LauncherReadOnly.in_force() {
        return Ok(());
    }
    let own = rustix::fs::openat(CWD, "/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fstatvfs(&own)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let mount = mounts::copy_of(&own, false)?;
    let set = (MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID).bits().into();
    change_mount(&mount, &MountChange { set, ..MountChange::default() })?;
    let arguments = std::env::args_os().map(plain).collect::<io::Result<_>>()?;
    let variables = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        plain(name)
    });
    let environment = variables.collect::<io::Result<_>>()?;
    let never: Infallible = sys::execute_open(mount, &Strings::new(arguments), &Strings::new(environment))?;
    match never {}
}

fn plain(text: std::ffi::OsString) -> io::Result<CString> {
    Ok(CString::new(text.into_vec())?)
}
