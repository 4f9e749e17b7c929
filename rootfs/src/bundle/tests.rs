//! Descriptions of ours, and what strangers' may ask for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::store::{ImageStore, StoreError};
use crate::testing::{Archive, is_root};

fn input() -> SpecInput {
    SpecInput {
        hostname: "shop".to_owned(),
        args: vec!["/bin/true".to_owned()],
        env: [("PORT".to_owned(), "8080".to_owned())].into(),
        cwd: "/app".into(),
        uid: 1000,
        gid: 1000,
        additional_gids: vec![],
        ids: IdRange { first: 6_553_600, count: 65_536 },
        memory: Some(1 << 29),
        pids: Some(256),
        cgroups_path: Some("/drowse/user-u/i".into()),
        annotations: BTreeMap::new(),
    }
}

/// A modest bundle, as `runc spec` writes it, changed at one place.
fn bundle(change: impl FnOnce(&mut Value)) -> Spec {
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 5, "gid": 5}, "args": ["/bin/sh"], "cwd": "/", "env": ["A=b"],
            "capabilities": {"bounding": ["CAP_KILL", "CAP_SYS_ADMIN"], "effective": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": false
        },
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
            "maskedPaths": ["/proc/kcore", "/secret"]
        }
    });
    change(&mut spec);
    serde_json::from_value(spec).expect("a description")
}

fn refused(change: impl FnOnce(&mut Value)) -> String {
    check(&bundle(change), &AllowList::default()).expect_err("it must be refused").to_string()
}

#[test]
fn our_own_description_confines_in_full() {
    let spec = runtime_spec(&input()).expect("a description");
    let process = spec.process().as_ref().expect("a process");
    assert_eq!((process.user().uid(), process.user().gid()), (6_554_600, 6_554_600));
    assert_eq!(process.no_new_privileges(), Some(true));
    let capabilities = process.capabilities().as_ref().expect("sets");
    for set in [
        capabilities.bounding(),
        capabilities.effective(),
        capabilities.inheritable(),
        capabilities.permitted(),
        capabilities.ambient(),
    ] {
        assert_eq!(set.as_ref().map(std::collections::HashSet::len), Some(0));
    }
    let linux = spec.linux().as_ref().expect("linux");
    assert_eq!(linux.namespaces().as_ref().map(Vec::len), Some(7));
    let masked = linux.masked_paths().clone().unwrap_or_default();
    for path in ["/proc/kcore", "/sys/devices/virtual/powercap", "/sys/firmware"] {
        assert!(masked.iter().any(|masked| masked == path), "{path}");
    }
    assert!(runtime_spec(&SpecInput { uid: 65_536, ..input() }).is_err());
}

#[test]
fn a_description_is_the_same_after_writing_and_reading() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = runtime_spec(&input()).expect("a description");
    write(folder.path(), &spec).expect("written");
    assert_eq!(read(folder.path()).expect("read"), spec);
    let text = fs::read_to_string(folder.path().join("config.json")).expect("text");
    fs::write(folder.path().join("config.json"), text.replacen("{", "{\"hostname\": \"a\",", 1)).expect("written");
    let error = read(folder.path()).expect_err("a key twice");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("\"hostname\" stands twice"), "{cause}");
}

#[test]
fn a_modest_bundle_passes_and_stays_confined() {
    let theirs = bundle(|_| {});
    assert_eq!(check(&theirs, &AllowList::default()), Ok(()));
    let Merged { spec, binds } = merged(&input(), &theirs, &AllowList::default()).expect("merged");
    assert_eq!(binds, []);
    let process = spec.process().as_ref().expect("a process");
    assert_eq!(process.no_new_privileges(), Some(true));
    let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
    assert_eq!(bounding.map(std::collections::HashSet::len), Some(0));
    assert_eq!(process.rlimits().as_ref().expect("limits")[0].soft(), 1024);
    let mounts = spec.mounts().as_ref().expect("mounts");
    assert_eq!(mounts.iter().filter(|mount| mount.destination() == Path::new("/proc")).count(), 1);
    assert!(mounts.iter().any(|mount| mount.destination() == Path::new("/scratch")));
    let linux = spec.linux().as_ref().expect("linux");
    let masked = linux.masked_paths().as_ref().expect("paths");
    assert!(masked.contains(&"/secret".to_owned()) && masked.contains(&"/sys/firmware".to_owned()));
    assert_eq!(spec.root().as_ref().and_then(oci_spec::runtime::Root::readonly), Some(true));
    let allow = AllowList { capabilities: vec!["CAP_KILL".to_owned()], ..AllowList::default() };
    let Merged { spec, .. } = merged(&input(), &theirs, &allow).expect("merged");
    let sets = spec.process().as_ref().and_then(|process| process.capabilities().clone()).expect("sets");
    assert_eq!(sets.bounding().as_ref().map(std::collections::HashSet::len), Some(1));
}

