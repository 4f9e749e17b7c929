//! `drowse env`: the environment of an app.

use std::collections::BTreeMap;

use drowse_api::client::Client;
use drowse_api::platform::{AppView, EnvPatch, Environment};
use drowse_api::{AppName, Problem};
use http::Method;

use crate::app_name;
use crate::args::Env;
use crate::failure::{Failure, bad_request};
use crate::settle::{self, Goal, Seen};
use crate::show;
use crate::terminal::{Format, Terminal};

/// Lists, sets or removes variables.
pub async fn run(args: Env, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    match args {
        Env::Ls(app) => list(&app_name::given_or_here(app.app)?, client, terminal).await,
        Env::Set { words, detach } => {
            let (app, set) = assignments(words)?;
            let name = app_name::given_or_here(app)?;
            patch(&name, EnvPatch { set, unset: Vec::new() }, detach, client, terminal).await
        }
        Env::Unset { app, names, detach } => {
            patch(&app, EnvPatch { set: BTreeMap::new(), unset: names }, detach, client, terminal).await
        }
    }
}

async fn list(name: &AppName, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let environment: Environment = client.get(&format!("/v1/apps/{name}/env")).await?;
    if terminal.format() == Format::Json {
        return terminal.json(&environment.vars);
    }
    environment.vars.iter().try_for_each(|(name, value)| terminal.line(&format!("{name}={value}")))
}

async fn patch(
    name: &AppName,
    patch: EnvPatch,
    detach: bool,
    client: &Client,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let before: AppView = client.get(&format!("/v1/apps/{name}")).await?;
    let path = format!("/v1/apps/{name}/env");
    let former: Environment = client.get(&path).await?;
    for name in patch.unset.iter().filter(|name| !former.vars.contains_key(*name)) {
        terminal.note(&format!("note: {name} was not set"));
    }
    let environment: Environment = client.call(Method::PATCH, &path, Some(&patch)).await?;
    let is_same = former.vars == environment.vars;
    let runs = before.instances.iter().any(|instance| !instance.status.state.is_over());
    let said = match (runs, detach) {
        _ if is_same => format!("nothing changed: {name} has {}", show::count(environment.vars.len(), "variable")),
        (false, _) => format!("{name} has {}", show::count(environment.vars.len(), "variable")),
        (true, true) => format!("restarting {name}: drowse events -f {name} shows how it goes"),
        (true, false) => {
            let (goal, seen) = (Goal::ReplacedIfNeeded, Seen::before(&before));
            settle::wait(client, terminal, name, goal, seen, "restarting").await?;
            format!("{name} runs with {}", show::count(environment.vars.len(), "variable"))
        }
    };
    match terminal.format() {
        Format::Json => terminal.json(&environment.vars),
        Format::Human => terminal.line(&said),
    }
}

/// `[APP] NAME=VALUE …`: an app's name holds no `=`.
fn assignments(mut words: Vec<String>) -> Result<(Option<AppName>, BTreeMap<String, String>), Problem> {
    let app = match words.first() {
        Some(first) if !first.contains('=') => {
            Some(AppName::parse(words.remove(0)).map_err(|error| bad_request(error.to_string()))?)
        }
        _ => None,
    };
    let hint = "drowse env set APP NAME=VALUE";
    if words.is_empty() {
        return Err(bad_request("no variable was named").hint(hint));
    }
    let mut set = BTreeMap::new();
    for word in words {
        match word.split_once('=') {
            Some((name, value)) if is_name(name) => set.insert(name.to_owned(), value.to_owned()),
            Some((name, _)) => {
                let detail = format!("{name:?} is not a variable's name");
                return Err(bad_request(detail).hint("use letters, digits and _, and begin with no digit"));
            }
            None => return Err(bad_request(format!("{word:?} has no value")).hint(hint)),
        };
    }
    Ok((app, set))
}

fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_part) && !name.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Read = (Option<String>, Vec<(String, String)>);

    fn read(words: &[&str]) -> Result<Read, String> {
        let (app, set) = assignments(words.iter().map(|&word| word.to_owned()).collect()).map_err(|p| p.detail)?;
        Ok((app.map(String::from), set.into_iter().collect()))
    }

    #[test]
    fn assignments_may_be_preceded_by_the_app() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(read(&["shop", "A=1", "B=x=y"]), Ok((Some("shop".into()), vec![pair("A", "1"), pair("B", "x=y")])));
        assert_eq!(read(&["A="]), Ok((None, vec![pair("A", "")])));
    }

    #[test]
    fn what_is_no_assignment_is_refused() {
        assert_eq!(read(&["shop"]), Err("no variable was named".to_owned()));
        assert_eq!(read(&["A=1", "B"]), Err("\"B\" has no value".to_owned()));
        assert_eq!(read(&["1A=1"]), Err("\"1A\" is not a variable's name".to_owned()));
        assert!(read(&["My_Shop", "A=1"]).is_err());
    }
}
