//! The commands, one module each, and the way from the parsed line to them.

mod completions;
mod cp;
mod deploy;
mod doctor;
mod env;
mod events;
mod exec;
mod info;
mod lifecycle;
mod login;
mod logs;
mod ls;
mod open;
mod registry;
mod releases;
mod rm;
mod secret;
mod sleep;
mod token;
mod top;

use crate::args::{Args, Command};
use crate::connect::Controller;
use crate::exit_codes;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Carries the command out.
///
/// # Errors
/// What went wrong, with what to do about it.
pub async fn run(args: Args, terminal: &Terminal) -> Result<(), Failure> {
    // These need no controller.
    match args.command {
        Command::Completions { shell } => return completions::run(shell, terminal),
        Command::ExitCodes => return terminal.line(exit_codes::table().trim_end()),
        Command::Logout => return login::forget(terminal),
        Command::Login(login) => return login::run(login, terminal).await,
        _ => {}
    }
    let controller = Controller::find(args.socket.as_deref())?;
    let client = &controller.client;
    let result = match args.command {
        Command::Deploy(deploy) => Box::pin(deploy::run(deploy, client, terminal)).await,
        Command::Ls => ls::run(client, terminal).await,
        Command::Info(app) => info::run(app, client, terminal).await,
        Command::Logs(logs) => logs::run(logs, client, terminal).await,
        Command::Exec(args) => Box::pin(exec::exec(args, client, terminal)).await,
        Command::Run(args) => Box::pin(exec::run(args, client, terminal)).await,
        Command::Cp(args) => Box::pin(cp::run(args, client, terminal)).await,
        Command::Top(top) => top::run(top, client, terminal).await,
        Command::Events(events) => events::run(events, client, terminal).await,
        Command::Open(open) => open::run(open, client, terminal).await,
        Command::Restart(change) => lifecycle::restart(change, client, terminal).await,
        Command::Stop(change) => lifecycle::stop(change, client, terminal).await,
        Command::Start(change) => lifecycle::start(change, client, terminal).await,
        Command::Releases(app) => releases::list(app, client, terminal).await,
        Command::Rollback(rollback) => releases::rollback(rollback, client, terminal).await,
        Command::Promote(promote) => releases::promote(promote, client, terminal).await,
        Command::Sleep(sleep) => sleep::sleep(sleep, client, terminal).await,
        Command::Wake(app) => sleep::wake(app, client, terminal).await,
        Command::Pin(app) => sleep::pin(app, true, client, terminal).await,
        Command::Unpin(app) => sleep::pin(app, false, client, terminal).await,
        Command::Idle(idle) => sleep::idle(idle, client, terminal).await,
        Command::Explain(app) => sleep::explain(app, client, terminal).await,
        Command::Rm(remove) => rm::run(remove, client, terminal).await,
        Command::Env(env) => env::run(env, client, terminal).await,
        Command::Secret(secret) => secret::run(secret, client, terminal).await,
        Command::Registry(args) => registry::run(args, client, terminal).await,
        Command::Token(token) => token::run(token, client, terminal).await,
        Command::Doctor => doctor::run(client, terminal).await,
        Command::Completions { .. } | Command::ExitCodes | Command::Logout | Command::Login(_) => Ok(()),
    };
    result.map_err(|failure| controller.explain(failure))
}
