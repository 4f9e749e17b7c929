//! `drowse rm`: removes an app.

use drowse_api::Problem;
use drowse_api::client::Client;
use drowse_api::platform::AppView;
use http::Method;
use serde_json::json;

use crate::args::Remove;
use crate::failure::{Failure, bad_request};
use crate::terminal::{Format, Terminal};

/// Asks first, unless told not to.
pub async fn run(args: Remove, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = &args.app;
    let path = format!("/v1/apps/{name}");
    // An app that is not there is told before anything is asked.
    let app: AppView = client.get(&path).await?;
    if !args.yes {
        confirm(&app, terminal)?;
    }
    let _: serde_json::Value = client.call(Method::DELETE, &path, None::<&()>).await?;
    match terminal.format() {
        Format::Json => terminal.json(&json!({ "removed": name })),
        Format::Human => terminal.line(&format!("{name} is removed")),
    }
}

fn confirm(app: &AppView, terminal: &Terminal) -> Result<(), Failure> {
    if !terminal.can_ask() {
        let problem: Problem = bad_request(format!("removing {} cannot be undone and was not confirmed", app.name));
        return Err(problem.hint(format!("drowse rm {} --yes", app.name)).into());
    }
    let question = format!("Remove {} ({}), its deployments and its files? [y/N] ", app.name, app.url);
    let console = console::Term::stderr();
    let answer = console
        .write_str(&question)
        .and_then(|()| console.read_line())
        .map_err(|error| crate::failure::internal("cannot ask", &error))?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(bad_request(format!("{} was not removed", app.name)).into()),
    }
}
