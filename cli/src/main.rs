//! `drowse`, the command line: asks the controller, shows what it answers, packs folders.
//!
//! It knows nothing of how the platform decides or runs things: everything goes through the calls
//! in `drowse_api::platform`. Results go to standard output; progress, notes and errors to
//! standard error, so that the output can be piped.

#![forbid(unsafe_code)]

mod app_name;
mod args;
mod commands;
mod connect;
mod exit_codes;
mod failure;
mod login_file;
mod raw_mode;
mod replay;
mod server_url;
mod session;
mod settle;
mod show;
mod source;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::terminal::Terminal;

fn main() -> ExitCode {
    let args = Args::parse();
    let terminal = Terminal::new(args.output, args.color, args.verbose);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => {
            let result = runtime.block_on(commands::run(args, &terminal));
            // A thread that still reads the keyboard or packs a folder must not hold the end up.
            runtime.shutdown_background();
            result
        }
        Err(error) => Err(failure::internal("cannot start the event loop", &error)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.show(&terminal);
            ExitCode::from(failure.exit_code())
        }
    }
}
