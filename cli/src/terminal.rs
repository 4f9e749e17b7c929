//! Where output goes and how it looks: results on standard output, all else on standard error.
//!
//! On a terminal there are tables, colours and moving bars; elsewhere plain lines with tabs, and
//! with `--output json` only JSON.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{Attribute, Cell, ContentArrangement, Table};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::failure::{self, Failure};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people: tables on a terminal, plain lines otherwise.
    Human,
    /// JSON, one object a line where it is a stream.
    Json,
}

/// When colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The two streams and what the user wants of them.
#[derive(Debug)]
pub struct Terminal {
    format: Format,
    is_verbose: bool,
    out_is_terminal: bool,
    err_is_terminal: bool,
}

impl Terminal {
    /// Looks at the streams and settles the colours.
    pub fn new(format: Format, color: Color, is_verbose: bool) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colored = |is_terminal: bool| match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => is_terminal && !no_color && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        };
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        console::set_colors_enabled(colored(out));
        console::set_colors_enabled_stderr(colored(err));
        Self { format, is_verbose, out_is_terminal: out, err_is_terminal: err }
    }

    /// How results are printed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether a person reads the results on a terminal.
    pub fn shows_tables(&self) -> bool {
        self.format == Format::Human && self.out_is_terminal
    }

    /// Whether bars can move.
    pub fn is_lively(&self) -> bool {
        self.format == Format::Human && self.err_is_terminal && std::env::var_os("CI").is_none()
    }

    /// Whether a question can be asked.
    pub fn can_ask(&self) -> bool {
        self.format == Format::Human && self.err_is_terminal && io::stdin().is_terminal()
    }

    /// Prints one line of the result.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(output_failure)
    }

    /// Prints a value as a JSON document.
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| failure::internal("cannot print", &error))?;
        self.line(&text)
    }

    /// Prints a value as one line of JSON.
    pub fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string(value).map_err(|error| failure::internal("cannot print", &error))?;
        self.line(&text)
    }

    /// Tells something that is not the result. Silent with JSON.
    pub fn note(&self, text: &str) {
        if self.format == Format::Human {
            self.error_line(text);
        }
    }

    /// Tells something if details were asked for.
    pub fn detail(&self, text: &str) {
        if self.is_verbose {
            self.note(text);
        }
    }

    /// A line on standard error. If nobody takes it, there is nobody to tell.
    pub fn error_line(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Prints rows: as a table with `header` on a terminal, else as lines with tabs.
    pub fn table(&self, header: &[&str], rows: &[Vec<String>]) -> Result<(), Failure> {
        if !self.shows_tables() {
            return rows.iter().try_for_each(|row| self.line(&row.join("\t")));
        }
        let mut table = Table::new();
        // Never folded to the terminal's width: a broken address cannot be copied.
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        let is_colored = console::colors_enabled();
        if is_colored {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        for row in rows {
            table.add_row(row);
        }
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        table.lines().try_for_each(|line| self.line(line.trim_end()))
    }

    /// A spinner that says what is going on; invisible where nothing can move.
    pub fn spinner(&self, text: impl Into<String>) -> ProgressBar {
        let bar = self.bar(ProgressBar::new_spinner());
        bar.set_style(style("{spinner:.cyan} {msg}  {elapsed:.dim}"));
        bar.set_message(text.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    /// A bar over so many bytes; invisible where nothing can move.
    pub fn byte_bar(&self, text: impl Into<String>, bytes: u64) -> ProgressBar {
        let bar = self.bar(ProgressBar::new(bytes));
        bar.set_style(style("{spinner:.cyan} {msg}  {wide_bar:.cyan/dim} {binary_bytes} of {binary_total_bytes}"));
        bar.set_message(text.into());
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    }

    fn bar(&self, bar: ProgressBar) -> ProgressBar {
        let target = if self.is_lively() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        bar.set_draw_target(target);
        bar
    }
}

/// A template that is wrong falls back to the library's own look.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn output_failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::OutputClosed,
        _ => failure::internal("cannot write to standard output", &error),
    }
}

/// Text that others wrote, without what could command the terminal.
pub fn clean(text: &str) -> String {
    console::strip_ansi_codes(text).chars().filter(|c| !c.is_control() || *c == '\t').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_others_cannot_command_the_terminal() {
        assert_eq!(clean("\u{1b}[31mred\u{1b}[0m\ttab"), "red\ttab");
        assert_eq!(clean("\u{1b}]0;title\u{7}bell\u{7}\r\u{8}x"), "bellx");
        assert!(!clean("\u{9b}31mx\u{1b}").contains(|c: char| c.is_control()));
    }
}
