//! `drowse deploy`, from the folder to the address or the problem.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake::{Fake, Reply};
use crate::{app, deployment, log_line, text};

const UPLOAD: &str = "POST /v1/apps/shop/deployments";
const WATCH: &str = "GET /v1/deployments/d1/watch";

/// A folder `shop` with a small Python app.
fn folder(fake: &Fake) -> PathBuf {
    let folder = fake.home().join("shop");
    fs::create_dir(&folder).expect("made");
    fs::write(folder.join("requirements.txt"), "flask\n").expect("written");
    fs::write(folder.join("app.py"), "print('hello')\n").expect("written");
    folder
}

fn state(state: &str) -> Value {
    json!({ "update": "state", "deployment": deployment(state) })
}

fn log(second: u32, text: &str) -> Value {
    json!({ "update": "log", "line": log_line(second, text) })
}

fn accepting() -> Fake {
    let fake = Fake::start();
    fake.on(UPLOAD, Reply::Json(deployment("DEPLOYING")));
    fake.on("GET /v1/apps/shop", Reply::Json(app(&["i1"], false)));
    fake
}

#[test]
fn the_address_alone_is_printed_and_what_happened_goes_to_standard_error() {
    let fake = accepting();
    fake.on(
        WATCH,
        Reply::Lines(vec![
            state("DEPLOYING"),
            state("BUILDING"),
            log(1, "collecting \u{1b}[31mflask\u{1b}[0m"),
            state("READY"),
        ]),
    );
    let done = fake.drowse(&["deploy"]).arg(folder(&fake)).assert().success();
    assert_eq!(text(&done.get_output().stdout), "http://shop.drowse.localhost:8080/\n");
    let told = text(&done.get_output().stderr);
    let lines: Vec<_> = told.lines().collect();
    assert!(lines[0].starts_with("shop: python app from ") && lines[0].ends_with("2 files, 21 B"), "{told}");
    assert!(lines[1].starts_with("uploaded in "), "{told}");
    assert_eq!(lines[2..6], ["DEPLOYING", "BUILDING", "  | collecting flask", "READY"]);
    assert!(lines[6].starts_with("shop serves, "), "{told}");

    let upload = fake.call(UPLOAD);
    assert_eq!(upload.line, "POST /v1/apps/shop/deployments?type=python");
    let mut tar = tar::Archive::new(zstd::Decoder::new(upload.body.as_slice()).expect("zstd"));
    let mut held = Vec::new();
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("text");
        held.push((entry.path().expect("a path").display().to_string(), content));
    }
    let held: Vec<_> = held.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    assert_eq!(held, [("app.py", "print('hello')\n"), ("requirements.txt", "flask\n")]);
}

#[test]
fn a_failed_build_ends_with_its_code_the_last_lines_and_what_to_do() {
    let fake = accepting();
    let mut failed = state("BUILD_ERROR");
    failed["deployment"]["problem"] = json!({
        "code": "build-error", "detail": "pip could not install flaskk", "hint": "see requirements.txt",
        "log": ["ERROR: No matching distribution found for flaskk"],
    });
    fake.on(WATCH, Reply::Lines(vec![state("BUILDING"), failed]));
    let done = fake.drowse(&["deploy"]).arg(folder(&fake)).assert().code(10);
    assert_eq!(text(&done.get_output().stdout), "");
    let told = text(&done.get_output().stderr);
    let end = "error: pip could not install flaskk\n  | ERROR: No matching distribution found for flaskk\n\
               try: see requirements.txt\n";
    assert!(told.ends_with(end), "{told}");
}

#[test]
fn an_app_that_does_not_listen_ends_with_a_code_of_its_own_even_if_no_more_is_said() {
    let fake = accepting();
    let mut failed = state("DEPLOYMENT_ERROR");
    failed["deployment"]["reason"] = json!("timeout-error");
    fake.on(WATCH, Reply::Lines(vec![failed]));
    let done = fake.drowse(&["deploy"]).arg(folder(&fake)).assert().code(11);
    assert!(text(&done.get_output().stderr).contains("the deploy of shop ended in DEPLOYMENT_ERROR: timeout-error"));
}

#[test]
fn a_restart_of_the_controller_is_not_the_end_and_no_line_is_shown_twice() {
    let fake = accepting();
    let begun = vec![state("BUILDING"), log(1, "one"), log(1, "two")];
    fake.on(WATCH, Reply::Broken(begun.clone()));
    let again = [begun, vec![log(1, "three"), log(2, "four"), state("READY")]].concat();
    fake.on(WATCH, Reply::Lines(again));
    let done = fake.drowse(&["deploy"]).arg(folder(&fake)).assert().success();
    let told = text(&done.get_output().stderr);
    let shown: Vec<_> = told.lines().filter_map(|line| line.strip_prefix("  | ")).collect();
    assert_eq!(shown, ["one", "two", "three", "four"]);
    assert_eq!(told.matches("BUILDING").count(), 1, "{told}");
}

