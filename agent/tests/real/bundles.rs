//! Bundles of third parties: run as they are, or refused by the field that asks for too much.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceState, LogLine, Workload};
use drowse_api::{ErrorCode, MemoryBytes};
use serde_json::{Value, json};

use crate::support::{Agent, busybox, visit};

/// Tells what it finds inside, then serves it.
const TELL: &str = "
    { echo id $(id -u) $(id -g) $(id -G)
      echo name $(hostname)
      echo files $(ulimit -n)
      echo umask $(umask)
      echo owner $(stat -c %u:%g:%a /data/of-42)
      echo shared $(cat /shared/word)
      echo cwd $(pwd)
      touch /new 2>/dev/null && echo root is writable
      touch /shared/new 2>/dev/null && echo shared is writable
      cat /data/of-42 2>/dev/null && echo read what is of another
      touch /scratch/new && echo scratch is writable
      [ -c /dev/null ] && echo null
      tr '\\0' ' ' < /proc/1/cmdline | grep -q never && echo never
      echo greeting $GREETING
    } > /scratch/index.html
    exec httpd -f -p $PORT -h /scratch";

/// As `runc spec` writes it, for the program in `args`.
fn config(args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2-dev",
        "process": {
            "terminal": true, "user": {"uid": 1000, "gid": 0, "umask": 63, "additionalGids": [7]},
            "args": args, "env": ["PATH=/bin", "TERM=xterm", "GREETING=hello there"], "cwd": "/data",
            "capabilities": {"bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "permitted": ["CAP_KILL"]},
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 77, "soft": 77}],
            "noNewPrivileges": true
        },
        "root": {"path": "rootfs", "readonly": true},
        "hostname": "third-party",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]},
            {"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m", "uid=1000", "mode=700"]}
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 32 << 20}, "pids": {"limit": 9}},
            "namespaces": [
                {"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}, {"type": "cgroup"}
            ]
        }
    })
}

