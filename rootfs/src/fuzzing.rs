//! What fuzzing sends its bytes to, and what it begins with; see `tests/fuzz`. The ordinary tests send what
//! was found before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::archive::{Limits, decompressed};
use crate::bundle::{AllowList, SpecInput, check, merged, notes, own_limits, runtime_spec};
use crate::hostile::{corpus, make_canary, picture};
use crate::json;
use crate::overlay::IdRange;
use crate::unpack::{Policy, unpack};

/// Enough for every path through the code.
const LIMITS: Limits = Limits { bytes: 1 << 20, entries: 200, ratio: 200, extension: 4 << 10 };
const POLICIES: [Policy; 3] = [Policy::Layer, Policy::Bundle, Policy::Upload { owner: 1000 }];

/// Unpacks the bytes under every policy: nothing outside changes, and what was made can be removed. Needs root.
///
/// # Panics
/// When one of these is not so.
pub fn unpacker(bytes: &[u8]) {
    // In memory where there is such a folder: this is done thousands of times.
    let shm = Path::new("/dev/shm");
    let place = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    for policy in POLICIES {
        let folder = TempDir::new_in(&place).expect("a folder");
        let (outside, root) = (folder.path().join("outside"), folder.path().join("root"));
        make_canary(&outside);
        fs::create_dir(&root).expect("a folder");
        let before = picture(&outside);
        let _ = decompressed(bytes, LIMITS).map(|stream| unpack(stream, &root, policy, LIMITS));
        assert_eq!(picture(&outside), before, "something outside changed");
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 2, "something appeared beside the root");
        folder.close().expect("what was unpacked can be removed");
    }
}

/// Reads the bytes as a bundle's `config.json`: what passes the check is confined by what is made of it.
///
/// # Panics
/// When it is not.
pub fn configuration(bytes: &[u8]) {
    let Ok(spec) = json::parse::<oci_spec::runtime::Spec>(bytes) else { return };
    let allow = AllowList::default();
    let _ = (notes(&spec, &allow), own_limits(&spec));
    if check(&spec, &allow).is_err() {
        return;
    }
    let Ok(merged) = merged(&ours(), &spec, &allow) else { return };
    assert!(merged.binds.is_empty(), "nobody allowed a folder of the host");
    assert!(merged.spec.hooks().is_none(), "nobody allowed a hook");
    let process = merged.spec.process().as_ref().expect("ours has a process");
    assert_eq!(process.no_new_privileges(), Some(true));
    let ids = ours().ids;
    let user = process.user();
    for id in [user.uid(), user.gid()].into_iter().chain(user.additional_gids().iter().flatten().copied()) {
        assert!(id >= ids.first && id - ids.first < ids.count, "id {id} is of the host");
    }
    let linux = merged.spec.linux().as_ref().expect("ours has it");
    assert!(linux.devices().as_ref().is_none_or(Vec::is_empty), "nobody allowed a device");
    assert!(linux.namespaces().iter().flatten().all(|space| space.path().is_none()), "a namespace of the host");
}

fn ours() -> SpecInput {
    SpecInput {
        hostname: "shop".to_owned(),
        args: vec!["/bin/true".to_owned()],
        env: BTreeMap::new(),
        cwd: "/app".into(),
        uid: 1000,
        gid: 1000,
        additional_gids: vec![],
        ids: IdRange { first: 6_553_600, count: 65_536 },
        memory: Some(1 << 29),
        pids: Some(256),
        cgroups_path: None,
        annotations: BTreeMap::new(),
    }
}

/// Archives to begin with.
#[must_use]
pub fn archives() -> Vec<Vec<u8>> {
    corpus(Path::new("/outside")).into_iter().map(|case| case.archive).filter(|bytes| bytes.len() < 16 << 10).collect()
}

/// Configurations to begin with.
///
/// # Panics
/// When ours cannot be written.
#[must_use]
pub fn configurations() -> Vec<Vec<u8>> {
    let ours = serde_json::to_vec(&runtime_spec(&ours()).expect("is made")).expect("is written");
    let modest = br#"{"ociVersion":"1.0.2","process":{"terminal":true,"user":{"uid":5,"gid":5,"umask":63,
        "additionalGids":[7]},"args":["/bin/sh"],"cwd":"/","env":["A=b"],"capabilities":{"bounding":["CAP_KILL"]},
        "rlimits":[{"type":"RLIMIT_NOFILE","hard":1024,"soft":1024}],"oomScoreAdj":5,"noNewPrivileges":false},
        "root":{"path":"rootfs","readonly":true},"hostname":"h","mounts":[{"destination":"/t","type":"tmpfs",
        "source":"tmpfs","options":["nosuid","size=1m"]},{"destination":"/h","type":"bind","source":"/etc",
        "options":["rbind","ro"]}],"hooks":{"prestart":[{"path":"/bin/sh"}]},"linux":{"namespaces":[{"type":"pid"},
        {"type":"mount"},{"type":"network","path":"/proc/1/ns/net"},{"type":"ipc"},{"type":"uts"}],"sysctl":
        {"net.ipv4.ip_forward":"1"},"resources":{"memory":{"limit":33554432},"pids":{"limit":9}},"seccomp":
        {"defaultAction":"SCMP_ACT_ALLOW"},"maskedPaths":["/proc/kcore"],"devices":[{"path":"/dev/sda","type":"b",
        "major":8,"minor":0}],"uidMappings":[{"containerID":0,"hostID":0,"size":1}]}}"#;
    let passes = br#"{"ociVersion":"1.0.2","process":{"user":{"uid":5,"gid":5},"args":["/bin/sh"],"cwd":"/"},
        "root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"pid"},{"type":"mount"},{"type":"network"},
        {"type":"ipc"},{"type":"uts"}]}}"#;
    vec![ours, modest.to_vec(), passes.to_vec()]
}

/// Bytes that were found to do harm once, for the target of this name.
///
/// # Panics
/// When they cannot be read.
#[must_use]
pub fn findings(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/findings").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| fs::read(entry.expect("reads").path()).expect("reads")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::is_root;

    #[test]
    fn what_fuzzing_begins_with_and_once_found_does_no_harm_to_the_unpacker() {
        if is_root("what_fuzzing_begins_with_and_once_found_does_no_harm_to_the_unpacker") {
            for bytes in archives().into_iter().step_by(9).chain(findings("unpack")) {
                unpacker(&bytes);
            }
        }
    }

    #[test]
    fn what_fuzzing_begins_with_and_once_found_does_no_harm_to_the_check_of_bundles() {
        for bytes in configurations().into_iter().chain(findings("config")) {
            configuration(&bytes);
        }
    }
}
