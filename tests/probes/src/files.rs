//! Ways out through files: of the host, of the image, injected, and upwards.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use crate::facts::Facts;
use crate::report::{Outcome, tell};
use crate::sys;

/// Put into the image by the tests: owned by its root, and a harmless device node.
const PLANTED: &str = "/planted/file";
const PLANTED_DEVICE: &str = "/planted/null";
/// Shown by the tests in place of the image's.
const INJECTED: &str = "/etc/hosts";

pub fn tries(facts: &Facts) {
    let host =
        [facts.host_file.clone(), format!("/..{}", facts.host_file), format!("/proc/self/root/..{}", facts.host_file)];
    for path in host {
        tell(&format!("read {path}"), "old-root-gone", &Outcome::must_fail(fs::read(&path)));
    }
    let same = |one: &str, other: &str| -> io::Result<bool> {
        let (one, other) = (fs::metadata(one)?, fs::metadata(other)?);
        Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
    };
    for above in ["/..", "/proc/self/root/..", "/proc/self/cwd/../../.."] {
        let outcome = match same("/", above) {
            Ok(is_same) => Outcome::fine_if(is_same, "the root"),
            Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or_default()),
        };
        tell(&format!("{above} is the root"), "old-root-gone", &outcome);
    }
    let owner = fs::metadata(PLANTED).map(|found| found.uid()).unwrap_or_default();
    let outcome = Outcome::fine_if(owner == facts.first_id, format!("owner {owner}"));
    tell("the image's root is an id of the range", "ids-mapped", &outcome);
    let opened = sys::open(PLANTED_DEVICE, libc::O_RDONLY);
    tell("open a device node of the image", "mounts-nodev", &Outcome::must_fail(opened));
    if !facts.is_root {
        let written = sys::open(PLANTED, libc::O_WRONLY);
        tell("write a file of the image's root", "app-user", &Outcome::must_fail(written));
    }
    let outcome = match sys::is_read_only(INJECTED) {
        Ok(is_read_only) => Outcome::fine_if(is_read_only, ""),
        Err(error) => Outcome::Escaped(error.to_string()),
    };
    tell("an injected file is read-only", "injected-read-only", &outcome);
    tell("write an injected file", "injected-read-only", &Outcome::must_fail(sys::open(INJECTED, libc::O_WRONLY)));
    tell("remove an injected file", "injected-read-only", &Outcome::must_fail(fs::remove_file(INJECTED)));
    own_files(facts);
}

fn own_files(facts: &Facts) {
    let own = "/tmp/probe-own";
    if fs::write(own, "x").is_err() {
        tell("an own file", "app-user", &Outcome::Escaped("none can be made in /tmp".to_owned()));
        return;
    }
    if !facts.is_root {
        tell("give a file to the host's root", "app-user", &Outcome::must_fail(chown(own, Some(0), None)));
    }
    let rule = if facts.is_root { "root-mapped" } else { "app-user" };
    let other = facts.first_id + facts.id_count + 1000;
    tell("give a file to another tenant", rule, &Outcome::must_fail(chown(own, Some(other), None)));
    let _ = fs::remove_file(own);
    let program = "/dev/shm/probe-program";
    let copied = fs::copy("/proc/self/exe", program)
        .and_then(|_| fs::set_permissions(program, PermissionsExt::from_mode(0o755)));
    let outcome = match copied.map(|()| sys::execute(program)) {
        Ok(Some(errno)) => Outcome::Refused(errno),
        Ok(None) => Outcome::Escaped("it ran".to_owned()),
        Err(error) => Outcome::Escaped(format!("it could not be tried: {error}")),
    };
    let _ = fs::remove_file(program);
    tell("run a program from /dev/shm", "mounts-noexec", &outcome);
}
