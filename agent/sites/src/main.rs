//! Serves the files of a node's static apps: one unprivileged, sandboxed process for all of them.
//!
//! `drowse-sites --root /sites --port 8080` listens on every address and takes the folder from the
//! local address of the accepted connection: what arrives at 10.83.0.5 is answered from
//! `/sites/10.83.0.5`. It knows nothing of apps, names or the agent, which publishes a site by
//! renaming a finished folder into place and giving the link one more address.

#![forbid(unsafe_code)]

mod answer;
mod folder;
mod options;
mod server;

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};

use crate::folder::Sites;
use crate::options::Options;

/// Reads that would wait for the disk go to these threads; all else is done on the main thread.
const DISK_THREADS: usize = 4;

/// Connections that may wait to be accepted; the kernel cuts it to net.core.somaxconn.
const QUEUE: u32 = 4096;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            say(&format!("drowse-sites: {error}; {}", options::USAGE));
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("drowse-sites: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let sites = Sites::open(&options.root).with_context(|| format!("cannot open {}", options.root.display()))?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(DISK_THREADS)
        .thread_keep_alive(Duration::from_secs(5))
        .build()
        .context("cannot start the event loop")?;
    runtime.block_on(async {
        let listener = listen(options.port).with_context(|| format!("cannot listen on port {}", options.port))?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let address = listener.local_addr().context("cannot read the own address")?;
        say(&format!("drowse-sites: serving {} on {address}", options.root.display()));
        server::serve(listener, sites, async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        })
        .await;
        Ok(())
    })
}

/// Listens on every IPv4 address, with a queue for bursts of visitors.
fn listen(port: u16) -> std::io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
    socket.listen(QUEUE)
}

/// Lifts the soft limit on descriptors to the hard one: a connection and a file for each visitor.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        say(&format!("drowse-sites: cannot raise the limit on open files: {error}"));
    }
}

/// The log of this program is its standard error, which the sandbox's init keeps.
#[expect(clippy::print_stderr, reason = "the one place where this program writes its log")]
fn say(text: &str) {
    eprintln!("{text}");
}
