//! The commands on apps that exist.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::fake::{Fake, Reply};
use crate::{AT, app, deployment, log_line, text};

const APP: &str = "GET /v1/apps/shop";

fn stdout(command: &mut assert_cmd::Command) -> String {
    text(&command.assert().success().get_output().stdout)
}

fn event(revision: u64, message: &str) -> Value {
    json!({ "revision": revision, "at": AT, "kind": "deployment", "app": "shop", "message": message })
}

#[test]
fn ls_prints_plain_lines_to_a_pipe_and_json_when_asked() {
    let fake = Fake::start();
    fake.on("GET /v1/apps", Reply::Json(json!([app(&["i1"], true)])));
    let line = stdout(&mut fake.drowse(&["ls"]));
    let expected = "shop\tREADY (next: BUILDING)\tpython\t2026-11-21T22:30:00Z\thttp://shop.drowse.localhost:8080/\n";
    assert_eq!(line, expected);
    let json: Value = serde_json::from_str(&stdout(&mut fake.drowse(&["ls", "-o", "json"]))).expect("JSON");
    assert_eq!(json[0]["name"], "shop");
}

#[test]
fn ls_without_apps_says_how_to_begin() {
    let fake = Fake::start();
    fake.on("GET /v1/apps", Reply::Json(json!([])));
    let done = fake.drowse(&["ls"]).assert().success();
    assert_eq!(text(&done.get_output().stdout), "");
    assert_eq!(text(&done.get_output().stderr), "No apps yet. Deploy a folder: drowse deploy DIR\n");
}

#[test]
fn info_shows_the_app_its_instances_and_why_the_last_deploy_failed() {
    let fake = Fake::start();
    let mut failed = deployment("BUILD_ERROR");
    failed["problem"] = json!({ "code": "build-error", "detail": "npm ended with 1", "hint": "see the log" });
    fake.on(APP, Reply::Json(app(&["i1"], false)));
    fake.on("GET /v1/apps/shop/deployments", Reply::Json(json!([failed])));
    let shown = stdout(&mut fake.drowse(&["info", "shop"]));
    for expected in [
        "state:     READY\n",
        "address:   http://shop.drowse.localhost:8080/\n",
        "i1\tready since 2026-11-21T22:30:00Z\t0\tnode-1\thttp://shop--i-i1.drowse.localhost:8080/\n",
        "d1\tBUILD_ERROR\tlive\t",
        "problem:   npm ended with 1\n",
        "try:       see the log\n",
    ] {
        assert!(shown.contains(expected), "{expected:?} is not in\n{shown}");
    }
}

