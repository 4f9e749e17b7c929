//! `drowse-controller`: the control half (`serve`) and the visitors' router (`route`), each a
//! process of its own.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use drowse_controller::config::{Config, ConfigError};
use drowse_controller::serve::{Controller, forget_secrets, lock};
use drowse_proxy::Router;
use drowse_store::Store;
use drowse_store::sqlite::Sqlite;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[derive(Debug, Parser)]
#[command(name = "drowse-controller", version, about = "Decides what runs where, and routes visitors to it")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the control half: API, plans, state.
    Serve {
        /// The configuration file.
        #[arg(long, default_value = "/etc/drowse/controller.toml")]
        config: PathBuf,
    },
    /// Remove every secret of every app: for an operator whose key file is lost. The controller must
    /// not run.
    ForgetSecrets {
        /// The configuration file.
        #[arg(long, default_value = "/etc/drowse/controller.toml")]
        config: PathBuf,
    },
    /// Run the router for visitors.
    Route {
        /// The configuration file.
        #[arg(long, default_value = "/etc/drowse/controller.toml")]
        config: PathBuf,
    },
}

fn main() -> ExitCode {
    // Never in a release: whoever sets a variable must not decide where a controller dies.
    let _faults = (cfg!(debug_assertions) && fail::has_failpoints()).then(|| {
        if std::env::var_os("FAILPOINTS").is_some() {
            // A fault at such a point is the death of the daemon, not of one of its tasks.
            std::panic::set_hook(Box::new(|fault| {
                let _ = writeln!(std::io::stderr(), "drowse-controller: {fault}");
                std::process::abort();
            }));
        }
        fail::FailScenario::setup()
    });
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line; that nobody reads it is no fault.
            let _ = writeln!(std::io::stderr(), "drowse-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let filter = EnvFilter::try_from_env("DROWSE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start tokio")?;
    match arguments.command {
        Command::Serve { config } => runtime.block_on(serve(&config)),
        Command::ForgetSecrets { config } => runtime.block_on(forget(&config)),
        Command::Route { config } => runtime.block_on(route(&config)),
    }
}

async fn serve(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let _lock = lock(&config.data_dir)?;
    let store = Store::new(Sqlite::open(&config.data_dir.join("drowse.db"))?);
    let (socket, listen) = (config.socket(), config.api_listen);
    let controller = Controller::start(config, store).await?;
    tracing::info!(socket = %socket.display(), %listen, "the controller answers");
    tell_systemd(&[NotifyState::Ready]);
    let watchdog = tokio::spawn(watchdog());
    told_to_end().await?;
    watchdog.abort();
    tell_systemd(&[NotifyState::Stopping]);
    controller.stop().await;
    // Left over otherwise; the next start removes it too.
    let _ = std::fs::remove_file(socket);
    Ok(())
}

async fn forget(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let _lock = lock(&config.data_dir)?;
    let store = Store::new(Sqlite::open(&config.data_dir.join("drowse.db"))?);
    let count = forget_secrets(store, &config).await?;
    tracing::info!(apps = count, "the secrets are removed: set them anew when the controller runs");
    Ok(())
}

async fn route(path: &Path) -> anyhow::Result<()> {
    let config = Config::read(path)?;
    let router = config.router.ok_or_else(|| ConfigError::NoRouter { path: path.to_owned() })?;
    let mut handed = listenfd::ListenFd::from_env();
    let open = (0..handed.len())
        .filter_map(|index| handed.take_tcp_listener(index).transpose())
        .collect::<Result<Vec<_>, _>>()
        .context("a listener that was handed over cannot be used")?;
    let router = Router::start(router, open)?;
    tell_systemd(&[NotifyState::Ready]);
    let watchdog = tokio::spawn(watchdog());
    told_to_end().await?;
    watchdog.abort();
    tell_systemd(&[NotifyState::Stopping]);
    // A panic in there has been logged by its own thread.
    let _ = tokio::task::spawn_blocking(move || router.stop()).await;
    Ok(())
}

/// Returns at SIGTERM or SIGINT.
async fn told_to_end() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn tell_systemd(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Tells systemd that the runtime turns, for as long as it does.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((limit / 3).max(Duration::from_millis(100)));
    loop {
        tick.tick().await;
        tell_systemd(&[NotifyState::Watchdog]);
    }
}
