//! Ways out through the terminal that a command runs on.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use crate::report::{Outcome, tell};
use crate::sys;

/// More than a sandbox may have.
const MANY: usize = 300;

pub fn tries() {
    let terminals = fs::metadata("/dev/pts").map(|found| found.dev()).unwrap_or_default();
    for number in 0..3 {
        let found = fs::metadata(format!("/proc/self/fd/{number}"));
        let outcome = match found {
            Ok(found) => Outcome::fine_if(found.dev() == terminals, format!("on file system {}", found.dev())),
            Err(error) => Outcome::Escaped(error.to_string()),
        };
        tell(&format!("stream {number} is of the sandbox's terminals"), "own-terminal", &outcome);
    }
    let names: Vec<String> = fs::read_dir("/dev/pts")
        .map(|names| names.flatten().map(|name| name.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    let others: Vec<&String> = names.iter().filter(|name| *name != "ptmx" && *name != "0").collect();
    tell("terminals of others", "own-terminal", &Outcome::fine_if(others.is_empty(), format!("{others:?}")));
    // What is typed for a reader who is not there is read by ourselves, if by anybody.
    let typed = sys::type_into(0, b'x');
    let is_own = fs::metadata("/proc/self/fd/0").is_ok_and(|found| found.dev() == terminals);
    let outcome = match typed {
        Err(error) => Outcome::Refused(error.raw_os_error().unwrap_or_default()),
        Ok(()) => Outcome::fine_if(is_own, "typed into its own terminal"),
    };
    tell("typing into the terminal (TIOCSTI)", "own-terminal", &outcome);
    // Not asked for anew: the one that it was given.
    let controlling = sys::open("/dev/tty", libc::O_RDWR).and_then(|tty| sys::terminal_number(&tty));
    let outcome = match (controlling, sys::terminal_of(0)) {
        (Ok(tty), Ok(own)) => Outcome::fine_if(tty == own, format!("terminal {tty:x}, streams {own:x}")),
        (Err(error), _) | (_, Err(error)) => Outcome::Escaped(error.to_string()),
    };
    tell("the controlling terminal is its own", "own-session", &outcome);
    for (name, request) in
        [("the console's output (TIOCCONS)", libc::TIOCCONS), ("a hang-up of it (TIOCVHANGUP)", 0x5437)]
    {
        tell(name, "own-terminal", &Outcome::must_fail(sys::ask_terminal(0, request)));
    }
    let mut held = Vec::new();
    let end = loop {
        match sys::open("/dev/pts/ptmx", libc::O_RDWR) {
            Ok(terminal) if held.len() < MANY => held.push(terminal),
            Ok(_) => break Outcome::Escaped(format!("more than {MANY}")),
            Err(error) => break refused(&error),
        }
    };
    tell(&format!("as many terminals as it likes, of which it got {}", held.len()), "terminals-bounded", &end);
    drop(held);
    let numbers = fs::read_dir("/proc/self/fd").map(|all| all.flatten().count()).unwrap_or_default();
    // One of them is the folder that is read.
    tell("no descriptor but its streams", "descriptors-closed", &Outcome::fine_if(numbers == 4, format!("{numbers}")));
}

fn refused(error: &io::Error) -> Outcome {
    match error.raw_os_error() {
        // Its own limit of open files is no answer.
        Some(libc::EMFILE) => Outcome::Escaped("only the limit of open files stopped it".to_owned()),
        errno => Outcome::Refused(errno.unwrap_or_default()),
    }
}