#[test]
fn a_followed_log_goes_on_after_the_stream_broke_and_ends_when_nobody_reads() {
    let fake = Fake::start();
    let line = |second, text: &str| {
        let mut line = log_line(second, text);
        line["instance"] = json!("i1");
        line
    };
    let logs = "GET /v1/apps/shop/logs";
    fake.on(logs, Reply::Broken(vec![line(1, "one"), line(1, "two")]));
    fake.on(
        logs,
        Reply::Open(vec![line(1, "one"), line(1, "two"), line(2, "three"), line(3, "four"), line(4, "five")]),
    );
    let mut command = fake.std_command(&["logs", "-f", "--tail", "7", "shop"]);
    command.env("DROWSE_SOCKET", fake.socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let mut out = BufReader::with_capacity(64, child.stdout.take().expect("piped"));
    let shown: Vec<_> = (0..3)
        .map(|_| {
            let mut line = String::new();
            out.read_line(&mut line).expect("read");
            line
        })
        .collect();
    assert_eq!(shown, ["22:30:01  one\n", "22:30:01  two\n", "22:30:02  three\n"]);
    assert_eq!(fake.lines()[0], "GET /v1/apps/shop/logs?follow=true&tail=7");
    child.kill().expect("ended");
    child.wait().expect("ended");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let fake = Fake::start();
    let mut line = log_line(1, &"x".repeat(1000));
    line["instance"] = json!("i1");
    fake.on("GET /v1/apps/shop/logs", Reply::Lines(vec![line; 2000]));
    let mut command = fake.std_command(&["logs", "shop", "-o", "json"]);
    command.env("DROWSE_SOCKET", fake.socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("started");
    let mut out = child.stdout.take().expect("piped");
    let mut first = [0; 10];
    out.read_exact(&mut first).expect("read");
    drop(out);
    let done = child.wait_with_output().expect("ended");
    assert_eq!((done.status.code(), text(&done.stderr).as_str()), (Some(0), ""));
}

#[test]
fn followed_events_are_taken_up_after_the_last_one_shown() {
    let fake = Fake::start();
    let events = "GET /v1/events";
    fake.on(events, Reply::Broken(vec![event(7, "built"), event(9, "serves")]));
    fake.on(events, Reply::Problem(410, json!({ "code": "bad-request", "detail": "the test is over" })));
    let done = fake.drowse(&["events", "-f", "shop"]).assert().code(2);
    let shown = text(&done.get_output().stdout);
    assert_eq!(shown.lines().next(), Some("2026-11-21 22:30:00  shop  deployment  built"));
    assert_eq!(shown.lines().count(), 2);
    let asked = fake.lines();
    assert_eq!(asked[0], "GET /v1/events?follow=true&app=shop&tail=50");
    assert_eq!(asked[1], "GET /v1/events?follow=true&app=shop&after=9");
}

#[test]
fn a_restart_is_waited_for_until_another_instance_serves() {
    let fake = Fake::start();
    fake.on(APP, Reply::Json(app(&["old"], false)));
    fake.on(APP, Reply::Json(app(&["old"], true)));
    fake.on(APP, Reply::Json(app(&["old", "new"], true)));
    fake.on(APP, Reply::Json(app(&["new"], false)));
    fake.on("POST /v1/apps/shop/restart", Reply::Json(app(&["old"], true)));
    let said = stdout(&mut fake.drowse(&["restart", "shop"]));
    assert!(said.starts_with("shop is READY after "), "{said}");
    assert_eq!(fake.lines().iter().filter(|line| *line == APP).count(), 4);
}

#[test]
fn a_restart_that_fails_is_told_and_so_is_what_serves() {
    let fake = Fake::start();
    fake.on(APP, Reply::Json(app(&["old"], false)));
    fake.on("POST /v1/apps/shop/restart", Reply::Json(app(&["old"], true)));
    let done = fake.drowse(&["restart", "shop"]).assert().code(11);
    let told = text(&done.get_output().stderr);
    assert!(
        told.contains("did not become ready; what ran before serves on\ntry: drowse logs shop, drowse events shop\n"),
        "{told}"
    );
}

#[test]
fn a_stop_is_waited_for_until_nothing_runs() {
    let fake = Fake::start();
    let mut stopped = app(&[], false);
    stopped["wanted"] = json!("stopped");
    fake.on(APP, Reply::Json(app(&["i1"], false)));
    fake.on(APP, Reply::Json(stopped.clone()));
    fake.on("POST /v1/apps/shop/stop", Reply::Json(stopped));
    let said = stdout(&mut fake.drowse(&["stop", "shop"]));
    assert!(said.starts_with("shop is STOPPED after "), "{said}");
}

#[test]
fn removing_needs_a_yes() {
    let fake = Fake::start();
    fake.on(APP, Reply::Json(app(&[], false)));
    fake.on("DELETE /v1/apps/shop", Reply::Json(Value::Null));
    let done = fake.drowse(&["rm", "shop"]).assert().code(2);
    assert!(text(&done.get_output().stderr).ends_with("try: drowse rm shop --yes\n"));
    assert_eq!(fake.lines(), [APP]);
    assert_eq!(stdout(&mut fake.drowse(&["rm", "shop", "--yes"])), "shop is removed\n");
    assert!(fake.lines().contains(&"DELETE /v1/apps/shop".to_owned()));
}

#[test]
fn the_environment_is_listed_set_and_unset() {
    let fake = Fake::start();
    let vars = json!({ "vars": { "A": "1", "B": "two words" } });
    fake.on(APP, Reply::Json(app(&[], false)));
    fake.on("GET /v1/apps/shop/env", Reply::Json(vars.clone()));
    fake.on("GET /v1/apps/shop/env", Reply::Json(json!({ "vars": {} })));
    fake.on("PATCH /v1/apps/shop/env", Reply::Json(vars));
    assert_eq!(stdout(&mut fake.drowse(&["env", "ls", "shop"])), "A=1\nB=two words\n");
    assert_eq!(stdout(&mut fake.drowse(&["env", "set", "shop", "A=1", "B=two words"])), "shop has 2 variables\n");
    let sent: Value = serde_json::from_slice(&fake.call("PATCH").body).expect("JSON");
    assert_eq!(sent, json!({ "set": { "A": "1", "B": "two words" }, "unset": [] }));
    fake.drowse(&["env", "unset", "shop", "C"]).assert().success().stderr("note: C was not set\n");
    let calls = fake.calls();
    let last = calls.iter().rfind(|call| call.line.starts_with("PATCH")).expect("called");
    assert_eq!(serde_json::from_slice::<Value>(&last.body).expect("JSON"), json!({ "set": {}, "unset": ["C"] }));
}

#[test]
fn a_change_of_the_environment_of_a_running_app_waits_for_its_restart() {
    let fake = Fake::start();
    fake.on(APP, Reply::Json(app(&["old"], false)));
    fake.on(APP, Reply::Json(app(&["old"], true)));
    fake.on(APP, Reply::Json(app(&["new"], false)));
    fake.on("GET /v1/apps/shop/env", Reply::Json(json!({ "vars": {} })));
    fake.on("PATCH /v1/apps/shop/env", Reply::Json(json!({ "vars": { "A": "1" } })));
    assert_eq!(stdout(&mut fake.drowse(&["env", "set", "shop", "A=1"])), "shop runs with 1 variable\n");
}

#[test]
fn an_environment_that_stays_as_it_is_is_said_to() {
    let fake = Fake::start();
    fake.on(APP, Reply::Json(app(&["i1"], false)));
    fake.on("GET /v1/apps/shop/env", Reply::Json(json!({ "vars": { "A": "1" } })));
    fake.on("PATCH /v1/apps/shop/env", Reply::Json(json!({ "vars": { "A": "1" } })));
    let said = stdout(&mut fake.drowse(&["env", "set", "shop", "A=1"]));
    assert_eq!(said, "nothing changed: shop has 1 variable\n");
}

#[test]
fn open_prints_the_address_and_a_way_that_needs_no_name_to_resolve() {
    let fake = Fake::start();
    fake.on(APP, Reply::Json(app(&["i1"], false)));
    let shown = stdout(&mut fake.drowse(&["open", "shop"]));
    let curl = "curl -H 'Host: shop.drowse.localhost' http://127.0.0.1:8080/";
    assert_eq!(shown, format!("http://shop.drowse.localhost:8080/\n{curl}\n"));
}

#[test]
fn the_app_of_the_current_folder_is_meant_when_none_is_named() {
    let fake = Fake::start();
    fake.on(APP, Reply::Json(app(&["i1"], false)));
    let folder = fake.home().join("Shop");
    std::fs::create_dir(&folder).expect("made");
    fake.drowse(&["open"]).current_dir(folder).assert().success();
}

#[test]
fn doctor_shows_every_check_and_fails_with_one_of_them() {
    let fake = Fake::start();
    let checks = |last: &str| {
        json!([{ "node": "node-1", "checks": [
            { "name": "kernel", "verdict": "ok", "found": "6.18" },
            { "name": "criu", "verdict": last, "found": "not there", "advice": "install it" },
        ] }])
    };
    fake.on("GET /v1/doctor", Reply::Json(checks("warning")));
    fake.on("GET /v1/doctor", Reply::Json(checks("failure")));
    let expected = "node-1\n  ok       kernel: 6.18\n  warning  criu: not there\n           try: install it\n";
    assert_eq!(stdout(&mut fake.drowse(&["doctor"])), expected);
    let done = fake.drowse(&["doctor"]).assert().code(7);
    assert!(text(&done.get_output().stderr).contains("1 check failed"));
}

#[test]
fn a_tokens_secret_is_printed_alone() {
    let fake = Fake::start();
    let token = json!({ "id": "t1", "label": "ci", "created": AT, "expires": null });
    let mut made = token.clone();
    made["secret"] = json!("dw_secret");
    fake.on("POST /v1/tokens", Reply::Json(made));
    fake.on("GET /v1/tokens", Reply::Json(json!([token])));
    fake.on("DELETE /v1/tokens/t1", Reply::Json(Value::Null));
    assert_eq!(stdout(&mut fake.drowse(&["token", "create", "ci", "--expires", "30d"])), "dw_secret\n");
    let sent: Value = serde_json::from_slice(&fake.call("POST /v1/tokens").body).expect("JSON");
    assert!(sent["label"] == "ci" && sent["expires"].is_string(), "{sent}");
    assert_eq!(stdout(&mut fake.drowse(&["token", "ls"])), format!("t1\tci\t{AT}\tnever\n"));
    assert_eq!(stdout(&mut fake.drowse(&["token", "rm", "t1"])), "t1 is removed\n");
    fake.drowse(&["token", "create", "ci", "--expires", "-1d"]).assert().code(2);
}

#[test]
fn the_value_of_a_secret_comes_by_standard_input_or_a_file_and_is_never_shown() {
    let fake = Fake::start();
    let listed = json!([{ "name": "TOKEN", "set": AT }]);
    fake.on(APP, Reply::Json(app(&[], false)));
    fake.on("GET /v1/apps/shop/secrets", Reply::Json(json!([])));
    fake.on("PATCH /v1/apps/shop/secrets", Reply::Json(listed));
    let mut command = fake.drowse(&["secret", "set", "shop", "TOKEN"]);
    let done = command.write_stdin("pl4nted\n").assert().success();
    let output = done.get_output();
    assert_eq!(text(&output.stdout), "shop has 1 secret\n");
    assert!(!text(&output.stderr).contains("pl4nted"));
    let sent = |fake: &Fake| {
        let call = fake.calls().into_iter().rfind(|call| call.line.starts_with("PATCH")).expect("called");
        serde_json::from_slice::<Value>(&call.body).expect("JSON")
    };
    assert_eq!(sent(&fake), json!({ "set": { "TOKEN": "pl4nted" }, "unset": [] }), "without the line's end");
    let file = fake.home().join("key.pem");
    std::fs::write(&file, "one\ntwo\r\n").expect("written");
    fake.drowse(&["secret", "set", "shop", "KEY", "--file", &file.to_string_lossy()]).assert().success();
    assert_eq!(sent(&fake)["set"], json!({ "KEY": "one\ntwo" }));
    let done = fake.drowse(&["secret", "set", "shop", "TOKEN=pl4nted"]).assert().code(2);
    assert!(!text(&done.get_output().stderr).contains("pl4nted"));
    fake.drowse(&["secret", "set", "shop", "TOKEN"]).write_stdin("").assert().code(2);
}

#[test]
fn missed_events_are_told_and_the_rest_is_followed() {
    let fake = Fake::start();
    let gone = json!({ "code": "compacted", "detail": "events 2 to 5 are not kept any more" });
    fake.on("GET /v1/events", Reply::Broken(vec![event(1, "first")]));
    fake.on("GET /v1/events", Reply::Problem(410, gone));
    fake.on("GET /v1/events", Reply::Open(vec![event(6, "sixth")]));
    let mut command = fake.std_command(&["events", "-f"]);
    command.env("DROWSE_SOCKET", fake.socket()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = command.spawn().expect("starts");
    let lines = BufReader::new(running.stdout.take().expect("piped")).lines();
    let lines: Vec<_> = lines.take(2).map(|line| line.expect("a line")).collect();
    running.kill().expect("killed");
    let mut said = String::new();
    running.stderr.take().expect("piped").read_to_string(&mut said).expect("reads");
    running.wait().expect("ended");
    assert!(lines[0].ends_with("first") && lines[1].ends_with("sixth"), "{lines:?}");
    assert!(said.contains("events 2 to 5 are not kept any more"), "{said}");
}
