//! `drowse registry`: logins for registries of images.

use std::io::{IsTerminal, Read};

use drowse_api::client::Client;
use drowse_api::platform::{RegistryLogin, RegistryView};
use http::Method;

use crate::args::Registry;
use crate::failure::{Failure, bad_request, internal};
use crate::show;
use crate::terminal::{Format, Terminal};

/// The longest password that is read.
const MAX_PASSWORD: u64 = 64 << 10;

/// Keeps, lists or forgets logins.
pub async fn run(args: Registry, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    match args {
        Registry::Login { registry, username } => login(&registry, username, client, terminal).await,
        Registry::Ls => list(client, terminal).await,
        Registry::Logout { registry } => {
            let path = format!("/v1/registries/{registry}");
            let gone: RegistryView = client.call(Method::DELETE, &path, None::<&()>).await?;
            told(&gone, "is forgotten", terminal)
        }
    }
}

async fn login(registry: &str, username: String, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let mut password = String::new();
    if std::io::stdin().is_terminal() && terminal.can_ask() {
        let console = console::Term::stderr();
        let asked = console.write_str("Password: ").and_then(|()| console.read_secure_line());
        password = asked.map_err(|error| internal("cannot ask for the password", &error))?;
    } else {
        let read = std::io::stdin().lock().take(MAX_PASSWORD).read_to_string(&mut password);
        read.map_err(|error| bad_request(format!("cannot read the password from standard input: {error}")))?;
    }
    let password = password.trim_end_matches(['\r', '\n']).to_owned();
    if password.is_empty() {
        let hint = format!("drowse registry login {registry} --username {username} < FILE");
        return Err(bad_request("no password was given on standard input").hint(hint).into());
    }
    let password = [("password".to_owned(), password)].into_iter().collect();
    let request = RegistryLogin { username, password };
    let kept: RegistryView = client.call(Method::PUT, &format!("/v1/registries/{registry}"), Some(&request)).await?;
    told(&kept, "is kept for your deploys", terminal)
}

fn told(login: &RegistryView, what: &str, terminal: &Terminal) -> Result<(), Failure> {
    match terminal.format() {
        Format::Json => terminal.json(login),
        Format::Human => terminal.line(&format!("the login {} of {} {what}", login.username, login.registry)),
    }
}

async fn list(client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let logins: Vec<RegistryView> = client.get("/v1/registries").await?;
    if terminal.format() == Format::Json {
        return terminal.json(&logins);
    }
    if logins.is_empty() {
        terminal.note("No logins. Keep one: drowse registry login HOST --username NAME");
        return Ok(());
    }
    let row = |login: &RegistryView| {
        vec![login.registry.clone(), login.username.clone(), show::moment(login.since, terminal)]
    };
    let rows: Vec<_> = logins.iter().map(row).collect();
    terminal.table(&["REGISTRY", "USERNAME", "SINCE"], &rows)
}
