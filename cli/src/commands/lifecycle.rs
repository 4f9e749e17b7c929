//! `drowse restart`, `stop` and `start`.

use drowse_api::client::Client;
use drowse_api::platform::AppView;
use drowse_api::{AppName, Problem};
use http::Method;

use crate::app_name;
use crate::args::Change;
use crate::failure::Failure;
use crate::settle::{self, Goal, Seen};
use crate::show;
use crate::terminal::{Format, Terminal};

/// New instances first, then the old ones go.
pub async fn restart(args: Change, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    change(args, client, terminal, "restart", "restarting", Goal::Replaced).await
}

/// Nothing of it runs until it is started or deployed.
pub async fn stop(args: Change, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    change(args, client, terminal, "stop", "stopping", Goal::Stopped).await
}

/// It runs again.
pub async fn start(args: Change, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    change(args, client, terminal, "start", "starting", Goal::Serving).await
}

async fn change(
    args: Change,
    client: &Client,
    terminal: &Terminal,
    verb: &str,
    doing: &str,
    goal: Goal,
) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let seen = Seen::before(&client.get(&format!("/v1/apps/{name}")).await?);
    let asked = told(client, &name, verb).await?;
    if args.detach {
        return result(&asked, terminal, &format!("{doing} {name}: drowse events -f {name} shows how it goes"));
    }
    let begun = std::time::Instant::now();
    let app = settle::wait(client, terminal, &name, goal, seen.answered(&asked), doing).await?;
    let state = show::app_state(&app);
    result(&app, terminal, &format!("{name} is {} after {}", show::colored(&state), show::span(begun.elapsed())))
}

async fn told(client: &Client, name: &AppName, verb: &str) -> Result<AppView, Problem> {
    client.call(Method::POST, &format!("/v1/apps/{name}/{verb}"), None::<&()>).await
}

fn result(app: &AppView, terminal: &Terminal, sentence: &str) -> Result<(), Failure> {
    match terminal.format() {
        Format::Json => terminal.json(app),
        Format::Human => terminal.line(sentence),
    }
}
