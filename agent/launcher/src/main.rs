//! The launcher: commanded by an agent over the socket that is its standard input.

use std::process::ExitCode;

fn main() -> ExitCode {
    drowse_launcher::server::main(|| Ok(()))
}
