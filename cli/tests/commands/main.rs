//! The program as its users meet it, against a controller that answers from a script.

mod deploy;
mod fake;
mod manage;
mod reach;
mod sleep;

use serde_json::{Value, json};

pub(crate) const AT: &str = "2026-11-21T22:30:00Z";

/// A deployment of `shop` in this state.
pub(crate) fn deployment(state: &str) -> Value {
    json!({
        "id": "d1", "app": "shop", "app_type": "python", "url": "http://shop--d-d1.drowse.localhost:8080/",
        "state": state, "reason": "", "since": AT, "created": AT, "image": null,
    })
}

/// The app `shop` with these ready instances, and one on its way or not.
pub(crate) fn app(instances: &[&str], is_pending: bool) -> Value {
    let instance = |id: &&str| {
        json!({
            "node": "node-1", "url": format!("http://shop--i-{id}.drowse.localhost:8080/"), "id": id, "epoch": 1,
            "app": "shop", "deployment": "d1", "user": "u1", "address": null,
            "state": { "state": "ready", "since": AT }, "process": null, "restarts": 0,
        })
    };
    let mut next = deployment("BUILDING");
    next["id"] = json!("d2");
    json!({
        "name": "shop", "url": "http://shop.drowse.localhost:8080/", "created": AT, "wanted": "running",
        "live": deployment("READY"),
        "pending": if is_pending { next } else { Value::Null },
        "instances": instances.iter().map(instance).collect::<Vec<_>>(),
    })
}

pub(crate) fn log_line(second: u32, text: &str) -> Value {
    json!({ "at": format!("2026-11-21T22:30:{second:02}Z"), "stream": "out", "text": text })
}

/// What a command printed, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}
