//! `drowse login` and `drowse logout`: the saved address and token.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use drowse_api::platform::WhoAmI;
use drowse_api::{ErrorCode, Problem};

use crate::args;
use crate::failure::{Failure, bad_request, internal};
use crate::login_file::{self, Login};
use crate::server_url::ServerUrl;
use crate::terminal::{Format, Terminal};

/// No token is longer.
const MAX_TOKEN: u64 = 4096;

/// Tries the token, and saves it if the controller knows it.
pub async fn run(args: args::Login, terminal: &Terminal) -> Result<(), Failure> {
    let url = ServerUrl::parse(&args.url)?;
    let path = saved_at()?;
    let token = read_token(&args, terminal)?;
    let who: WhoAmI = url.client(token.clone()).get("/v1/whoami").await.map_err(|problem| explain(problem, &url))?;
    login_file::save(&path, &Login { url: url.as_str().to_owned(), token })?;
    match terminal.format() {
        Format::Json => terminal.json(&who),
        Format::Human => terminal.line(&format!("logged in to {} as {}", url.as_str(), who.name)),
    }
}

/// Forgets what was saved.
pub fn forget(terminal: &Terminal) -> Result<(), Failure> {
    let path = saved_at()?;
    let said = if login_file::forget(&path)? { "the saved login is forgotten" } else { "there was no saved login" };
    terminal.note(said);
    Ok(())
}

fn saved_at() -> Result<PathBuf, Problem> {
    login_file::path().ok_or_else(|| bad_request("there is no folder for settings").hint("set HOME or XDG_CONFIG_HOME"))
}

fn read_token(args: &args::Login, terminal: &Terminal) -> Result<String, Failure> {
    let text = if args.token_stdin {
        let mut text = String::new();
        let read = std::io::stdin().lock().take(MAX_TOKEN).read_to_string(&mut text);
        read.map_err(|error| internal("cannot read the token", &error))?;
        text
    } else if terminal.can_ask() && std::io::stdin().is_terminal() {
        let console = console::Term::stderr();
        let asked = console.write_str("Token (drowse token create prints one): ");
        asked.and_then(|()| console.read_secure_line()).map_err(|error| internal("cannot ask for the token", &error))?
    } else {
        return Err(bad_request("no token was given").hint("drowse login --url URL --token-stdin < FILE").into());
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(bad_request("this is no token: it is one word of printable characters").into());
    }
    Ok(token.to_owned())
}

fn explain(problem: Problem, url: &ServerUrl) -> Problem {
    if problem.hint.is_some() {
        return problem;
    }
    match problem.code {
        ErrorCode::Unauthenticated => problem.hint("make a token on the host: sudo drowse token create LABEL"),
        ErrorCode::Unavailable => {
            problem.hint(format!("see whether the platform, or the ssh tunnel to it, is up at {}", url.as_str()))
        }
        _ => problem,
    }
}