#[test]
fn everything_that_reaches_the_host_is_refused_by_field_with_what_to_do() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 30] = [
        ("hooks.prestart[0]", |s| s["hooks"] = json!({"prestart": [{"path": "/bin/evil"}]})),
        ("hooks.createRuntime[0]", |s| s["hooks"] = json!({"createRuntime": [{"path": "/bin/evil"}]})),
        ("hooks.startContainer[0]", |s| s["hooks"] = json!({"startContainer": [{"path": "/bin/evil"}]})),
        ("hooks.poststop[0]", |s| s["hooks"] = json!({"poststop": [{"path": "/bin/evil"}]})),
        ("linux.devices[0]", |s| {
            s["linux"]["devices"] = json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}])
        }),
        ("linux.devices[0]", |s| {
            s["linux"]["devices"] = json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 1}])
        }),
        ("mounts[0].source", |s| s["mounts"] = json!([{"destination": "/h", "type": "bind", "source": "/"}])),
        ("mounts[0].source", |s| {
            s["mounts"] = json!([{"destination": "/h", "type": "none", "source": "/etc", "options": ["rbind"]}])
        }),
        ("mounts[0].source", |s| {
            s["mounts"] = json!([{"destination": "/h", "type": "tmpfs", "source": "/etc", "options": ["bind"]}])
        }),
        ("mounts[0].type", |s| s["mounts"] = json!([{"destination": "/h", "type": "overlay", "source": "overlay"}])),
        ("mounts[0].destination", |s| s["mounts"] = json!([{"destination": "/proc/sys", "type": "tmpfs"}])),
        ("mounts[0].destination", |s| s["mounts"] = json!([{"destination": "/a/../proc", "type": "tmpfs"}])),
        ("mounts[0].options", |s| {
            s["mounts"] = json!([{"destination": "/h", "type": "tmpfs", "options": ["rshared"]}])
        }),
        ("linux.namespaces[0].path", |s| s["linux"]["namespaces"][0]["path"] = json!("/proc/1/ns/pid")),
        ("linux.namespaces", |s| {
            s["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}])
        }),
        ("linux.sysctl.kernel.core_pattern", |s| s["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/bin/evil"})),
        ("process.oomScoreAdj", |s| s["process"]["oomScoreAdj"] = json!(-1000)),
        ("linux.rootfsPropagation", |s| s["linux"]["rootfsPropagation"] = json!("shared")),
        ("linux.uidMappings", |s| s["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 1}])),
        ("linux.resources.memory.limit", |s| s["linux"]["resources"] = json!({"memory": {"limit": 4096}})),
        ("mounts[0].destination", |s| s["mounts"] = json!([{"destination": "/", "type": "tmpfs"}])),
        ("mounts[0].options", |s| {
            s["mounts"] = json!([{"destination": "/h", "type": "tmpfs", "options": ["huge=always"]}])
        }),
        ("hostname", |s| s["hostname"] = json!("a\n127.0.0.1 bank")),
        ("process.user.gid", |s| s["process"]["user"]["gid"] = json!(65_536)),
        ("process.user.additionalGids", |s| s["process"]["user"]["additionalGids"] = json!([70_000])),
        ("process.args", |s| s["process"]["args"] = json!([])),
        ("process.cwd", |s| s["process"]["cwd"] = json!("../..")),
        ("process.env[0]", |s| s["process"]["env"] = json!(["PATH"])),
        ("process.rlimits[0]", |s| s["process"]["rlimits"] = json!([{"type": "RLIMIT_RTPRIO", "hard": 99, "soft": 0}])),
        ("process.rlimits[1]", |s| {
            let limit = json!({"type": "RLIMIT_AS", "hard": 9, "soft": 9});
            s["process"]["rlimits"] = json!([limit, limit])
        }),
    ];
    for (field, change) in cases {
        let error = refused(change);
        assert!(error.starts_with(&format!("{field} (")), "{field}: {error}");
        assert!(
            error.contains(" is not allowed: ")
                && (error.contains("remove") || error.contains("write") || error.contains("add")),
            "{error}"
        );
    }
    let empty = refused(|s| *s = json!({"ociVersion": "1.0.2"}));
    assert!(empty.starts_with("process (missing)") && empty.contains("; linux (missing)"), "{empty}");
}

