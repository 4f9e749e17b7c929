//! Third-party OCI bundles: run as they are where that is safe, refused with the reason where not.

use std::fs;
use std::path::Path;

use drowse_api::deployment::AppType;
use drowse_tests::apps::App;
use drowse_tests::world::World;
use drowse_tests::{needs_a_world, skip};
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";

/// What a bundle asks for beside what is harmless.
type Demand = fn(&mut Value);

/// A bundle whose root holds one static program that serves files on the port.
fn bundle(change: impl FnOnce(&mut Value)) -> App {
    let mut config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 1000, "gid": 1000 },
            "args": ["/bin/busybox", "httpd", "-f", "-p", "8080", "-h", "/www"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true
        },
        "root": { "path": "rootfs" },
        "hostname": "bundle",
        "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
        "linux": { "namespaces": [] }
    });
    for kind in ["pid", "mount", "network", "ipc", "uts"] {
        config["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({ "type": kind }));
    }
    change(&mut config);
    App::empty(AppType::Bundle)
        .file("config.json", config.to_string())
        .file("rootfs/www/index.html", "served by busybox\n")
        .file("rootfs/etc/passwd", "app:x:1000:1000::/:/bin/sh\n")
}

fn with_busybox(app: App) -> App {
    let program = app.path().join("rootfs/bin/busybox");
    fs::create_dir_all(program.parent().expect("a folder")).expect("made");
    fs::copy(BUSYBOX, &program).expect("copied");
    for folder in ["proc", "dev", "sys", "tmp"] {
        fs::create_dir_all(app.path().join("rootfs").join(folder)).expect("made");
    }
    app
}

#[tokio::test(flavor = "multi_thread")]
async fn a_third_party_bundle_runs() {
    needs_a_world!();
    if !Path::new(BUSYBOX).exists() {
        skip!("{BUSYBOX} is missing: install busybox-static");
    }
    let world = World::start().await;
    let app = with_busybox(bundle(|_| {}));
    let _ = world.drowse(&["deploy", "--bundle", &app.path().to_string_lossy(), "--name", "bundle"]).ok();
    world.serves("bundle", "/", "served by busybox").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_asks_for_the_host_is_refused_with_what_it_asked_for() {
    needs_a_world!();
    let world = World::start().await;
    let demands: [(&str, Demand); 7] = [
        ("hook", |c| c["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh" }] })),
        ("hook", |c| c["hooks"] = json!({ "prestart": [{ "path": "/bin/sh" }] })),
        ("device", |c| c["linux"]["devices"] = json!([{ "path": "/dev/sda", "type": "b", "major": 8, "minor": 0 }])),
        ("mount", |c| {
            c["mounts"] = json!([{ "destination": "/host", "type": "bind", "source": "/etc", "options": ["bind"] }]);
        }),
        ("namespace", |c| c["linux"]["namespaces"] = json!([{ "type": "network", "path": "/proc/1/ns/net" }])),
        ("sysctl", |c| c["linux"]["sysctl"] = json!({ "kernel.core_pattern": "|/bin/sh" })),
        ("oomScoreAdj", |c| c["process"]["oomScoreAdj"] = json!(-1000)),
    ];
    for (word, demand) in demands {
        let app = bundle(demand);
        let told =
            world.drowse(&["deploy", "--bundle", &app.path().to_string_lossy(), "--name", "bundle"]).fails_with(2);
        assert!(told.to_lowercase().contains(&word.to_lowercase()), "{word:?} is not named: {told}");
    }
    assert_eq!(world.instances().await.expect("the agent answers"), [], "nothing of them runs");
}
