//! A whole Drowse for one test: agent, controller and router as real processes, with names, folders
//! and addresses of their own, and the ways in which tests talk to them and harm them.
//!
//! Whatever happens in a test, the world's end removes everything; a test that passed fails there if
//! the daemons' own cleaning left something.

mod api;
mod cli;
mod daemon;
mod harm;
mod slot;
mod start;
mod sweep;

use std::path::Path;
use std::time::Duration;

use drowse_api::client::Client;

pub use api::{Deployed, archive, failure, main_process, upload};
pub use cli::{Cli, run};
pub use daemon::{Daemon, Program, tail};
pub use slot::{Names, Slot};
pub use start::Options;

/// How long daemons and small apps may take to be ready on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The domain of every world.
pub const DOMAIN: &str = "drowse.localhost";

/// A whole Drowse.
#[derive(Debug)]
pub struct World {
    names: Names,
    programs: Programs,
    agent: Option<Daemon>,
    controller: Option<Daemon>,
    router: Option<Daemon>,
    boots: u32,
    // Last, so that the number is given back when everything else is gone.
    _slot: Slot,
}

#[derive(Debug)]
struct Programs {
    agent: Program,
    controller: Program,
    router: Program,
}

impl World {
    /// A world with everything as it usually is, ready to be used.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// Its names.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Its folder on disk.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.names.base
    }

    /// A client of the controller, as root on its Unix socket.
    #[must_use]
    pub fn controller(&self) -> Client {
        Client::unix(self.names.controller_socket())
    }

    /// A client of the agent, as root on its Unix socket.
    #[must_use]
    pub fn agent(&self) -> Client {
        Client::unix(self.names.agent_socket())
    }

    /// The last lines of all daemons' logs, for messages.
    #[must_use]
    pub fn logs(&self) -> String {
        ["agent", "controller", "router"]
            .map(|name| format!("--- {name}\n{}\n", tail(&self.names.base.join(format!("logs/{name}.log")), 40)))
            .concat()
    }

    /// What of this world is on the machine, one line for each thing.
    #[must_use]
    pub fn leftovers(&self) -> Vec<String> {
        sweep::leftovers(&self.names)
    }

    /// Ends the daemons and removes everything of this world the way an operator would.
    ///
    /// Returns what was left behind, which is then removed by force.
    fn end(&mut self) -> Vec<String> {
        // The daemons' ends have tests of their own; here they need not be gentle.
        for daemon in [self.router.take(), self.controller.take(), self.agent.take()].into_iter().flatten() {
            daemon.kill();
        }
        let cleaned =
            run(&self.programs.agent.file, &["clean", "--config", &self.names.agent_config().to_string_lossy()]);
        let mut left = sweep::leftovers(&self.names);
        if cleaned.code != Some(0) {
            left.push(format!("drowse-agent clean: {}", cleaned.stderr));
        }
        left
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("{}", self.logs());
        }
        let left = self.end();
        sweep::remove_all(&self.names);
        assert!(failed || left.is_empty(), "left behind after drowse-agent clean:\n{}", left.join("\n"));
    }
}
