//! What tests do to a world: daemons killed and started again, and the whole host rebooted.

use std::fs;

use super::daemon::Daemon;
use super::{World, sweep};
use crate::machine::Process;

impl World {
    /// `kill -9` of the agent and its launcher. What it runs goes on.
    pub fn kill_agent(&mut self) {
        kill(&mut self.agent);
    }

    /// `kill -9` of the controller.
    pub fn kill_controller(&mut self) {
        kill(&mut self.controller);
    }

    /// `kill -9` of the router.
    pub fn kill_router(&mut self) {
        kill(&mut self.router);
    }

    /// SIGTERM to the agent, and waits until it has ended.
    pub fn stop_agent(&mut self) {
        stop(&mut self.agent);
    }

    /// SIGTERM to the controller, and waits until it has ended.
    pub fn stop_controller(&mut self) {
        stop(&mut self.controller);
    }

    /// SIGTERM to the router, and waits until it has ended.
    pub fn stop_router(&mut self) {
        stop(&mut self.router);
    }

    /// The agent's process.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    pub fn agent_process(&self) -> Process {
        self.agent.as_ref().expect("the agent was started").process()
    }

    /// The controller's process.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    pub fn controller_process(&self) -> Process {
        self.controller.as_ref().expect("the controller was started").process()
    }

    /// What a power cut and the boot after it do to a host, as far as Drowse can see: every process
    /// of it is gone, `/run` is empty, links, rules and cgroups do not exist, and the boot id is
    /// another. Then the daemons are started, as their units would, and nobody logs in.
    ///
    /// # Panics
    /// When a daemon does not get ready again.
    pub async fn reboot(&mut self) {
        self.power_off();
        self.power_on().await;
    }

    /// The first half of a [`reboot`](Self::reboot): nothing of this world runs.
    ///
    /// # Panics
    /// When something cannot be removed.
    pub fn power_off(&mut self) {
        for daemon in [self.router.take(), self.controller.take(), self.agent.take()].into_iter().flatten() {
            daemon.kill();
        }
        sweep::forget_boot(&self.names);
        let left = self.leftovers();
        assert!(left.is_empty(), "a reboot leaves nothing, and there is\n{}", left.join("\n"));
    }

    /// The second half of a [`reboot`](Self::reboot).
    pub async fn power_on(&mut self) {
        self.boots += 1;
        let boot_id = self.names.base.join("boot_id");
        fs::write(&boot_id, format!("00000000-0000-4000-8000-{:012}\n", self.boots)).expect("written");
        self.programs.agent.after_mounting(
            r#"mount --bind "$1" "$2""#,
            &[&boot_id.to_string_lossy(), "/proc/sys/kernel/random/boot_id"],
        );
        self.make_run_folders();
        self.start_agent().await;
        self.start_controller().await;
        self.start_router().await;
    }
}

fn kill(daemon: &mut Option<Daemon>) {
    daemon.take().expect("it was started").kill();
}

fn stop(daemon: &mut Option<Daemon>) {
    let status = daemon.take().expect("it was started").stop();
    assert!(status.success(), "a daemon that is told to end ended with {status}");
}
