//! `drowse events`: what happened, and why.

use std::time::Duration;

use drowse_api::ErrorCode;
use drowse_api::client::Client;
use drowse_api::event::{Event, EventKind};

use crate::args::Events;
use crate::failure::Failure;
use crate::show;
use crate::terminal::{Format, Terminal, clean};

/// Between tries to open the stream again.
const PAUSE: Duration = Duration::from_secs(1);

/// Prints the events, and goes on with them if asked to. A stream that breaks off is taken up again
/// after the last event that was shown.
pub async fn run(args: Events, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let of_app = args.app.as_ref().map(|app| format!("&app={app}")).unwrap_or_default();
    let mut shown: Option<u64> = None;
    let (mut was_open, mut from_all) = (false, false);
    loop {
        let from = match shown {
            Some(revision) => format!("&after={revision}"),
            // All that are kept, after some were missed.
            None if from_all => String::new(),
            None => format!("&tail={}", args.tail),
        };
        let broken = match client.lines::<Event>(&format!("/v1/events?follow={}{of_app}{from}", args.follow)).await {
            Ok(mut events) => loop {
                was_open = true;
                match events.next().await {
                    Ok(Some(event)) => {
                        shown = Some(event.revision);
                        print(&event, terminal)?;
                    }
                    Ok(None) => break None,
                    Err(problem) => break Some(problem),
                }
            },
            Err(problem) => Some(problem),
        };
        match broken {
            Some(problem) if shown.is_some() && problem.code == ErrorCode::Compacted => {
                terminal.note(&format!("note: {}", problem.detail));
                (shown, from_all) = (None, true);
                continue;
            }
            Some(problem) if args.follow && was_open && problem.code == ErrorCode::Unavailable => {
                terminal.detail(&format!("{}; trying again", problem.detail));
            }
            Some(problem) => return Err(problem.into()),
            None if args.follow => {}
            None => return Ok(()),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn print(event: &Event, terminal: &Terminal) -> Result<(), Failure> {
    if terminal.format() == Format::Json {
        return terminal.json_line(event);
    }
    let app = event.app.as_ref().map_or("-", |app| app.as_str());
    let (time, kind) = (show::date(event.at), kind(event.kind));
    let (time, app) = (console::style(time).dim(), console::style(app).bold());
    terminal.line(&format!("{time}  {app}  {kind}  {}", clean(&event.message)))
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::App => "app",
        EventKind::Deployment => "deployment",
        EventKind::Traffic => "traffic",
        EventKind::Instance => "instance",
        EventKind::Restart => "restart",
        EventKind::Sleep => "sleep",
        EventKind::Node => "node",
    }
}
