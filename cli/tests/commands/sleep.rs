//! The commands about sleep.

use serde_json::{Value, json};

use crate::fake::{Fake, Reply};
use crate::{AT, app, deployment, text};

/// The app `shop`, asleep.
fn asleep() -> Value {
    let mut shop = app(&["i1"], false);
    let mut live = deployment("FROZEN");
    live["reason"] = json!("paused: idle for 15 s");
    shop["live"] = live;
    shop["instances"][0]["state"] =
        json!({ "state": "frozen", "depth": "paused", "since": AT, "reason": "idle for 15 s" });
    shop
}

fn stdout(fake: &Fake, arguments: &[&str]) -> String {
    text(&fake.drowse(arguments).assert().success().get_output().stdout)
}

#[test]
fn a_sleeping_app_is_shown_with_its_depth_since_when_and_why() {
    let fake = Fake::start();
    fake.on("GET /v1/apps", Reply::Json(json!([asleep()])));
    fake.on("GET /v1/apps/shop", Reply::Json(asleep()));
    fake.on("GET /v1/apps/shop/deployments", Reply::Json(json!([])));
    assert!(stdout(&fake, &["ls"]).contains("\tFROZEN (paused) since 2026-11-21T22:30:00Z\t"));
    let info = stdout(&fake, &["info", "shop"]);
    for expected in [
        "state:     FROZEN (paused)\n",
        "because:   paused: idle for 15 s\n",
        "i1\tasleep (paused) since 2026-11-21T22:30:00Z\t",
    ] {
        assert!(info.contains(expected), "{expected:?} is not in\n{info}");
    }
}

#[test]
fn info_says_why_an_app_cannot_be_put_to_disk() {
    let fake = Fake::start();
    let mut shop = asleep();
    shop["instances"][0]["no_snapshot"] = json!("the dump failed: a socket of a kind that cannot be written");
    fake.on("GET /v1/apps/shop", Reply::Json(shop));
    fake.on("GET /v1/apps/shop/deployments", Reply::Json(json!([])));
    let info = stdout(&fake, &["info", "shop"]);
    assert!(info.contains("i1: cannot be put to disk: the dump failed: a socket of a kind"), "{info}");
}

#[test]
fn sleep_and_wake_ask_the_controller_and_say_what_came_of_it() {
    let fake = Fake::start();
    fake.on("POST /v1/apps/shop/sleep", Reply::Json(asleep()));
    fake.on("POST /v1/apps/shop/wake", Reply::Json(app(&["i1"], false)));
    assert_eq!(stdout(&fake, &["sleep", "shop", "--depth", "cold"]), "shop sleeps (cold) until somebody asks for it\n");
    assert_eq!(fake.call("POST /v1/apps/shop/sleep").body, br#"{"depth":"cold"}"#);
    assert_eq!(stdout(&fake, &["wake", "shop"]), "shop is awake\n");
}

#[test]
fn an_app_that_stays_awake_is_said_to() {
    let fake = Fake::start();
    let problem = json!({ "code": "conflict", "detail": "instance i1 stays awake", "hint": "drowse explain" });
    fake.on("POST /v1/apps/shop/sleep", Reply::Problem(409, problem));
    let done = fake.drowse(&["sleep", "shop"]).assert().code(5);
    assert!(text(&done.get_output().stderr).contains("stays awake"));
}

#[test]
fn pinning_and_idle_times_change_only_what_was_named() {
    let fake = Fake::start();
    let known = json!({ "pinned": false, "cold_after": { "seconds": 600 } });
    fake.on("GET /v1/apps/shop/idle", Reply::Json(known.clone()));
    fake.on("PUT /v1/apps/shop/idle", Reply::Json(known));
    fake.on(
        "GET /v1/apps/shop/explain",
        Reply::Json(json!({ "now": [], "policy": "cold when idle for 600 s", "recent": [] })),
    );
    assert_eq!(stdout(&fake, &["pin", "shop"]), "shop never sleeps\n");
    let body: Value = serde_json::from_slice(&fake.call("PUT /v1/apps/shop/idle").body).expect("JSON");
    assert_eq!(body, json!({ "pinned": true, "cold_after": { "seconds": 600 } }));
    let shown = stdout(&fake, &["idle", "shop", "--paused-after", "15s", "--wake", "auto", "--monitors", "hold"]);
    assert!(shown.contains("shop: cold when idle for 600 s\n") && shown.contains("cold after:   600 s\n"), "{shown}");
    let calls = fake.calls();
    let last = calls.iter().rev().find(|call| call.line.starts_with("PUT")).expect("one");
    let body: Value = serde_json::from_slice(&last.body).expect("JSON");
    assert_eq!(body["paused_after"], json!({ "seconds": 15 }));
    assert_eq!((&body["cold_after"], &body["wake"]), (&json!({ "seconds": 600 }), &json!("auto")));
    assert_eq!((&body["monitors"], &body["crawlers"]), (&json!("hold"), &Value::Null));
}

#[test]
fn explain_tells_why_and_what_came_before() {
    let fake = Fake::start();
    let event =
        json!({ "revision": 1, "at": AT, "kind": "sleep", "app": "shop", "message": "woken by GET /feed, reader" });
    let explanation = json!({ "now": ["i1 awake: 1 request or stream is in flight"], "policy": "paused when idle for 15 s", "recent": [event] });
    fake.on("GET /v1/apps/shop/explain", Reply::Json(explanation));
    let shown = stdout(&fake, &["explain", "shop"]);
    assert_eq!(
        shown,
        "i1 awake: 1 request or stream is in flight\nwhen: paused when idle for 15 s\n2026-11-21 22:30:00  woken by GET \
         /feed, reader\n"
    );
}

#[test]
fn a_dry_run_tells_of_each_app_how_it_would_have_slept() {
    let fake = Fake::start();
    let rehearsal = json!({ "after": 600, "watched": 7200, "slept": 3600, "times": 3,
        "woken_by": { "a request or stream": 2, "work of its own": 1 } });
    let explanation = json!({ "now": [], "policy": "never", "recent": [], "rehearsal": rehearsal });
    fake.on("GET /v1/apps", Reply::Json(json!([app(&["i1"], false)])));
    fake.on("GET /v1/apps/shop/explain", Reply::Json(explanation));
    let shown = stdout(&fake, &["explain", "--dry-run=10m", "--all"]);
    assert_eq!(
        shown,
        "shop: idle for 600 s, it would have slept 3600 s of 7200 s (50 %), 3 times; woken by a request or stream \
         (2), work of its own (1)\n"
    );
    assert!(stdout(&fake, &["explain", "shop", "--dry-run=10m"]).contains("dry run: idle for 600 s, it would have"));
    assert!(fake.calls().iter().any(|call| call.line.ends_with("/explain?dry_run=600")));
}
