//! How a command ends when it does not succeed: what is shown, and the exit code.

use drowse_api::{ErrorCode, Problem};

use crate::terminal::{Format, Terminal, clean};

/// The exit code after Ctrl-C, as shells give it.
pub const INTERRUPTED: u8 = 130;

/// Why a command ended early.
#[derive(Debug)]
pub enum Failure {
    /// Something went wrong.
    Problem(Box<Problem>),
    /// The user pressed Ctrl-C; what that means was said.
    Interrupted,
    /// The command that was run inside ended with this code, and has said why.
    Command(u8),
    /// Whoever read our output has seen enough, as `head` does.
    OutputClosed,
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl Failure {
    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Problem(problem) => problem.code.exit_code(),
            Self::Interrupted => INTERRUPTED,
            Self::Command(code) => *code,
            Self::OutputClosed => 0,
        }
    }

    /// Says on standard error what went wrong and what to do.
    pub fn show(&self, terminal: &Terminal) {
        let Self::Problem(problem) = self else { return };
        if terminal.format() == Format::Json {
            terminal.error_line(&serde_json::to_string(problem).unwrap_or_else(|_| problem.to_string()));
            return;
        }
        let label = console::style("error:").for_stderr().red().bold();
        terminal.error_line(&format!("{label} {}", clean(&problem.detail)));
        for line in &problem.log {
            terminal.error_line(&format!("  {} {}", console::style("|").for_stderr().dim(), clean(line)));
        }
        if let Some(hint) = &problem.hint {
            let label = console::style("try:").for_stderr().cyan().bold();
            terminal.error_line(&format!("{label} {}", clean(hint)));
        }
    }
}

/// A value of the user's that is not allowed.
pub fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(ErrorCode::BadRequest, detail)
}

/// A fault of this program or of the machine it runs on.
pub fn internal(what: &str, error: &dyn std::fmt::Display) -> Failure {
    Problem::new(ErrorCode::Internal, format!("{what}: {error}")).into()
}
