//! The terminal that a command takes over: no key means anything here, all of them go inside.

use std::io::{self, IsTerminal};

use drowse_api::exec::{Terminal, WindowSize};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The terminal in raw mode, until this is dropped.
#[derive(Debug)]
pub struct RawMode(Termios);

impl RawMode {
    /// Takes over the terminal that is standard input.
    ///
    /// # Errors
    /// If it is none.
    pub fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Whether both ends of a conversation are a terminal.
pub fn is_there() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The terminal as a command is to find it.
pub fn own() -> Terminal {
    Terminal { size: size(), kind: std::env::var("TERM").unwrap_or_default() }
}

/// How large it is now.
pub fn size() -> WindowSize {
    let found = tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin()));
    match found {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => WindowSize { rows: size.ws_row, columns: size.ws_col },
        _ => WindowSize { rows: 24, columns: 80 },
    }
}
