//! How the controller is found, and what is said when it cannot be.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::fake::{Fake, Reply};
use crate::text;

fn unknown() -> Value {
    json!({ "code": "unauthenticated", "detail": "this token is not known" })
}

#[test]
fn a_login_is_tried_saved_for_its_owner_used_and_forgotten() {
    let fake = Fake::start();
    let who = json!({ "user": "u1", "name": "ada", "by": "ci", "domain": "drowse.localhost", "port": 8080 });
    fake.on("GET /v1/whoami", Reply::Json(who));
    fake.on("GET /v1/apps", Reply::Json(json!([])));
    let url = format!("http://api.drowse.localhost:{}", fake.port());
    let command = |arguments: &[&str]| assert_cmd::Command::from(fake.std_command(arguments));
    let done = command(&["login", "--url", &url, "--token-stdin"]).write_stdin("dw_secret\n").assert().success();
    assert_eq!(text(&done.get_output().stdout), format!("logged in to {url} as ada\n"));
    let saved = fake.home().join(".config/drowse/login.json");
    assert_eq!(std::fs::metadata(&saved).expect("saved").permissions().mode() & 0o777, 0o600);

    command(&["ls"]).assert().success();
    let call = fake.call("GET /v1/apps");
    assert_eq!(call.authorization, "Bearer dw_secret");
    assert_eq!(call.host, format!("api.drowse.localhost:{}", fake.port()));

    command(&["logout"]).assert().success();
    assert!(!saved.exists());
}

#[test]
fn a_wrong_token_is_not_saved() {
    let fake = Fake::start();
    fake.on("GET /v1/whoami", Reply::Problem(401, unknown()));
    let url = format!("http://127.0.0.1:{}", fake.port());
    let mut command = assert_cmd::Command::from(fake.std_command(&["login", "--url", &url, "--token-stdin"]));
    let done = command.write_stdin("wrong").assert().code(4);
    let told = text(&done.get_output().stderr);
    assert_eq!(told, "error: this token is not known\ntry: make a token on the host: sudo drowse token create LABEL\n");
    assert!(!fake.home().join(".config/drowse/login.json").exists());
}

#[test]
fn the_environment_names_a_controller_and_a_socket_comes_first() {
    let fake = Fake::start();
    fake.on("GET /v1/apps", Reply::Json(json!([])));
    let url = format!("http://localhost:{}", fake.port());
    let mut command = fake.std_command(&["ls"]);
    command.env("DROWSE_URL", &url).env("DROWSE_TOKEN", "dw_env");
    assert_cmd::Command::from(command).assert().success();
    assert_eq!(fake.call("GET /v1/apps").authorization, "Bearer dw_env");
    fake.drowse(&["ls"]).env("DROWSE_URL", &url).env("DROWSE_TOKEN", "dw_env").assert().success();
    assert_eq!(fake.calls()[1].authorization, "");
    let mut command = fake.std_command(&["ls"]);
    command.env("DROWSE_URL", &url);
    assert_cmd::Command::from(command).assert().code(4);
}

#[test]
fn a_controller_that_is_not_there_is_one_sentence_and_what_to_do() {
    let fake = Fake::start();
    let mut command = fake.std_command(&["ls", "--socket", "/nowhere/controller.sock"]);
    let done = command.output().expect("ran");
    assert_eq!(done.status.code(), Some(7));
    let told = text(&done.stderr);
    let lines: Vec<_> = told.lines().collect();
    assert!(lines[0].starts_with("error: cannot reach /nowhere/controller.sock: No such file or directory"), "{told}");
    assert!(lines[1].starts_with("try: scripts/demo starts a platform"), "{told}");
    assert_eq!(lines.len(), 2);
}

#[test]
fn a_node_that_is_not_there_is_the_doctors_matter() {
    let fake = Fake::start();
    let away = json!({ "code": "unavailable", "detail": "cannot reach /run/drowse/agent.sock: Connection refused" });
    fake.on("GET /v1/apps", Reply::Problem(503, away));
    let done = fake.drowse(&["ls"]).assert().code(7);
    assert!(text(&done.get_output().stderr).ends_with("Connection refused\ntry: drowse doctor\n"));
}

#[test]
fn with_json_an_error_is_an_object_on_standard_error() {
    let fake = Fake::start();
    fake.on("GET /v1/apps/shop", Reply::Problem(404, json!({ "code": "not-found", "detail": "there is no app shop" })));
    let done = fake.drowse(&["info", "shop", "--output", "json"]).assert().code(3);
    assert_eq!(text(&done.get_output().stdout), "");
    let problem: Value = serde_json::from_slice(&done.get_output().stderr).expect("JSON");
    assert_eq!(problem, json!({ "code": "not-found", "detail": "there is no app shop" }));
}

#[test]
fn colours_are_for_terminals_unless_they_are_asked_for() {
    let fake = Fake::start();
    fake.on("GET /v1/apps", Reply::Problem(404, json!({ "code": "not-found", "detail": "gone" })));
    let plain = fake.drowse(&["ls"]).assert().code(3);
    assert_eq!(text(&plain.get_output().stderr), "error: gone\n");
    let colored = fake.drowse(&["ls", "--color", "always"]).assert().code(3);
    assert!(text(&colored.get_output().stderr).contains("\u{1b}["));
}

#[test]
fn help_exit_codes_and_completions_need_no_controller() {
    let fake = Fake::start();
    let run = |arguments: &[&str]| {
        let done = fake.std_command(arguments).output().expect("ran");
        assert!(done.status.success(), "{arguments:?}");
        text(&done.stdout)
    };
    assert!(run(&["help", "exit-codes"]).contains("10  the build failed (build-error)"));
    assert!(run(&["exit-codes"]).contains("130  ended by Ctrl-C"));
    assert!(run(&["--help"]).contains("DROWSE_SOCKET"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).contains("drowse"), "{shell}");
    }
    assert!(fake.lines().is_empty());
}
