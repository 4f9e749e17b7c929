//! The words, times and addresses that several commands show alike.

use std::time::Duration;

use drowse_api::deployment::DeploymentState;
use drowse_api::instance::{InstanceState, LogLine, LogStream};
use drowse_api::platform::{AppView, Wanted};
use http::Uri;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::terminal::{Terminal, clean};

/// The state of an app in a word, as a list shows it.
pub fn app_state(app: &AppView) -> String {
    let state = match (&app.live, &app.pending) {
        _ if app.wanted == Wanted::Stopped => "STOPPED",
        (Some(live), _) => live.state.state.as_str(),
        (None, Some(pending)) => pending.state.state.as_str(),
        (None, None) => "NOT_DEPLOYED",
    };
    match (&app.live, &app.pending) {
        (Some(live), Some(pending)) if live.id == pending.id => format!("{state} (restarting)"),
        (Some(_), Some(pending)) => format!("{state} (next: {})", pending.state.state),
        (Some(_), None) if is_down(app) => format!("{state} (crashed, tried again)"),
        (Some(live), None) if live.state.state == DeploymentState::Frozen => {
            let depth = live.state.reason.split(':').next().unwrap_or_default();
            format!("{state} ({depth})")
        }
        _ => state.to_owned(),
    }
}

/// Whether nothing serves although its deployment is ready, because it exits again and again.
fn is_down(app: &AppView) -> bool {
    let is = |wanted: fn(&InstanceState) -> bool| app.instances.iter().any(|instance| wanted(&instance.status.state));
    app.wanted != Wanted::Stopped
        && is(|state| matches!(state, InstanceState::Backoff { .. }))
        && !is(InstanceState::is_ready)
}

/// A state in its colour.
pub fn colored(state: &str) -> String {
    let style = match state.split(' ').next().unwrap_or_default() {
        _ if state.contains("(crashed") => console::Style::new().red(),
        "READY" | "ready" => console::Style::new().green(),
        "BUILD_ERROR" | "DEPLOYMENT_ERROR" | "failed" => console::Style::new().red(),
        "STOPPED" | "NOT_DEPLOYED" | "FROZEN" | "stopped" => console::Style::new().dim(),
        _ => console::Style::new().yellow(),
    };
    style.apply_to(state).to_string()
}

/// The same for standard error.
pub fn colored_for_stderr(state: DeploymentState) -> String {
    let style = match state {
        DeploymentState::Ready => console::Style::new().green(),
        DeploymentState::BuildError | DeploymentState::DeploymentError => console::Style::new().red(),
        _ => console::Style::new().yellow(),
    };
    style.for_stderr().apply_to(state.as_str()).to_string()
}

/// What an instance is doing, in a few words.
pub fn instance_state(state: &InstanceState, terminal: &Terminal) -> String {
    match state {
        InstanceState::Preparing => "preparing".to_owned(),
        InstanceState::Booting { attempt: 0, .. } => "booting".to_owned(),
        InstanceState::Booting { attempt, .. } => format!("booting (try {attempt} of 20)"),
        InstanceState::Ready { since } => format!("ready since {}", moment(*since, terminal)),
        InstanceState::FallingAsleep { depth, .. } => format!("ready, falling asleep ({depth})"),
        InstanceState::Frozen { depth, since, .. } => format!("asleep ({depth}) since {}", moment(*since, terminal)),
        InstanceState::Waking { depth, since, .. } => {
            format!("waking up ({depth}) since {}", moment(*since, terminal))
        }
        InstanceState::Backoff { attempt, retry_at, .. } => format!("try {attempt} of 20 at {}", clock(*retry_at)),
        InstanceState::Stopping { deadline } => format!("stopping, until {} at most", clock(*deadline)),
        InstanceState::Stopped { .. } => "stopped".to_owned(),
        InstanceState::Failed { .. } => "failed".to_owned(),
    }
}

/// Why an instance is not ready, where there is a reason.
pub fn instance_reason(state: &InstanceState) -> Option<&str> {
    match state {
        InstanceState::Backoff { cause, .. } => Some(&cause.detail),
        InstanceState::Stopped { reason } | InstanceState::Frozen { reason, .. } => Some(reason),
        InstanceState::Failed { failure } => Some(&failure.detail),
        InstanceState::Preparing
        | InstanceState::Booting { .. }
        | InstanceState::Ready { .. }
        | InstanceState::FallingAsleep { .. }
        | InstanceState::Waking { .. }
        | InstanceState::Stopping { .. } => None,
    }
}

/// A time: how long ago for a person at a terminal, else exactly.
pub fn moment(at: Timestamp, terminal: &Terminal) -> String {
    if terminal.shows_tables() { ago(at, Timestamp::now()) } else { exactly(at) }
}

/// A time to the second, in UTC (RFC 3339).
pub fn exactly(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn ago(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - at.as_second();
    match seconds {
        ..=-60 => exactly(at),
        -59..=1 => "just now".to_owned(),
        2..60 => format!("{seconds} s ago"),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// The time of day here.
pub fn clock(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%H:%M:%S").to_string()
}

/// Date and time of day here.
pub fn date(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long something took.
pub fn span(took: Duration) -> String {
    let seconds = took.as_secs();
    if seconds < 60 {
        format!("{:.1} s", took.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

/// `1 file`, `2 files`.
pub fn count(n: usize, thing: &str) -> String {
    let ending = if n == 1 { "" } else { "s" };
    format!("{n} {thing}{ending}")
}

/// A line of a log for a person: the time of day, and a mark where it is not standard output.
pub fn log_line(line: &LogLine) -> String {
    let (time, text) = (console::style(clock(line.at)).dim(), clean(&line.text));
    match line.stream {
        LogStream::Out => format!("{time}  {text}"),
        LogStream::Err => format!("{time}{} {text}", console::style("!").yellow()),
        LogStream::Platform => format!("{time}{} {}", console::style("*").cyan(), console::style(text).cyan()),
    }
}

/// How curl reaches `url` where the name does not resolve: through this machine's loopback.
pub fn curl(url: &str) -> String {
    let parts = url.parse::<Uri>().ok().and_then(|uri| Some((uri.host()?.to_owned(), uri.port_u16())));
    match parts {
        Some((host, None | Some(80))) => format!("curl -H 'Host: {host}' http://127.0.0.1/"),
        Some((host, Some(port))) => format!("curl -H 'Host: {host}' http://127.0.0.1:{port}/"),
        None => format!("curl '{url}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_well() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let now = at(1_000_000);
        assert_eq!(ago(at(1_000_000), now), "just now");
        assert_eq!(ago(at(999_970), now), "30 s ago");
        assert_eq!(ago(at(990_000), now), "2 h ago");
        assert_eq!(ago(at(100_000), now), "10 d ago");
        assert_eq!(span(Duration::from_millis(1234)), "1.2 s");
        assert_eq!(span(Duration::from_secs(125)), "2 min 5 s");
    }

    #[test]
    fn curl_reaches_an_app_whose_name_does_not_resolve() {
        let shown = curl("http://shop.drowse.localhost:8080/");
        assert_eq!(shown, "curl -H 'Host: shop.drowse.localhost' http://127.0.0.1:8080/");
        assert_eq!(curl("http://shop.example.org"), "curl -H 'Host: shop.example.org' http://127.0.0.1/");
    }
}
