//! `drowse releases`, `rollback` and `promote`.

use drowse_api::client::Client;
use drowse_api::platform::{AppView, DeploymentView, ReleasePlace, ReleaseView};
use drowse_api::{AppName, Problem};
use http::Method;

use crate::app_name;
use crate::args::{App, Promote, Rollback};
use crate::failure::{Failure, bad_request};
use crate::settle::{self, Goal, Seen};
use crate::show;
use crate::terminal::{Format, Terminal};

/// Lists them, the newest first.
pub async fn list(args: App, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let releases: Vec<ReleaseView> = client.get(&format!("/v1/apps/{name}/releases")).await?;
    if terminal.format() == Format::Json {
        return terminal.json(&releases);
    }
    if releases.is_empty() {
        terminal.note(&format!("{name} has no release yet: no deployment of it has become ready."));
        return Ok(());
    }
    let rows: Vec<_> = releases.iter().map(|release| row(release, terminal)).collect();
    terminal.table(&["RELEASE", "", "DEPLOYMENT", "WHY", "CREATED"], &rows)
}

fn row(release: &ReleaseView, terminal: &Terminal) -> Vec<String> {
    let place = match release.place {
        ReleasePlace::Next => "next",
        ReleasePlace::Live => "live",
        ReleasePlace::Earlier => "",
    };
    let changed = match release.changed.as_slice() {
        [] => String::new(),
        names => format!(" ({})", names.join(", ")),
    };
    vec![
        release.number.to_string(),
        place.to_owned(),
        release.deployment.to_string(),
        format!("{}{changed}", release.cause),
        show::moment(release.created, terminal),
    ]
}

/// Version and environment of an earlier release serve again.
pub async fn rollback(args: Rollback, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let (app, number) = target(args.words)?;
    let name = app_name::given_or_here(app)?;
    let to = number.map(|number| format!("?to={number}")).unwrap_or_default();
    let call = Change { path: format!("/v1/apps/{name}/rollback{to}"), doing: "rolling back", detach: args.detach };
    call.make(&name, client, terminal).await
}

/// `[APP] [N]`: an app's name has a letter or is longer than any number of a release.
fn target(words: Vec<String>) -> Result<(Option<AppName>, Option<u64>), Problem> {
    let number = |word: &str| {
        let wrong = || bad_request(format!("{word:?} is no number of a release")).hint("`drowse releases` lists them");
        word.trim_start_matches('v').parse::<u64>().map_err(|_| wrong())
    };
    let app = |word: &str| AppName::parse(word).map_err(|error| bad_request(error.to_string()));
    Ok(match words.as_slice() {
        [] => (None, None),
        [word] if word.trim_start_matches('v').parse::<u64>().is_ok() => (None, Some(number(word)?)),
        [word] => (Some(app(word)?), None),
        [first, second, ..] => (Some(app(first)?), Some(number(second)?)),
    })
}

/// A deployment that is kept serves, with the environment of now.
pub async fn promote(args: Promote, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let found: DeploymentView = client.get(&format!("/v1/deployments/{}", args.deployment)).await?;
    let path = format!("/v1/deployments/{}/promote", args.deployment);
    Change { path, doing: "promoting", detach: args.detach }.make(&found.app, client, terminal).await
}

/// A call that gives an app new instances.
struct Change {
    path: String,
    doing: &'static str,
    detach: bool,
}

impl Change {
    async fn make(self, name: &AppName, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
        let begun = std::time::Instant::now();
        let seen = Seen::before(&client.get(&format!("/v1/apps/{name}")).await?);
        let asked: AppView = client.call(Method::POST, &self.path, None::<&()>).await?;
        let doing = self.doing;
        if self.detach {
            let said = format!("{doing} {name}: drowse events -f {name} shows how it goes");
            return result(&asked, terminal, &said);
        }
        let app = settle::wait(client, terminal, name, Goal::Replaced, seen.answered(&asked), doing).await?;
        let of = app.live.as_ref().map(|live| format!(" with deployment {}", live.id)).unwrap_or_default();
        let (state, took) = (show::colored(&show::app_state(&app)), show::span(begun.elapsed()));
        result(&app, terminal, &format!("{name} is {state}{of} after {took}"))
    }
}

fn result(app: &AppView, terminal: &Terminal, sentence: &str) -> Result<(), Failure> {
    match terminal.format() {
        Format::Json => terminal.json(app),
        Format::Human => terminal.line(sentence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_names_an_app_or_a_number_or_both() {
        let read = |words: &[&str]| {
            let (app, number) = target(words.iter().map(|&word| word.to_owned()).collect()).map_err(|p| p.detail)?;
            Ok::<_, String>((app.map(String::from), number))
        };
        assert_eq!(read(&[]), Ok((None, None)));
        assert_eq!(read(&["shop"]), Ok((Some("shop".into()), None)));
        assert_eq!(read(&["12"]), Ok((None, Some(12))));
        assert_eq!(read(&["shop", "v3"]), Ok((Some("shop".into()), Some(3))));
        assert!(read(&["shop", "last"]).is_err());
    }
}