/// A bundle with busybox, its applets, and a file that only id 42 may read.
fn bundle(config: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("rootfs");
    for name in ["bin", "data", "dev", "proc", "sys"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::fs::copy(busybox().unwrap(), root.join("bin/busybox")).unwrap();
    std::fs::set_permissions(root.join("bin/busybox"), PermissionsExt::from_mode(0o755)).unwrap();
    for applet in ["sh", "id", "hostname", "stat", "cat", "touch", "tr", "grep", "httpd", "["] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    let secret = root.join("data/of-42");
    std::fs::write(&secret, "secret\n").unwrap();
    chown(&secret, Some(42), Some(43)).unwrap();
    std::fs::set_permissions(&secret, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

#[tokio::test]
async fn a_bundle_runs_as_it_says_within_what_the_operator_allows() {
    let shared = |folder: &Path| folder.join("shared");
    let allow = |folder: &Path| format!("[bundles]\nallow_binds = [{:?}]\n", shared(folder));
    let Some(agent) = Agent::start_with(11, allow).await else { return };
    let shared = shared(agent.folder.path());
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("word"), "from the host").unwrap();
    std::fs::set_permissions(&shared, PermissionsExt::from_mode(0o777)).unwrap();

    let mut config = config(&["/bin/sh", "-c", TELL]);
    let bind = json!({"destination": "/shared", "type": "bind", "source": shared, "options": ["rbind", "ro"]});
    config["mounts"].as_array_mut().unwrap().push(bind);
    let image = agent.build("first", AppType::Bundle, bundle(&config).path()).await.unwrap();
    let mut log = agent.client.lines::<LogLine>("/v1/builds/first/logs").await.unwrap();
    let mut told = Vec::new();
    while let Some(line) = log.next().await.unwrap() {
        told.push(line.text);
    }
    assert!(told.iter().any(|line| line.starts_with("process.terminal: apps have no terminal")), "{told:?}");

    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let page = visit(&agent.until_ready("web").await).await;
    let first = 1_835_008_000_u64;
    let expected = format!(
        "id {0} {first} {first} {1}\nname third-party\nfiles 77\numask 0077\nowner {2}:{3}:600\n\
         shared from the host\ncwd /data\nscratch is writable\nnull\ngreeting hello there\n",
        first + 1000,
        first + 7,
        first + 42,
        first + 43
    );
    assert_eq!(page, expected);
    let limits = agent.limits("web");
    assert_eq!(limits, (MemoryBytes::mib(32).0, 9), "the lower ones of the bundle's and ours");

    // What the operator no longer allows does not start any more, and says so.
    let mut agent = agent;
    agent.kill();
    let text = std::fs::read_to_string(agent.config()).unwrap();
    std::fs::write(agent.config(), text.split("[bundles]").next().unwrap()).unwrap();
    agent.restart().await;
    assert_eq!(visit(&agent.until_ready("web").await).await, expected, "what runs is adopted");
    agent.put("again", 1, &image, Workload::Web).await.unwrap();
    let InstanceState::Failed { failure } = agent.until_ready("again").await.state else { panic!("it runs") };
    assert!(failure.detail.contains("mounts[4].source") && failure.detail.contains("allow_binds"), "{failure:?}");
}

/// What root inside can do, then served by a user that it makes itself.
const TELL_AS_ROOT: &str = "
    { echo id $(id -u) $(id -g)
      echo root:x:0:0::/:/bin/sh > /etc/passwd && echo web:x:33:33::/:/bin/sh >> /etc/passwd && echo made a user
      touch /data/own && busybox chown 33:33 /data/own && echo owner $(stat -c %u:%g /data/own)
      cat /data/of-42
      echo home $HOME
      busybox mount -t tmpfs none /data 2>/dev/null && echo mounted
      echo no > /etc/hosts 2>/dev/null && echo wrote hosts
      busybox ip link set lo down 2>/dev/null && echo took the network down
    } > /www/index.html
    exec httpd -f -u web -p $PORT -h /www";

#[tokio::test]
async fn a_bundle_of_user_0_is_root_inside_and_drops_to_others() {
    let Some(mut agent) = Agent::start(41).await else { return };
    let mut config = config(&["/bin/sh", "-c", TELL_AS_ROOT]);
    config["process"]["user"] = json!({"uid": 0, "gid": 0});
    config["process"]["env"] = json!(["PATH=/bin"]);
    config["root"]["readonly"] = json!(false);
    config["mounts"] = json!([]);
    config["process"]["capabilities"] = Value::Null;
    let folder = bundle(&config);
    for name in ["etc", "www"] {
        std::fs::create_dir(folder.path().join("rootfs").join(name)).unwrap();
    }
    std::fs::write(folder.path().join("rootfs/etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    let image = agent.build("first", AppType::Bundle, folder.path()).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    let expected = "id 0 0\nmade a user\nowner 33:33\nsecret\nhome /root\n";
    assert_eq!(visit(&ready).await, expected);
    let process = ready.process.unwrap().pid;
    let uid = std::fs::metadata(format!("/proc/{process}")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&uid), 1_835_008_033, "the server is another user now");
    agent.kill();
    agent.restart().await;
    let adopted = agent.until_ready("web").await;
    assert_eq!(adopted.process, ready.process, "a new agent adopts it");
    // Into the standing sandbox, by the launcher of the new agent.
    rustix::process::kill_process(rustix::process::Pid::from_raw(process).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    let again = agent.until("web", |status| status.restarts == 1 && status.state.is_ready()).await;
    assert_eq!(visit(&again).await, expected);
}

#[tokio::test]
async fn a_bundle_that_asks_for_more_is_refused_by_every_field() {
    type Change = fn(&mut Value);
    let Some(agent) = Agent::start(12).await else { return };
    let cases: [(&str, Change); 14] = [
        ("process.user.uid", |c| c["process"]["user"]["uid"] = json!(65_536)),
        ("process.oomScoreAdj", |c| c["process"]["oomScoreAdj"] = json!(-500)),
        ("process.rlimits[0]", |c| {
            c["process"]["rlimits"] = json!([{"type": "RLIMIT_RTPRIO", "hard": 99, "soft": 99}]);
        }),
        ("hooks.prestart[0]", |c| c["hooks"] = json!({"prestart": [{"path": "/bin/sh"}]})),
        ("hooks.createRuntime[0]", |c| c["hooks"] = json!({"createRuntime": [{"path": "/bin/sh"}]})),
        ("linux.devices[0]", |c| {
            c["linux"]["devices"] = json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
        }),
        ("mounts[0].source", |c| {
            c["mounts"] = json!([{"destination": "/h", "type": "bind", "source": "/etc", "options": ["rbind", "ro"]}]);
        }),
        ("mounts[0].options", |c| {
            c["mounts"] = json!([{"destination": "/h", "type": "tmpfs", "source": "tmpfs", "options": ["rshared"]}]);
        }),
        ("linux.namespaces[1].path", |c| c["linux"]["namespaces"][1]["path"] = json!("/proc/1/ns/net")),
        ("linux.namespaces[6]", |c| {
            c["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        }),
        ("linux.uidMappings", |c| {
            c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
        }),
        ("linux.sysctl.kernel.core_pattern", |c| c["linux"]["sysctl"] = json!({"kernel.core_pattern": "|/bin/sh"})),
        ("linux.rootfsPropagation", |c| c["linux"]["rootfsPropagation"] = json!("rshared")),
        ("hostname", |c| c["hostname"] = json!("a\n1.2.3.4 bank.example")),
    ];
    let mut every = config(&["/bin/sh"]);
    for (number, (field, change)) in cases.iter().enumerate() {
        let mut config = config(&["/bin/sh"]);
        change(&mut config);
        let refused = agent.build(&format!("b{number}"), AppType::Bundle, bundle(&config).path()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::NotAllowed, "{field}: {refused}");
        assert!(refused.detail.starts_with(&format!("{field} (")), "{field}: {refused}");
        if !field.starts_with("mounts") && !field.starts_with("hooks") {
            change(&mut every);
        }
    }
    let refused = agent.build("every", AppType::Bundle, bundle(&every).path()).await.unwrap_err();
    for (field, _) in cases.iter().filter(|(field, _)| !field.starts_with("mounts") && !field.starts_with("hooks")) {
        assert!(refused.detail.contains(&format!("{field} (")), "{field} is not told with the others: {refused}");
    }
    let folder = bundle(&config(&["/bin/sh"]));
    chown(folder.path().join("rootfs/data/of-42"), Some(70_000), None).unwrap();
    let refused = agent.build("foreign", AppType::Bundle, folder.path()).await.unwrap_err();
    assert!(refused.detail.contains("of-42") && refused.detail.contains("70000"), "{refused}");
    assert!(!refused.detail.contains("/proc/self"), "{refused}");
}
