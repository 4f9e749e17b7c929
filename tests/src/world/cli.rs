//! The command line as users run it.

use std::io::{Seek, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::World;
use crate::machine;

/// What a command did.
#[derive(Debug)]
pub struct Cli {
    /// Its exit code; absent if a signal ended it.
    pub code: Option<i32>,
    /// What it printed as its result.
    pub stdout: String,
    /// What it said beside.
    pub stderr: String,
}

impl Cli {
    /// The result, if the command succeeded.
    ///
    /// # Panics
    /// When it did not, with all it said.
    #[must_use]
    pub fn ok(self) -> String {
        assert!(self.code == Some(0), "it ended with {:?}:\n{}{}", self.code, self.stdout, self.stderr);
        self.stdout
    }

    /// The result as JSON, if the command succeeded.
    ///
    /// # Panics
    /// When it did not, or printed something else.
    #[must_use]
    pub fn json(self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e} in {text:?}"))
    }

    /// The message on stderr, if the command failed with this exit code: one clear error, no panic.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn fails_with(self, code: i32) -> String {
        assert!(self.code == Some(code), "it ended with {:?}, not {code}:\n{}{}", self.code, self.stdout, self.stderr);
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
        assert!(!self.stderr.trim().is_empty(), "it failed without a word");
        self.stderr
    }
}

impl World {
    /// Runs `drowse` as root on the controller's Unix socket, without a terminal.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn drowse(&self, arguments: &[&str]) -> Cli {
        self.drowse_in(self.base(), arguments)
    }

    /// As [`drowse`](Self::drowse), from within a folder.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn drowse_in(&self, folder: &Path, arguments: &[&str]) -> Cli {
        output(self.command_line(folder, arguments))
    }

    /// As [`drowse`](Self::drowse), with this on its standard input.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn drowse_with_input(&self, arguments: &[&str], input: &str) -> Cli {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(input.as_bytes()).and_then(|()| file.rewind()).expect("written");
        output_with(self.command_line(self.base(), arguments), file.into())
    }

    fn command_line(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = self.drowse_command(arguments);
        command.current_dir(folder);
        command
    }

    /// The program as a command to be started.
    #[must_use]
    pub fn drowse_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(machine::bin_dir().join("drowse"));
        command
            .args(arguments)
            .current_dir(self.base())
            .env_remove("NO_COLOR")
            .env("DROWSE_SOCKET", self.names().controller_socket())
            // Nobody's login is used or overwritten.
            .env("XDG_CONFIG_HOME", self.base().join("config"))
            .env("HOME", self.base().join("home"));
        command
    }
}

/// Runs one of our programs.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run(program: &Path, arguments: &[&str]) -> Cli {
    let mut command = Command::new(program);
    command.args(arguments);
    output(command)
}

fn output(command: Command) -> Cli {
    output_with(command, Stdio::null())
}

fn output_with(mut command: Command, input: Stdio) -> Cli {
    let output = command.stdin(input).output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    Cli {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
