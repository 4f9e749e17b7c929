//! `drowse info`: one app in full.

use drowse_api::client::Client;
use drowse_api::instance::InstanceState;
use drowse_api::platform::{AppView, DeploymentView};

use crate::app_name;
use crate::args::App;
use crate::failure::Failure;
use crate::show;
use crate::terminal::{Format, Terminal, clean};

/// How many earlier deployments are shown.
const EARLIER: usize = 5;

/// Shows the app, its newest deployments and its instances.
pub async fn run(args: App, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let app: AppView = client.get(&format!("/v1/apps/{name}")).await?;
    if terminal.format() == Format::Json {
        return terminal.json(&app);
    }
    let field = |name: &str, value: &str| {
        let name = format!("{:<10}", format!("{name}:"));
        terminal.line(&format!("{} {value}", console::style(name).dim()))
    };
    field("app", app.name.as_str())?;
    field("state", &show::colored(&show::app_state(&app)))?;
    if let Some(live) = &app.live {
        if !live.state.reason.is_empty() {
            field("because", &clean(&live.state.reason))?;
        }
        field("type", live.app_type.as_str())?;
    }
    field("address", &app.url)?;
    field("created", &show::moment(app.created, terminal))?;
    if !app.instances.is_empty() {
        terminal.line("")?;
        let rows: Vec<_> = app
            .instances
            .iter()
            .map(|instance| {
                let status = &instance.status;
                vec![
                    status.id.to_string(),
                    show::instance_state(&status.state, terminal),
                    status.restarts.to_string(),
                    instance.node.to_string(),
                    instance.url.clone(),
                ]
            })
            .collect();
        terminal.table(&["INSTANCE", "STATE", "RESTARTS", "NODE", "ADDRESS"], &rows)?;
        for status in app.instances.iter().map(|instance| &instance.status) {
            if let Some(reason) = show::instance_reason(&status.state) {
                terminal.line(&format!("{}: {}", status.id, clean(reason)))?;
            }
            if let Some(why) = &status.no_snapshot {
                terminal.line(&format!("{}: cannot be put to disk: {}", status.id, clean(why)))?;
            }
        }
    }
    let deployments: Vec<DeploymentView> = client.get(&format!("/v1/apps/{name}/deployments")).await?;
    if !deployments.is_empty() {
        terminal.line("")?;
        let rows: Vec<_> = deployments.iter().take(EARLIER).map(|d| deployment_row(&app, d, terminal)).collect();
        terminal.table(&["DEPLOYMENT", "STATE", "", "CREATED", "ADDRESS"], &rows)?;
    }
    let failed = deployments.first().and_then(|newest| newest.problem.as_ref());
    if let Some(problem) = app.problem.as_ref().or(failed) {
        terminal.line("")?;
        field("problem", &clean(&problem.detail))?;
        for line in &problem.log {
            terminal.line(&format!("  {} {}", console::style("|").dim(), clean(line)))?;
        }
        if let Some(hint) = &problem.hint {
            field("try", &clean(hint))?;
        }
    }
    Ok(())
}

fn deployment_row(app: &AppView, deployment: &DeploymentView, terminal: &Terminal) -> Vec<String> {
    let is = |other: &Option<DeploymentView>| other.as_ref().is_some_and(|other| other.id == deployment.id);
    let place = if is(&app.live) {
        "live"
    } else if is(&app.pending) {
        "next"
    } else {
        ""
    };
    // A deployment has an address of its own for as long as something serves for it.
    let answers = app.instances.iter().map(|instance| &instance.status).any(|status| {
        let ends = status.state.is_over() || matches!(status.state, InstanceState::Stopping { .. });
        status.deployment == deployment.id && !ends
    });
    vec![
        deployment.id.to_string(),
        show::colored(deployment.state.state.as_str()),
        place.to_owned(),
        show::moment(deployment.created, terminal),
        if answers { deployment.url.clone() } else { "-".to_owned() },
    ]
}
