//! Waits until an app is as it was asked to be: a pure judgement of what the controller reports,
//! and a loop that asks again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use drowse_api::client::Client;
use drowse_api::platform::AppView;
use drowse_api::{AppName, ErrorCode, InstanceId, Problem};

use crate::failure::Failure;
use crate::terminal::Terminal;

/// Longer than a boot check of 60 s, a drain of 30 s and a stop of 30 s together.
const PATIENCE: Duration = Duration::from_secs(150);
/// Between looks: short at first, since a rollback takes a part of a second.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const PAUSE: Duration = Duration::from_millis(250);

/// How long a change may take to show up in what the controller reports.
const GRACE: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// An instance is ready.
    Serving,
    /// Other instances than before are ready.
    Replaced,
    /// As [`Replaced`](Goal::Replaced), if the change led to a restart at all.
    ReplacedIfNeeded,
    /// Nothing runs.
    Stopped,
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Waiting,
    Done,
    Failed(Problem),
}

/// What was seen until now.
#[derive(Debug, Clone)]
pub struct Seen {
    before: BTreeSet<InstanceId>,
    /// What was wrong before and may be shown until the change is taken up.
    problem: Option<Problem>,
    was_pending: bool,
}

impl Seen {
    /// From the app as it was before the change.
    pub fn before(app: &AppView) -> Self {
        let before = app.instances.iter().map(|instance| instance.status.id.clone()).collect();
        Self { before, problem: app.problem.clone(), was_pending: false }
    }

    /// With what the controller answered to the change.
    pub fn answered(mut self, app: &AppView) -> Self {
        self.was_pending |= app.pending.is_some();
        self
    }
}

fn ready(app: &AppView) -> impl Iterator<Item = &InstanceId> {
    // What sleeps already has been ready.
    app.instances.iter().filter(|instance| instance.status.state.serves()).map(|instance| &instance.status.id)
}

fn judge(goal: Goal, seen: &Seen, app: &AppView, is_late: bool) -> Verdict {
    let is_new_problem = app.problem.is_some() && (seen.was_pending || app.problem != seen.problem);
    match goal {
        Goal::Stopped if app.pending.is_some() => Verdict::Waiting,
        Goal::Stopped if app.instances.iter().all(|instance| instance.status.state.is_over()) => Verdict::Done,
        Goal::Stopped => Verdict::Waiting,
        _ if app.pending.is_some() => Verdict::Waiting,
        Goal::Serving if ready(app).next().is_some() => Verdict::Done,
        Goal::Replaced | Goal::ReplacedIfNeeded if ready(app).any(|id| !seen.before.contains(id)) => Verdict::Done,
        _ if is_new_problem || seen.was_pending => Verdict::Failed(failed(app, &seen.before)),
        Goal::ReplacedIfNeeded if is_late => Verdict::Done,
        Goal::Serving | Goal::Replaced | Goal::ReplacedIfNeeded => Verdict::Waiting,
    }
}

/// Why nothing new serves.
fn failed(app: &AppView, before: &BTreeSet<InstanceId>) -> Problem {
    let mut problem = app.problem.clone().unwrap_or_else(|| {
        Problem::new(ErrorCode::TimeoutError, format!("the new instance of {} did not become ready", app.name))
    });
    if ready(app).any(|id| before.contains(id)) {
        problem.detail.push_str("; what ran before serves on");
    }
    if problem.hint.is_none() {
        problem.hint = Some(format!("drowse logs {0}, drowse events {0}", app.name));
    }
    problem
}

