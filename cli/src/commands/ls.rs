//! `drowse ls`: your apps.

use drowse_api::client::Client;
use drowse_api::deployment::DeploymentState;
use drowse_api::platform::AppView;

use crate::failure::Failure;
use crate::show;
use crate::terminal::{Format, Terminal};

/// Lists the apps.
pub async fn run(client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let apps: Vec<AppView> = client.get("/v1/apps").await?;
    if terminal.format() == Format::Json {
        return terminal.json(&apps);
    }
    if apps.is_empty() {
        terminal.note("No apps yet. Deploy a folder: drowse deploy DIR");
        return Ok(());
    }
    let rows: Vec<_> = apps.iter().map(|app| row(app, terminal)).collect();
    terminal.table(&["APP", "STATE", "TYPE", "DEPLOYED", "ADDRESS"], &rows)
}

fn row(app: &AppView, terminal: &Terminal) -> Vec<String> {
    let newest = app.live.as_ref().or(app.pending.as_ref());
    let asleep = app.live.as_ref().filter(|live| live.state.state == DeploymentState::Frozen);
    let since = asleep.map(|live| format!(" since {}", show::moment(live.state.since, terminal)));
    vec![
        app.name.to_string(),
        show::colored(&(show::app_state(app) + &since.unwrap_or_default())),
        newest.map_or("-", |deployment| deployment.app_type.as_str()).to_owned(),
        newest.map_or_else(|| "-".to_owned(), |deployment| show::moment(deployment.created, terminal)),
        app.url.clone(),
    ]
}
