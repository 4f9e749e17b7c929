//! Follows a deploy by its updates until it has ended, over restarts of the controller.

use std::time::{Duration, Instant};

use drowse_api::client::Client;
use drowse_api::deployment::DeploymentState;
use drowse_api::platform::{AppView, DeploymentUpdate, DeploymentView};
use drowse_api::{AppName, DeploymentId, ErrorCode, Problem};

use super::code_of;
use super::view::View;
use crate::failure::Failure;
use crate::replay::Replay;
use crate::show;
use crate::terminal::{Format, Terminal};

/// Between tries to open the stream again.
const PAUSE: Duration = Duration::from_secs(1);

/// How long the controller may be away before we give up following. The deploy goes on.
const PATIENCE: Duration = Duration::from_secs(60);

/// Shows how the deploy goes, and at its end the address or the problem.
pub async fn until_it_ends(
    name: &AppName,
    accepted: DeploymentView,
    begun: Instant,
    client: &Client,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let id = accepted.id.clone();
    let mut view = View::new(terminal);
    view.state(&accepted)?;
    let ended = tokio::select! {
        ended = follow(&id, client, &mut view) => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
    };
    view.end();
    let deployment = match ended {
        Ok(deployment) => deployment,
        Err(Failure::Interrupted) => {
            terminal.note(&format!("The deploy goes on without you: drowse events -f {name}, drowse info {name}"));
            return Err(Failure::Interrupted);
        }
        Err(failure) => return Err(failure),
    };
    if matches!(deployment.state.state, DeploymentState::BuildError | DeploymentState::DeploymentError) {
        let mut problem = problem_of(deployment);
        if problem.code == ErrorCode::BuildError && view.showed_log() {
            problem.log.clear();
        }
        if problem.hint.is_none() {
            problem.hint = Some(hint(name, problem.code, client).await);
        }
        return Err(problem.into());
    }
    if terminal.format() == Format::Json {
        return Ok(());
    }
    terminal.note(&format!("{name} serves, {} after the start of the deploy", show::span(begun.elapsed())));
    // The app's own address; the deployment's is the next best.
    let url = client.get::<AppView>(&format!("/v1/apps/{name}")).await.map_or(deployment.url, |app| app.url);
    terminal.line(&url)
}

async fn follow(id: &DeploymentId, client: &Client, view: &mut View<'_>) -> Result<DeploymentView, Failure> {
    let mut replay = Replay::default();
    let mut last_heard = Instant::now();
    loop {
        let broken = match client.lines::<DeploymentUpdate>(&format!("/v1/deployments/{id}/watch")).await {
            Err(problem) => Some(problem),
            Ok(mut updates) => loop {
                match updates.next().await {
                    Ok(Some(DeploymentUpdate::State { deployment })) => {
                        last_heard = Instant::now();
                        view.state(&deployment)?;
                        if has_ended(deployment.state.state) {
                            return Ok(deployment);
                        }
                    }
                    Ok(Some(DeploymentUpdate::Log { line })) => {
                        last_heard = Instant::now();
                        if replay.is_new(line.at) {
                            view.log(&line)?;
                        }
                    }
                    Ok(None) => break None,
                    Err(problem) => break Some(problem),
                }
            },
        };
        match broken {
            Some(problem) if problem.code != ErrorCode::Unavailable || last_heard.elapsed() > PATIENCE => {
                return Err(problem.into());
            }
            // A controller that stopped in an orderly way ends its streams.
            _ => {}
        }
        tokio::time::sleep(PAUSE).await;
        replay.reopened();
    }
}

/// An app may be asleep again before we hear that it was ready.
fn has_ended(state: DeploymentState) -> bool {
    state.ends_a_deploy() || state == DeploymentState::Frozen
}

/// Why the deploy failed, said so that it stands alone.
fn problem_of(deployment: DeploymentView) -> Problem {
    let code = code_of(&deployment);
    deployment.problem.unwrap_or_else(|| {
        let reason = deployment.state.reason;
        let because = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        Problem::new(code, format!("the deploy of {} ended in {}{because}", deployment.app, deployment.state.state))
    })
}

/// What to look at, and what visitors see meanwhile.
async fn hint(name: &AppName, code: ErrorCode, client: &Client) -> String {
    let look = if code == ErrorCode::BuildError { "logs --build" } else { "info" };
    match client.get::<AppView>(&format!("/v1/apps/{name}")).await {
        Ok(AppView { live: Some(_), .. }) => format!("drowse {look} {name}; what was live before serves on"),
        _ => format!("drowse {look} {name}"),
    }
}