/// Asks until the goal is reached, and says meanwhile that it waits.
///
/// # Errors
/// When the change failed, takes too long, or the user does not want to wait.
pub async fn wait(
    client: &Client,
    terminal: &Terminal,
    name: &AppName,
    goal: Goal,
    mut seen: Seen,
    doing: &str,
) -> Result<AppView, Failure> {
    let begun = Instant::now();
    let spinner = terminal.spinner(format!("{doing} {name}"));
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let result = loop {
        let app: AppView = match client.get(&format!("/v1/apps/{name}")).await {
            Ok(app) => app,
            // The controller may be restarting: what it was told to do goes on.
            Err(problem) if problem.code == ErrorCode::Unavailable && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(problem) => break Err(problem.into()),
        };
        match judge(goal, &seen, &app, begun.elapsed() > GRACE) {
            Verdict::Done => break Ok(app),
            Verdict::Failed(problem) => break Err(problem.into()),
            Verdict::Waiting if begun.elapsed() > PATIENCE => {
                let detail = format!("{doing} {name} is not done after {} s", PATIENCE.as_secs());
                break Err(Problem::new(ErrorCode::Deadline, detail).hint(format!("drowse events -f {name}")).into());
            }
            Verdict::Waiting => {}
        }
        seen.was_pending |= app.pending.is_some();
        tokio::select! {
            () = tokio::time::sleep((begun.elapsed() / 4).clamp(FIRST_PAUSE, PAUSE)) => {}
            _ = &mut interrupt => break Err(Failure::Interrupted),
        }
    };
    spinner.finish_and_clear();
    if matches!(result, Err(Failure::Interrupted)) {
        terminal.note(&format!("It goes on without you: drowse events -f {name}"));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(instances: &[(&str, &str)], pending: bool) -> AppView {
        let at = "2026-11-21T22:30:00Z";
        let deployment = serde_json::json!({
            "id": "d1", "app": "shop", "app_type": "python", "url": "http://x", "state": "DEPLOYING",
            "since": at, "created": at, "image": null,
        });
        let instances: Vec<_> = instances
            .iter()
            .map(|(id, state)| {
                let state = match *state {
                    "ready" => serde_json::json!({ "state": "ready", "since": at }),
                    "stopped" => serde_json::json!({ "state": "stopped", "reason": "told to" }),
                    _ => serde_json::json!({ "state": "preparing" }),
                };
                serde_json::json!({
                    "node": "node-1", "url": "http://x", "id": id, "epoch": 1, "app": "shop", "deployment": "d1",
                    "user": "u1", "address": null, "state": state, "process": null, "restarts": 0,
                })
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "name": "shop", "url": "http://x", "created": at, "wanted": "running", "live": null,
            "pending": if pending { deployment } else { serde_json::Value::Null }, "instances": instances,
        }))
        .expect("an app")
    }

    fn seen(was_pending: bool) -> Seen {
        Seen { was_pending, ..Seen::before(&app(&[("old", "ready")], false)) }
    }

    #[test]
    fn a_restart_is_done_when_another_instance_serves_and_failed_when_the_old_one_still_does() {
        let judge = |seen: &Seen, app: &AppView| judge(Goal::Replaced, seen, app, true);
        assert_eq!(judge(&seen(false), &app(&[("old", "ready")], false)), Verdict::Waiting);
        assert_eq!(judge(&seen(false), &app(&[("old", "ready"), ("new", "preparing")], true)), Verdict::Waiting);
        assert_eq!(judge(&seen(true), &app(&[("new", "ready")], false)), Verdict::Done);
        assert!(matches!(judge(&seen(true), &app(&[("old", "ready")], false)), Verdict::Failed(_)));
    }

    #[test]
    fn a_change_of_the_environment_that_needs_no_restart_is_not_waited_for() {
        let app = app(&[("old", "ready")], false);
        assert_eq!(judge(Goal::ReplacedIfNeeded, &seen(false), &app, false), Verdict::Waiting);
        assert_eq!(judge(Goal::ReplacedIfNeeded, &seen(false), &app, true), Verdict::Done);
    }

    #[test]
    fn a_start_that_fails_says_why() {
        let stopped = Seen::before(&app(&[], false));
        assert_eq!(judge(Goal::Serving, &stopped, &app(&[], false), true), Verdict::Waiting);
        assert_eq!(judge(Goal::Serving, &stopped, &app(&[("a", "ready")], false), false), Verdict::Done);
        let mut failed = app(&[("a", "stopped")], false);
        failed.problem = Some(Problem::new(ErrorCode::CrashLoop, "it exited with 3"));
        let Verdict::Failed(problem) = judge(Goal::Serving, &stopped, &failed, true) else { panic!("not failed") };
        assert_eq!((problem.code, problem.detail.as_str()), (ErrorCode::CrashLoop, "it exited with 3"));
        // The same problem as before tells nothing of this start, as long as that is not seen.
        assert_eq!(judge(Goal::Serving, &Seen::before(&failed), &failed, true), Verdict::Waiting);
    }

    #[test]
    fn a_stop_is_done_when_nothing_runs() {
        let judge = |app: &AppView| judge(Goal::Stopped, &seen(false), app, false);
        assert_eq!(judge(&app(&[("old", "ready")], false)), Verdict::Waiting);
        assert_eq!(judge(&app(&[("old", "stopped")], false)), Verdict::Done);
        assert_eq!(judge(&app(&[], false)), Verdict::Done);
    }
}
