//! Who a process in a sandbox is, as the host's kernel says it.

use drowse_launcher::{Cause, LauncherError, Step};

use crate::support::{APP, Bench, IDS, Running, process, whole};

/// The fields that say what a process may do.
const POWERLESS: [(&str, &str); 8] = [
    ("CapInh", "0000000000000000"),
    ("CapPrm", "0000000000000000"),
    ("CapEff", "0000000000000000"),
    ("CapBnd", "0000000000000000"),
    ("CapAmb", "0000000000000000"),
    ("NoNewPrivs", "1"),
    ("SigBlk", "0000000000000000"),
    ("SigIgn", "0000000000000000"),
];

#[test]
fn an_app_has_its_user_and_no_power() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let mut request = process(&["/bin/sleep", "1000"]);
    let user = request.process.user_mut();
    user.set_additional_gids(Some(vec![IDS.first + 7, IDS.first + 9]));
    let app = bench.start(&sandbox, &request).unwrap();
    for (field, wanted) in POWERLESS {
        assert_eq!(Running::status(app.pid, field), wanted, "{field}");
    }
    let id = (IDS.first + APP).to_string();
    assert_eq!(Running::status(app.pid, "Uid"), [id.as_str(); 4].join("\t"));
    assert_eq!(Running::status(app.pid, "Gid"), [id.as_str(); 4].join("\t"));
    assert_eq!(Running::status(app.pid, "Groups"), format!("{} {}", IDS.first + 7, IDS.first + 9));
    assert_eq!(Running::status(app.pid, "Seccomp"), "2");
    assert_eq!(Running::status(app.pid, "Seccomp_filters"), "1");
    assert_eq!(Running::status(app.pid, "PPid"), sandbox.sandbox.pid.to_string(), "init has adopted it");
    assert_eq!(Running::status(app.pid, "NSpid"), format!("{}\t{}", app.pid, app.pid_inside));
    assert_eq!(Running::status(app.pid, "NSsid").split('\t').next_back(), Some(app.pid_inside.to_string().as_str()));
    assert_eq!(Running::status(app.pid, "Umask"), "0022");
}

#[test]
fn init_is_pid_1_of_another_user_and_has_no_power() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let init = sandbox.sandbox.pid;
    // Once it answers it has set itself up.
    sandbox.init.state().unwrap();
    for (field, wanted) in POWERLESS {
        let wanted = if field == "SigBlk" { "0000000000010000" } else { wanted };
        assert_eq!(Running::status(init, field), wanted, "{field}");
    }
    let id = (IDS.first + IDS.count - 1).to_string();
    assert_eq!(Running::status(init, "Uid"), [id.as_str(); 4].join("\t"));
    assert_eq!(Running::status(init, "Groups"), "");
    assert_eq!(Running::status(init, "Seccomp"), "2");
    assert_eq!(Running::status(init, "Name"), "drowse-init");
    assert_eq!(Running::status(init, "NSpid"), format!("{init}\t1"));
    let program = std::fs::read_link(format!("/proc/{init}/exe")).unwrap();
    assert!(program.to_string_lossy().starts_with("/memfd:drowse-init"), "{}", program.display());
    let (status, text) = bench.run(&sandbox, "kill -9 1; kill -TERM 1; readlink /proc/1/exe; ls /proc/1/fd");
    assert_ne!(status, 0);
    assert!(text.contains("Operation not permitted") && text.contains("Permission denied"), "{text}");
}

#[test]
fn capabilities_are_given_only_where_all_five_sets_say_so() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let mut request = process(&["/bin/sleep", "1000"]);
    let sets = ["bounding", "effective", "permitted", "inheritable", "ambient"];
    let asked = sets.map(|set| (set.to_owned(), serde_json::json!(["CAP_NET_BIND_SERVICE"])));
    let asked = serde_json::Value::Object(asked.into_iter().collect());
    request.process.set_capabilities(serde_json::from_value(asked).unwrap());
    let app = bench.start(&sandbox, &request).unwrap();
    for field in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(Running::status(app.pid, field), "0000000000000400", "{field}");
    }
}

#[test]
fn users_outside_of_the_range_are_refused() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    for (uid, gid) in [(0, 0), (IDS.first + 1000, 0), (IDS.first - 1, IDS.first), (IDS.first, IDS.first + IDS.count)] {
        let mut request = process(&["/bin/true"]);
        request.process.user_mut().set_uid(uid);
        request.process.user_mut().set_gid(gid);
        let error = bench.start(&sandbox, &request).unwrap_err();
        let LauncherError::Failed(failure) = &error else { panic!("{}", whole(&error)) };
        assert_eq!(failure.step, Step::Spec);
        assert_eq!(failure.target, "process.user");
    }
}

#[test]
fn limits_are_set_and_what_the_host_cannot_give_is_told() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let mut request = process(&["/bin/sleep", "1000"]);
    let limits = serde_json::json!([
        {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    request.process.set_rlimits(Some(serde_json::from_value(limits).unwrap()));
    let app = bench.start(&sandbox, &request).unwrap();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", app.pid)).unwrap();
    let files: Vec<&str> =
        limits.lines().find(|line| line.starts_with("Max open files")).unwrap().split_whitespace().collect();
    assert_eq!(files[3..5], ["100", "200"]);
    assert!(app.shortfalls.is_empty(), "{:?}", app.shortfalls);
    let more = serde_json::json!([{"type": "RLIMIT_NOFILE", "soft": 1 << 30, "hard": 1 << 30}]);
    request.process.set_rlimits(Some(serde_json::from_value(more).unwrap()));
    // Above the kernel's own bound nobody may go, so this host cannot give it.
    let app = bench.start(&sandbox, &request).unwrap();
    assert_eq!(app.shortfalls[0].step, Step::ResourceLimit);
    assert_eq!(app.shortfalls[0].cause, Cause::Errno(libc::EPERM));
}
