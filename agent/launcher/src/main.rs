//! The launcher: commanded by an agent over the socket that is its standard input.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use rustix::fd::AsFd;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(EnvFilter::try_from_env("DROWSE_LOG").unwrap_or_else(|_| EnvFilter::new("info")))
        .init();
    let socket: OwnedFd = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => socket,
        Err(error) => {
            tracing::error!("standard input cannot be used: {error}");
            return ExitCode::FAILURE;
        }
    };
    match drowse_launcher::server::serve(socket) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(
                "{error}: {}",
                std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
            );
            ExitCode::FAILURE
        }
    }
}