#[test]
fn what_the_operator_allows_passes() {
    let allow = AllowList {
        binds: vec!["/srv/read".into()],
        writable_binds: vec!["/srv/shared".into()],
        sysctls: vec!["net.core.somaxconn".to_owned()],
        capabilities: vec![],
        oom_score_adj: Some(-10),
    };
    let bind = |source: &str, options: Value| json!({"destination": "/h", "type": "bind", "source": source, "options": options});
    let spec = bundle(|s| {
        s["mounts"] = json!([bind("/srv/shared", json!(["rbind"])), bind("/srv/read", json!(["bind", "ro"]))]);
        s["linux"]["sysctl"] = json!({"net.core.somaxconn": "100"});
        s["process"]["oomScoreAdj"] = json!(-5);
    });
    assert_eq!(check(&spec, &allow), Ok(()));
    let merged = merged(&input(), &spec, &allow).expect("merged");
    let target = || "/h".into();
    assert_eq!(
        merged.binds,
        [
            Bind { source: "/srv/shared".into(), target: target(), read_only: false },
            Bind { source: "/srv/read".into(), target: target(), read_only: true }
        ]
    );
    let mounts = merged.spec.mounts().clone().unwrap_or_default();
    assert!(mounts.iter().all(|mount| mount.typ().as_deref() != Some("bind")));
    for outside in ["/srv/shared/below", "/srv/shared/../secret", "/srv/sharedness", "/srv", "/srv/read"] {
        let spec = bundle(|s| s["mounts"] = json!([bind(outside, json!(["bind"]))]));
        assert!(check(&spec, &allow).is_err(), "{outside}");
    }
}

/// What `runc spec` writes, version 1.1, in all that matters here.
fn of_runc() -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let mount = |destination: &str, kind: &str, options: Value| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": true, "user": {"uid": 0, "gid": 0}, "args": ["sh"], "cwd": "/",
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "runc",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            mount("/dev", "tmpfs", json!(["nosuid", "strictatime", "mode=755", "size=65536k"])),
            mount("/dev/pts", "devpts", json!(["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"])),
            mount("/dev/shm", "tmpfs", json!(["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"])),
            mount("/dev/mqueue", "mqueue", json!(["nosuid", "noexec", "nodev"])),
            mount("/sys", "sysfs", json!(["nosuid", "noexec", "nodev", "ro"])),
            mount("/sys/fs/cgroup", "cgroup", json!(["nosuid", "noexec", "nodev", "relatime", "ro"]))
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ],
            "maskedPaths": ["/proc/acpi", "/proc/kcore"],
            "readonlyPaths": ["/proc/bus", "/proc/sys"]
        }
    })
}

#[test]
fn what_runc_spec_writes_runs_as_it_is_and_is_told_what_is_left_out() {
    let spec: Spec = serde_json::from_value(of_runc()).expect("a description");
    assert_eq!(check(&spec, &AllowList::default()), Ok(()));
    let notes = notes(&spec, &AllowList::default());
    let fields: Vec<_> = notes.iter().filter_map(|note| Some(note.split_once(':')?.0)).collect();
    assert_eq!(fields, ["process.terminal", "process.capabilities", "linux.resources"], "{notes:?}");
    let root = SpecInput { uid: 0, gid: 0, ..input() };
    let Merged { spec, .. } = merged(&root, &spec, &AllowList::default()).expect("merged");
    let process = spec.process().as_ref().expect("a process");
    assert_eq!(process.user().uid(), root.ids.first, "root inside is the first id of the range");
    let kept = process.capabilities().as_ref().and_then(|sets| sets.effective().clone()).unwrap_or_default();
    assert_eq!(kept, [Capability::Kill, Capability::NetBindService].into(), "what root inside may have");
    assert_eq!(process.terminal(), Some(false));
    assert_eq!(spec.mounts().as_ref().map(Vec::len), Some(6), "ours alone");
}

#[test]
fn all_that_is_refused_is_told_at_once() {
    let error = refused(|s| {
        s["process"]["user"]["uid"] = json!(70_000);
        s["hooks"] = json!({"poststop": [{"path": "/bin/evil"}]});
        s["linux"]["sysctl"] = json!({"kernel.core_pattern": "x"});
    });
    for field in ["hooks.poststop[0]", "process.user.uid", "linux.sysctl.kernel.core_pattern"] {
        assert!(error.contains(field), "{field}: {error}");
    }
}

