//! `drowse logs`: what an app wrote.

use std::collections::HashMap;
use std::time::Duration;

use drowse_api::client::Client;
use drowse_api::instance::LogLine;
use drowse_api::platform::{AppLogLine, DeploymentUpdate, DeploymentView};
use drowse_api::{AppName, ErrorCode, InstanceId};
use serde::Serialize;

use crate::app_name;
use crate::args::Logs;
use crate::failure::Failure;
use crate::replay::Replay;
use crate::show;
use crate::terminal::{Format, Terminal};

/// Between tries to open the stream again.
const PAUSE: Duration = Duration::from_secs(1);

/// How many lines are asked for again when a followed stream broke off.
const OVERLAP: u32 = 1000;

/// Prints the log, and goes on with it if asked to.
pub async fn run(args: Logs, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    if args.build {
        return build(&name, client, terminal).await;
    }
    // Each instance has a log of its own, which come mixed.
    let mut replays: HashMap<InstanceId, Replay> = HashMap::new();
    let (mut tail, mut was_open, mut is_empty) = (args.tail, false, true);
    loop {
        let path = format!("/v1/apps/{name}/logs?follow={}&tail={tail}", args.follow);
        let broken = match client.lines::<AppLogLine>(&path).await {
            Ok(mut lines) => loop {
                was_open = true;
                match lines.next().await {
                    Ok(Some(line)) => {
                        if replays.entry(line.instance.clone()).or_default().is_new(line.line.at) {
                            print(&line, &line.line, terminal)?;
                            is_empty = false;
                        }
                    }
                    Ok(None) => break None,
                    Err(problem) => break Some(problem),
                }
            },
            Err(problem) => Some(problem),
        };
        match broken {
            // The controller or the node is being restarted: the app and its log go on.
            Some(problem) if args.follow && was_open && problem.code == ErrorCode::Unavailable => {
                terminal.detail(&format!("{}; trying again", problem.detail));
            }
            Some(problem) => return Err(problem.into()),
            None if args.follow => {}
            None => {
                if is_empty && tail > 0 {
                    terminal.note(&format!(
                        "no instance of {name} wrote anything, or it is gone: \
                         drowse info {name} tells its state, drowse logs --build {name} what the build wrote"
                    ));
                }
                return Ok(());
            }
        }
        tokio::time::sleep(PAUSE).await;
        replays.values_mut().for_each(Replay::reopened);
        tail = tail.max(OVERLAP);
    }
}

/// Prints what the newest deployment's build wrote, until it has ended.
async fn build(name: &AppName, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let deployments: Vec<DeploymentView> = client.get(&format!("/v1/apps/{name}/deployments")).await?;
    let Some(newest) = deployments.first() else { return Ok(()) };
    let path = format!("/v1/deployments/{}/watch", newest.id);
    let mut updates = client.lines::<DeploymentUpdate>(&path).await?;
    while let Some(update) = updates.next().await? {
        if let DeploymentUpdate::Log { line } = update {
            print(&line, &line, terminal)?;
        }
    }
    Ok(())
}

fn print(whole: &impl Serialize, line: &LogLine, terminal: &Terminal) -> Result<(), Failure> {
    match terminal.format() {
        Format::Json => terminal.json_line(whole),
        Format::Human => terminal.line(&show::log_line(line)),
    }
}
