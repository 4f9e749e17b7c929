//! `drowse secret`: values that are given to an app and shown to nobody.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use drowse_api::client::Client;
use drowse_api::platform::{AppView, SecretView, SecretsPatch};
use drowse_api::secrets::{MAX_SECRET, Secrets};
use drowse_api::{AppName, ErrorCode, Problem, variable};
use http::Method;

use crate::app_name;
use crate::args::Secret;
use crate::failure::{Failure, bad_request, internal};
use crate::settle::{self, Goal, Seen};
use crate::show;
use crate::terminal::{Format, Terminal};

/// Lists, sets or removes secrets.
pub async fn run(args: Secret, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    match args {
        Secret::Ls(app) => list(&app_name::given_or_here(app.app)?, client, terminal).await,
        Secret::Set { words, file, value, detach } => {
            let (app, name) = target(words)?;
            let app = app_name::given_or_here(app)?;
            let value = read(&name, file, value, terminal)?;
            let patch = SecretsPatch { set: Secrets::from_iter([(name, value)]), unset: Vec::new() };
            change(&app, patch, detach, client, terminal).await
        }
        Secret::Unset { app, names, detach } => {
            let patch = SecretsPatch { set: Secrets::default(), unset: names };
            change(&app, patch, detach, client, terminal).await
        }
    }
}

async fn list(name: &AppName, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let secrets: Vec<SecretView> = client.get(&format!("/v1/apps/{name}/secrets")).await?;
    if terminal.format() == Format::Json {
        return terminal.json(&secrets);
    }
    let rows: Vec<_> =
        secrets.iter().map(|secret| vec![secret.name.clone(), show::moment(secret.set, terminal)]).collect();
    terminal.table(&["SECRET", "SET"], &rows)
}

async fn change(
    name: &AppName,
    patch: SecretsPatch,
    detach: bool,
    client: &Client,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let before: AppView = client.get(&format!("/v1/apps/{name}")).await?;
    let path = format!("/v1/apps/{name}/secrets");
    let former: Vec<SecretView> = client.get(&path).await?;
    let is_known = |name: &String| former.iter().any(|secret| secret.name == *name);
    for name in patch.unset.iter().filter(|name| !is_known(name)) {
        terminal.note(&format!("note: {name} was not set"));
    }
    let is_same = patch.set.is_empty() && !patch.unset.iter().any(is_known);
    let secrets: Vec<SecretView> = client.call(Method::PATCH, &path, Some(&patch)).await?;
    let runs = before.instances.iter().any(|instance| !instance.status.state.is_over());
    let count = show::count(secrets.len(), "secret");
    let said = match (runs, detach) {
        _ if is_same => format!("nothing changed: {name} has {count}"),
        (false, _) => format!("{name} has {count}"),
        (true, true) => format!("restarting {name}: drowse events -f {name} shows how it goes"),
        (true, false) => {
            let (goal, seen) = (Goal::ReplacedIfNeeded, Seen::before(&before));
            settle::wait(client, terminal, name, goal, seen, "restarting").await?;
            format!("{name} runs with {count}")
        }
    };
    match terminal.format() {
        Format::Json => terminal.json(&secrets),
        Format::Human => terminal.line(&said),
    }
}

/// `[APP] NAME`. A value is refused here: others can see command lines.
fn target(words: Vec<String>) -> Result<(Option<AppName>, String), Problem> {
    let hint = "drowse secret set APP NAME, with the value on standard input, from a file (--file) or asked for";
    if words.iter().any(|word| word.contains('=')) {
        let detail = "a value on the command line can be read by other users and stays in the shell's history";
        return Err(bad_request(detail).hint(hint));
    }
    let (app, name) = match <[String; 2]>::try_from(words) {
        Ok([app, name]) => (Some(AppName::parse(app).map_err(|error| bad_request(error.to_string()))?), name),
        Err(mut words) => (None, words.pop().ok_or_else(|| bad_request("no secret was named").hint(hint))?),
    };
    variable::check_name(&name).map_err(|error| bad_request(error.to_string()).hint(hint))?;
    Ok((app, name))
}

/// The value: as given, from a file, asked for, or from standard input. One line end at its end is no
/// part of it.
fn read(name: &str, file: Option<PathBuf>, value: Option<String>, terminal: &Terminal) -> Result<String, Failure> {
    let text = match (file, value) {
        (_, Some(value)) => value,
        (Some(path), None) => from_file(&path)?,
        (None, None) if terminal.can_ask() => {
            let console = console::Term::stderr();
            let asked = console.write_str(&format!("Value of {name} (not shown): "));
            asked.and_then(|()| console.read_secure_line()).map_err(|error| internal("cannot ask", &error))?
        }
        (None, None) if std::io::stdin().is_terminal() => {
            return Err(bad_request("no value was given").hint("write it to standard input, or name --file").into());
        }
        (None, None) => text(std::io::stdin().lock(), "standard input")?,
    };
    let value = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    variable::check(name, value).map_err(|error| bad_request(error.to_string()))?;
    if value.is_empty() {
        return Err(bad_request(format!("the value of {name} is empty")).into());
    }
    Ok(value.to_owned())
}

fn from_file(path: &Path) -> Result<String, Failure> {
    let file = std::fs::File::open(path);
    let file = file.map_err(|error| bad_request(format!("cannot read {}: {error}", path.display())))?;
    text(file, &path.display().to_string())
}

/// Text of a length that a secret may have. What is wrong with it is said without it.
fn text(from: impl Read, what: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    let read = from.take(MAX_SECRET as u64 + 2).read_to_end(&mut bytes);
    read.map_err(|error| bad_request(format!("cannot read {what}: {error}")))?;
    if bytes.len() > MAX_SECRET + 1 {
        let detail = format!("{what} holds more than {MAX_SECRET} bytes, which is the limit of a secret");
        return Err(Problem::new(ErrorCode::TooLarge, detail).into());
    }
    String::from_utf8(bytes).map_err(|_| bad_request(format!("{what} holds something that is no text")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named_and_its_value_is_no_word_of_the_command() {
        let read = |words: &[&str]| {
            let (app, name) = target(words.iter().map(|&word| word.to_owned()).collect()).map_err(|p| p.detail)?;
            Ok::<_, String>((app.map(String::from), name))
        };
        assert_eq!(read(&["shop", "TOKEN"]), Ok((Some("shop".into()), "TOKEN".into())));
        assert_eq!(read(&["TOKEN"]), Ok((None, "TOKEN".into())));
        let error = read(&["shop", "TOKEN=planted"]).expect_err("refused");
        assert!(error.contains("history") && !error.contains("planted"), "{error}");
        assert!(read(&["shop", "1TOKEN"]).is_err() && read(&["shop", "PORT"]).is_err());
    }
}