#[test]
fn with_json_every_update_is_one_line() {
    let fake = accepting();
    fake.on(WATCH, Reply::Lines(vec![state("DEPLOYING"), log(1, "one"), state("READY")]));
    let done = fake.drowse(&["deploy", "--output", "json"]).arg(folder(&fake)).assert().success();
    let lines: Vec<Value> =
        text(&done.get_output().stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let updates: Vec<_> = lines.iter().map(|line| line["update"].as_str().unwrap_or_default()).collect();
    assert_eq!(updates, ["state", "log", "state"]);
    assert_eq!(lines[2]["deployment"]["state"], "READY");
    assert_eq!(text(&done.get_output().stderr), "");
}

#[test]
fn detached_it_ends_once_the_upload_is_accepted() {
    let fake = accepting();
    let done = fake.drowse(&["deploy", "--detach", "--name", "shop"]).arg(folder(&fake)).assert().success();
    assert_eq!(text(&done.get_output().stdout), "http://shop--d-d1.drowse.localhost:8080/\n");
    assert_eq!(fake.lines().len(), 1);
}

#[test]
fn ctrl_c_leaves_the_deploy_alone_and_says_how_to_follow_it() {
    let fake = accepting();
    fake.on(WATCH, Reply::Open(vec![state("BUILDING")]));
    let mut command = fake.std_command(&["deploy"]);
    command.arg(folder(&fake)).env("DROWSE_SOCKET", fake.socket());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut told = BufReader::new(child.stderr.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("BUILDING") {
        line.clear();
        assert_ne!(told.read_line(&mut line).expect("read"), 0, "it ended before the build");
    }
    kill_process(Pid::from_child(&child), Signal::INT).expect("told");
    let mut rest = String::new();
    told.read_to_string(&mut rest).expect("read");
    assert_eq!(child.wait().expect("ended").code(), Some(130));
    assert_eq!(rest, "The deploy goes on without you: drowse events -f shop, drowse info shop\n");
}

#[test]
fn an_upload_that_is_refused_early_shows_the_controllers_reason() {
    let fake = Fake::start();
    let full = json!({ "code": "disk-full", "detail": "the disk of node-1 is full", "hint": "drowse rm an app" });
    fake.on(UPLOAD, Reply::Early(507, full));
    let folder = folder(&fake);
    // Does not compress, and is more than the socket takes in.
    let mut random = vec![0_u8; 8 << 20];
    fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).expect("random");
    fs::write(folder.join("data.bin"), random).expect("written");
    let done = fake.drowse(&["deploy"]).arg(folder).assert().code(6);
    let told = text(&done.get_output().stderr);
    assert!(told.ends_with("error: the disk of node-1 is full\ntry: drowse rm an app\n"), "{told}");
}

#[test]
fn a_folder_that_cannot_be_deployed_asks_the_controller_nothing() {
    let fake = accepting();
    let empty = fake.home().join("empty");
    fs::create_dir(&empty).expect("made");
    let done = fake.drowse(&["deploy"]).arg(&empty).assert().code(2);
    let told = text(&done.get_output().stderr);
    assert!(told.contains("looked for ") && told.contains("package.json"), "{told}");
    let named = fake.home().join("api");
    fs::create_dir(&named).expect("made");
    fs::write(named.join("index.html"), "x").expect("written");
    let done = fake.drowse(&["deploy"]).arg(&named).assert().code(2);
    let told = text(&done.get_output().stderr);
    assert!(told.ends_with("/api --name my-api\n"), "{told}");
    assert!(fake.lines().is_empty());
}

#[test]
fn what_is_left_out_is_listed_when_asked_for() {
    let fake = accepting();
    fake.on(WATCH, Reply::Lines(vec![state("READY")]));
    let folder = folder(&fake);
    fs::create_dir(folder.join("__pycache__")).expect("made");
    fs::write(folder.join(".gitignore"), "*.log\n").expect("written");
    fs::write(folder.join("a.log"), "x").expect("written");
    let done = fake.drowse(&["deploy", "-v"]).arg(&folder).assert().success();
    let told = text(&done.get_output().stderr);
    assert!(told.contains("left out: __pycache__ (never deployed)\n"), "{told}");
    assert!(told.contains("left out: a.log (named in an ignore file)\n"), "{told}");
}

#[test]
fn a_bundle_is_uploaded_as_one() {
    let fake = accepting();
    fake.on(WATCH, Reply::Lines(vec![state("READY")]));
    let bundle = fake.home().join("shop");
    fs::create_dir_all(bundle.join("rootfs/bin")).expect("made");
    fs::write(bundle.join("config.json"), r#"{"root": {"path": "rootfs"}}"#).expect("written");
    fake.drowse(&["deploy", "--bundle"]).arg(&bundle).assert().success();
    assert_eq!(fake.call(UPLOAD).line, "POST /v1/apps/shop/deployments?type=bundle");
}
