//! `drowse open`: an app's address, in a browser where there is one.

use std::process::{Command, Stdio};

use drowse_api::client::Client;
use drowse_api::platform::AppView;
use serde::Serialize;

use crate::app_name;
use crate::args::Open;
use crate::failure::Failure;
use crate::show;
use crate::terminal::{Format, Terminal};

#[derive(Serialize)]
struct Opened<'a> {
    url: &'a str,
    curl: &'a str,
}

/// Prints the address and how curl reaches it, and opens it where somebody sits at a screen.
pub async fn run(args: Open, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let name = app_name::given_or_here(args.app)?;
    let app: AppView = client.get(&format!("/v1/apps/{name}")).await?;
    let curl = show::curl(&app.url);
    if terminal.format() == Format::Json {
        return terminal.json(&Opened { url: &app.url, curl: &curl });
    }
    terminal.line(&app.url)?;
    terminal.line(&curl)?;
    if !args.no_browser && terminal.can_ask() && has_screen() {
        browse(&app.url, terminal);
    }
    Ok(())
}

fn has_screen() -> bool {
    ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

fn browse(url: &str, terminal: &Terminal) {
    let mut browser = Command::new("xdg-open");
    browser.arg(url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // It outlives this command; who started it is of no interest to it.
    if let Err(error) = browser.spawn() {
        terminal.detail(&format!("no browser: xdg-open: {error}"));
    }
}
