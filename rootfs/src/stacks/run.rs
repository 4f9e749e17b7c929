//! Runs the programs that build a stack, hands their lines on as they come, and keeps the last ones
//! for the error.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader};
use std::process::{Command, ExitStatus, Stdio};

/// Lines kept for the error.
const KEPT: usize = 30;

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It is not installed.
    #[error("{program} is not installed; install it with: apt install {package}")]
    NotInstalled {
        /// Which program.
        program: String,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// It could not be started or read from.
    #[error("cannot run {program}")]
    Start {
        /// Which program.
        program: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// It failed.
    #[error("{program} failed ({status}):\n{output}")]
    Failed {
        /// Which program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        output: String,
    },
}

/// Checks that a program is there, before a lot of work ends for lack of it.
pub(super) fn require(program: &str, package: &'static str) -> Result<(), CommandError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join(program).is_file()) {
        return Ok(());
    }
    Err(CommandError::NotInstalled { program: program.to_owned(), package })
}

/// Runs `command` to its end. `line` sees each line of its standard error.
pub(super) fn run(mut command: Command, package: &'static str, line: &mut dyn FnMut(&str)) -> Result<(), CommandError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let start = |source: io::Error| CommandError::Start { program: program.clone(), source };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => CommandError::NotInstalled { program: program.clone(), package },
        _ => start(error),
    })?;
    let mut last = VecDeque::with_capacity(KEPT);
    if let Some(stderr) = child.stderr.take() {
        for bytes in BufReader::new(stderr).split(b'\n') {
            let bytes = bytes.map_err(start)?;
            let text = String::from_utf8_lossy(&bytes);
            line(text.trim_end());
            if last.len() == KEPT {
                last.pop_front();
            }
            last.push_back(text.trim_end().to_owned());
        }
    }
    let status = child.wait().map_err(start)?;
    if status.success() {
        return Ok(());
    }
    Err(CommandError::Failed { program, status, output: Vec::from(last).join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        assert!(require("sh", "dash").is_ok());
        let error = require("no-such-program", "some-package").expect_err("missing").to_string();
        assert_eq!(error, "no-such-program is not installed; install it with: apt install some-package");
    }

    #[test]
    fn a_failing_program_shows_its_last_lines() {
        let mut command = Command::new("sh");
        command.args(["-c", "for i in $(seq 100); do echo line $i >&2; done; exit 3"]);
        let mut seen = 0;
        let error = run(command, "dash", &mut |_| seen += 1).expect_err("failed").to_string();
        assert_eq!(seen, 100);
        assert!(
            error.contains("exit status: 3") && error.contains("line 71\n") && error.ends_with("line 100"),
            "{error}"
        );
        assert!(!error.contains("line 70\n"), "{error}");
    }
}