#[test]
fn limits_of_a_bundle_only_lower() {
    let theirs = bundle(|s| {
        s["process"]["rlimits"] = json!([
            {"type": "RLIMIT_NOFILE", "hard": 1_000_000, "soft": 100},
            {"type": "RLIMIT_CORE", "hard": 7, "soft": 7}
        ]);
        s["process"]["user"] = json!({"uid": 5, "gid": 0, "umask": 63, "additionalGids": [20]});
        s["mounts"] = json!([{"destination": "/t", "type": "tmpfs", "options": ["uid=5", "size=1m"]}]);
        s["linux"]["resources"] = json!({"memory": {"limit": 64 << 20}, "pids": {"limit": 0}});
    });
    assert_eq!(check(&theirs, &AllowList::default()), Ok(()));
    assert_eq!(own_limits(&theirs), OwnLimits { memory: Some(64 << 20), pids: None });
    let Merged { spec, .. } = merged(&input(), &theirs, &AllowList::default()).expect("merged");
    let process = spec.process().as_ref().expect("a process");
    let limits: Vec<_> = process.rlimits().iter().flatten().map(|limit| (limit.soft(), limit.hard())).collect();
    assert_eq!(limits, [(100, 16_384), (0, 0)]);
    assert_eq!(process.user().umask(), Some(63));
    assert_eq!(process.user().additional_gids().as_deref(), Some(&[6_553_620][..]));
    let tmpfs = spec.mounts().iter().flatten().find(|mount| mount.destination() == Path::new("/t")).cloned();
    let options = tmpfs.and_then(|mount| mount.options().clone()).unwrap_or_default();
    assert_eq!(options, ["size=1m", "uid=6553605", "gid=6553600"]);
}

#[test]
fn a_bundle_that_was_sent_keeps_owners_and_permissions() {
    if !is_root("a_bundle_that_was_sent_keeps_owners_and_permissions") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let store = ImageStore::open(&folder.path().join("images")).expect("a store");
    let config = serde_json::to_string(&bundle(|_| {})).expect("text");
    let sent = |archive: Archive| {
        let path = folder.path().join("sent.tar");
        fs::write(&path, archive.end()).expect("written");
        store.import_bundle_archive(fs::File::open(&path).expect("opens"), &AllowList::default())
    };
    let archive =
        Archive::owned(1234).file("config.json", &config).folder("rootfs").with_mode("rootfs/run", 0o4751, "x");
    let archive = archive.special(tar::EntryType::Char, "rootfs/dev/null");
    let image = store.image(&sent(archive).expect("imported")).expect("an image");
    let root = store.unpack(&image).expect("unpacks").remove(0);
    let found = fs::metadata(root.join("run")).expect("is there");
    assert_eq!((found.uid(), found.mode() & 0o7777), (1234, 0o751), "as it was, without setuid");
    assert!(!root.join("dev/null").exists());
    let elsewhere = Archive::new().file("config.json", &config).special(tar::EntryType::Char, "rootfs/null");
    let error = crate::testing::in_full(&sent(elsewhere).expect_err("refused"));
    assert!(error.contains("device nodes are not allowed"), "{error}");
    let foreign = Archive::owned(70_000).file("config.json", &config).file("rootfs/a", "x");
    let error = crate::testing::in_full(&sent(foreign).expect_err("refused"));
    assert!(error.contains("70000"), "{error}");
    assert_eq!(fs::read_dir(store.dir().join("tmp")).expect("tmp").count(), 0);
}

#[test]
fn a_bundle_becomes_an_image_and_its_root_must_lie_within_it() {
    if !is_root("a_bundle_becomes_an_image_and_its_root_must_lie_within_it") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let store = ImageStore::open(&folder.path().join("images")).expect("a store");
    let dir = folder.path().join("bundle");
    fs::create_dir_all(dir.join("rootfs/bin")).expect("folders");
    fs::write(dir.join("rootfs/bin/sh"), "x").expect("a file");
    let theirs = bundle(|_| {});
    write(&dir, &theirs).expect("written");
    let image = store.image(&store.import_bundle(&dir, &AllowList::default()).expect("imported")).expect("an image");
    assert_eq!(spec_of_image(&image).expect("reads"), Some(theirs));
    let root = store.unpack(&image).expect("unpacks").remove(0);
    assert!(root.join("bin/sh").exists());
    for path in ["/etc", "../bundle/rootfs", "link", "missing", ""] {
        let _ = std::os::unix::fs::symlink("/etc", dir.join("link"));
        write(&dir, &bundle(|s| s["root"]["path"] = json!(path))).expect("written");
        assert!(store.import_bundle(&dir, &AllowList::default()).is_err(), "{path:?} was taken");
    }
    write(&dir, &bundle(|s| s["process"]["oomScoreAdj"] = json!(-1000))).expect("written");
    let error = store.import_bundle(&dir, &AllowList::default()).expect_err("refused");
    assert!(matches!(error, StoreError::Bundle { source: BundleError::Refused(_), .. }), "{error}");
}
