//! `drowse completions`: a shell's completion script.

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Args;
use crate::failure::Failure;
use crate::terminal::Terminal;

/// Prints the script.
pub fn run(shell: Shell, terminal: &Terminal) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "drowse", &mut script);
    terminal.line(String::from_utf8_lossy(&script).trim_end())
}
