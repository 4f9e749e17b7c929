//! Tries to get out of the sandbox that it runs in: by every system call that is refused, by what
//! /proc and /sys tell, by files, devices, sockets and other processes. Prints one line of JSON for
//! each attempt: its name, the rule that is expected to stop it, and what came of it.
//!
//! It is linked statically and needs nothing of the image. No attempt harms where it succeeds: it
//! opens and does not write, signals with 0, and asks the kernel for what it then gives up.
//!
//! Arguments are `key=value`, about the world outside: see [`facts::Facts`]. With `wait=yes` it stays
//! when it is done, to be looked at from outside; with `race=yes` it only lies in wait for processes
//! that are started beside it; with `builder=yes` it tries what builders of images may not; with
//! `terminal=yes` it only looks at the terminal that it runs on.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

mod builder;
mod calls;
mod facts;
mod files;
mod identity;
mod kernel;
mod mounts;
mod neighbours;
mod race;
mod report;
mod sys;
mod terminal;

fn main() {
    // Run by itself, to see whether it runs.
    if std::env::args().any(|argument| argument == sys::NOTHING) {
        return;
    }
    let facts = facts::Facts::from_arguments();
    if facts.races {
        race::tries(&facts);
        println!(r#"{{"done":true}}"#);
        return;
    }
    if facts.builds {
        builder::tries();
        println!(r#"{{"done":true}}"#);
        return;
    }
    if facts.on_terminal {
        terminal::tries();
        println!(r#"{{"done":true}}"#);
        return;
    }
    identity::tries(&facts);
    neighbours::tries(&facts);
    mounts::tries();
    kernel::tries();
    files::tries(&facts);
    calls::tries();
    println!(r#"{{"done":true}}"#);
    if facts.waits {
        sys::wait_for_ever();
    }
}
