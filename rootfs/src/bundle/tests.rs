//! Descriptions of ours, and what strangers' may ask for.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::store::{ImageStore, StoreError};
use crate::testing::is_root;

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
    assert!(check(&spec, &AllowList::default()).is_ok());
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
    let spec = merged(&input(), &theirs, &AllowList::default()).expect("merged");
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
    let spec = merged(&input(), &theirs, &allow).expect("merged");
    let sets = spec.process().as_ref().and_then(|process| process.capabilities().clone()).expect("sets");
    assert_eq!(sets.bounding().as_ref().map(std::collections::HashSet::len), Some(1));
}

#[test]
fn everything_that_reaches_the_host_is_refused_by_field_with_what_to_do() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change); 18] = [
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
    assert!(refused(|s| *s = json!({"ociVersion": "1.0.2"})).starts_with("linux (missing)"));
}

#[test]
fn what_the_operator_allows_passes() {
    let allow = AllowList {
        hooks: vec!["/opt/hook".into()],
        devices: vec!["/dev/kmsg".into()],
        host_binds: vec!["/srv/shared".into()],
        namespace_paths: vec!["/run/netns/a".into()],
        sysctls: vec!["net.core.somaxconn".to_owned()],
        capabilities: vec![],
        oom_score_adj: Some(-10),
    };
    let spec = bundle(|s| {
        s["hooks"] = json!({"poststop": [{"path": "/opt/hook"}]});
        s["mounts"] = json!([{"destination": "/h", "type": "bind", "source": "/srv/shared/a"}]);
        s["linux"]["namespaces"][1]["path"] = json!("/run/netns/a");
        s["linux"]["sysctl"] = json!({"net.core.somaxconn": "100"});
        s["process"]["oomScoreAdj"] = json!(-5);
    });
    assert_eq!(check(&spec, &allow), Ok(()));
    let merged = merged(&input(), &spec, &allow).expect("merged");
    let namespaces = merged.linux().as_ref().and_then(|linux| linux.namespaces().clone()).expect("namespaces");
    assert!(namespaces.iter().any(|namespace| namespace.path().as_deref() == Some(Path::new("/run/netns/a"))));
    for outside in ["/srv/shared/../secret", "/srv/sharedness", "/srv"] {
        let spec = bundle(|s| s["mounts"] = json!([{"destination": "/h", "type": "bind", "source": outside}]));
        assert!(check(&spec, &allow).is_err(), "{outside}");
    }
    // Another device under an allowed name.
    let disk = bundle(|s| s["linux"]["devices"] = json!([{"path": "/dev/kmsg", "type": "c", "major": 8, "minor": 0}]));
    assert!(check(&disk, &allow).is_err());
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
