//! How a deploy looks while it goes on: moving on a terminal, plain lines elsewhere, or JSON.

use std::time::Instant;

use drowse_api::deployment::DeploymentState;
use drowse_api::instance::LogLine;
use drowse_api::platform::{DeploymentUpdate, DeploymentView};
use indicatif::ProgressBar;

use crate::failure::Failure;
use crate::show;
use crate::terminal::{Format, Terminal, clean};

/// What was shown last.
pub struct View<'a> {
    terminal: &'a Terminal,
    bar: ProgressBar,
    current: Option<Current>,
    showed_log: bool,
}

struct Current {
    state: DeploymentState,
    reason: String,
    since: Instant,
}

impl<'a> View<'a> {
    /// Shows nothing yet.
    pub fn new(terminal: &'a Terminal) -> Self {
        Self { terminal, bar: terminal.spinner(""), current: None, showed_log: false }
    }

    /// The deployment is as it is now; shown where its state or the reason for it changed.
    pub fn state(&mut self, deployment: &DeploymentView) -> Result<(), Failure> {
        let (state, reason) = (deployment.state.state, &deployment.state.reason);
        let is_shown = self.current.as_ref().is_some_and(|now| now.state == state && now.reason == *reason);
        if is_shown {
            return Ok(());
        }
        if self.terminal.format() == Format::Json {
            self.terminal.json_line(&DeploymentUpdate::State { deployment: deployment.clone() })?;
        }
        let is_new_state = self.current.as_ref().is_none_or(|now| now.state != state);
        let reason_text = if reason.is_empty() { String::new() } else { format!("  {}", clean(reason)) };
        if self.terminal.is_lively() {
            if is_new_state && let Some(before) = &self.current {
                let took = show::span(before.since.elapsed());
                let text = format!("{}  {took}", show::colored_for_stderr(before.state));
                self.bar.suspend(|| self.terminal.note(&text));
            }
            self.bar.set_message(format!("{}{reason_text}", show::colored_for_stderr(state)));
            if state.ends_a_deploy() {
                let text = format!("{}{reason_text}", show::colored_for_stderr(state));
                self.bar.suspend(|| self.terminal.note(&text));
            }
        } else {
            self.terminal.note(&format!("{state}{reason_text}"));
        }
        let since = match &self.current {
            Some(now) if !is_new_state => now.since,
            _ => Instant::now(),
        };
        self.current = Some(Current { state, reason: reason.clone(), since });
        Ok(())
    }

    /// The build wrote a line.
    pub fn log(&mut self, line: &LogLine) -> Result<(), Failure> {
        if self.terminal.format() == Format::Json {
            return self.terminal.json_line(&DeploymentUpdate::Log { line: line.clone() });
        }
        self.showed_log = true;
        let mark = console::style("|").for_stderr().dim();
        let text = format!("  {mark} {}", clean(&line.text));
        self.bar.suspend(|| self.terminal.note(&text));
        Ok(())
    }

    /// Whether a person was shown what the build wrote.
    pub fn showed_log(&self) -> bool {
        self.showed_log
    }

    /// Takes what moves off the screen.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}
