//! `drowse-agent`: the daemon of one host, and the few commands that need it not to run.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};
use drowse_agent::config::Config;
use drowse_agent::{daemon, doctor, sweep};
use drowse_api::agent::Verdict;
use drowse_rootfs::{ImageStore, stacks};
use tracing_subscriber::EnvFilter;

#[cfg(all(feature = "failpoints", not(debug_assertions)))]
compile_error!("the feature failpoints is for tests: a release must not die where a variable says");

/// How long the end may take.
const SHUTDOWN: Duration = Duration::from_secs(3);

/// Runs the instances and builds of one host.
#[derive(Debug, Parser)]
#[command(name = "drowse-agent", version)]
struct Arguments {
    /// The configuration.
    #[arg(long, global = true, default_value = "/etc/drowse/agent.toml", value_name = "FILE")]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Base images.
    Stack {
        #[command(subcommand)]
        command: StackCommand,
    },
    /// Examines the host and says what to do.
    Doctor,
    /// Asks every app to end, and waits for up to 30 s: for a host that goes down, when no agent runs.
    EndApps,
    /// Removes every instance, link, table and control group of this configuration; images stay.
    Clean,
}

#[derive(Debug, Subcommand)]
enum StackCommand {
    /// Builds one from Debian packages, or all of them.
    Build {
        /// Its name, or `all`.
        name: String,
    },
    /// Takes one from an OCI image layout instead: a folder, or a tar archive of one.
    Import {
        /// Its name: the stack that it takes the place of.
        name: String,
        /// The layout.
        path: PathBuf,
        /// Which image of the layout, where it has several.
        #[arg(long, value_name = "NAME")]
        reference: Option<String>,
    },
    /// Lists those that are there.
    Ls,
}

fn main() -> ExitCode {
    // Never in a release: whoever sets a variable must not decide where an agent dies.
    let _faults = (cfg!(debug_assertions) && fail::has_failpoints()).then(|| {
        if std::env::var_os("FAILPOINTS").is_some() {
            // A fault at such a point is the death of the daemon, not of one of its tasks.
            std::panic::set_hook(Box::new(|fault| {
                say(&format!("drowse-agent: {fault}"));
                std::process::abort();
            }));
        }
        fail::FailScenario::setup()
    });
    let filter = EnvFilter::try_from_env("DROWSE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Colours are for eyes: a log file or a journal has none.
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    log.with_ansi(colours).with_target(false).init();
    match run(&Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("drowse-agent: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::read(&arguments.config)?;
    match &arguments.command {
        None => {
            // Before the runtime: the launcher must be the child of a process without threads.
            let started = daemon::before_threads(&config)?;
            let runtime = runtime()?;
            let ended = runtime.block_on(daemon::run(config, started));
            // Work that blocks in the kernel is not waited for: the next agent takes it up.
            runtime.shutdown_timeout(SHUTDOWN);
            ended?;
        }
        Some(Command::Stack { command: StackCommand::Build { name } }) => build_stacks(&config, name)?,
        Some(Command::Stack { command: StackCommand::Import { name, path, reference } }) => {
            let image = stacks::import(name, path, reference.as_deref(), &open_store(&config)?)
                .with_context(|| format!("the stack {name} could not be taken from {}", path.display()))?;
            println(&format!("{name}\t{image}"));
        }
        Some(Command::Stack { command: StackCommand::Ls }) => {
            for stack in stacks::list(&open_store(&config)?)? {
                println(&format!("{}\t{}\t{}", stack.name, stack.size, stack.image));
            }
        }
        Some(Command::Doctor) => return Ok(show_checks(&config)),
        Some(Command::EndApps) => sweep::end_apps(&config, Duration::from_secs(30))?,
        Some(Command::Clean) => runtime()?.block_on(sweep::everything(&config))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the event loop")
}

fn open_store(config: &Config) -> anyhow::Result<ImageStore> {
    Ok(ImageStore::open(&config.data_dir.join("images"))?)
}

fn build_stacks(config: &Config, name: &str) -> anyhow::Result<()> {
    let names = if name == "all" { stacks::names().collect() } else { vec![name] };
    let store = open_store(config)?;
    for name in names {
        let image = stacks::build(&stacks::load(name)?, &store, &say)
            .with_context(|| format!("the stack {name} could not be built"))?;
        println(&format!("{name}\t{image}"));
    }
    Ok(())
}

fn show_checks(config: &Config) -> ExitCode {
    let checks = doctor::examine(config);
    for check in &checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Failure => "FAILURE",
        };
        println(&format!("{verdict}  {}: {}", check.name, check.found));
        if let Some(advice) = &check.advice {
            println(&format!("         {advice}"));
        }
    }
    let failed = checks.iter().any(|check| check.verdict == Verdict::Failure);
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// To standard output; that nobody reads it is no fault.
fn println(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// To standard error.
fn say(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "{text}");
}
