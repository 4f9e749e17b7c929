//! Every command and option, with its documentation: the only place that knows the command line's
//! shape.

mod sleep;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use drowse_api::deployment::AppType;
use drowse_api::reference::{ReferenceError, is_registry};
use drowse_api::{AppName, DeploymentId, ImageReference, InstanceId, TokenId};

pub use sleep::{Explain, GlanceBy, Idle, IdleTime, Sleep, SleepDepth, WakeBy};

use crate::exit_codes;
use crate::terminal::{Color, Format};

const ENVIRONMENT: &str = "\
Environment:
  DROWSE_SOCKET               the controller's Unix socket, as --socket
  DROWSE_URL, DROWSE_TOKEN    a controller by HTTP, before a saved login
  NO_COLOR                    no colours

Without any of these the saved login is used (drowse login), else the local controller's socket.
`drowse help exit-codes` lists what the exit codes mean.";

/// Run more apps than memory holds: deploy folders, see and control what runs.
#[derive(Debug, Parser)]
#[command(name = "drowse", version, after_help = ENVIRONMENT, disable_help_subcommand = false)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,

    /// The controller's Unix socket
    #[arg(long, global = true, value_name = "PATH", env = "DROWSE_SOCKET", hide_env = true)]
    pub socket: Option<PathBuf>,

    /// How results are printed
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Human, value_name = "FORMAT", hide_possible_values = true, help = "How results are printed: human or json")]
    pub output: Format,

    /// When to use colours
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN", hide_possible_values = true, help = "When to use colours: auto, always or never")]
    pub color: Color,

    /// Tell more
    #[arg(long, short, global = true)]
    pub verbose: bool,
}

/// One command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deploy a folder: pack, upload, build, start, switch
    Deploy(Deploy),
    /// List your apps
    #[command(visible_alias = "list")]
    Ls,
    /// Show one app: its state, deployments, instances and addresses
    Info(App),
    /// Print what an app wrote to its standard output and error
    Logs(Logs),
    /// Run a command beside a running instance, in its sandbox: a shell if none is named
    Exec(Exec),
    /// Run a command in a sandbox of its own, with the app's image, environment and limits
    Run(Run),
    /// Copy files and folders out of a running instance, or into it
    Cp(Copy),
    /// Show what apps use of processors and memory, live
    Top(Top),
    /// Print what happened and why
    Events(Events),
    /// Print an app's address, and open it in a browser if there is one
    Open(Open),
    /// Start new instances, move the traffic, stop the old ones
    Restart(Change),
    /// Stop an app; it stays stopped until it is started or deployed
    Stop(Change),
    /// Start a stopped or failed app
    Start(Change),
    /// List the releases of an app: what served, what serves, and why
    Releases(App),
    /// Go back to an earlier release: its version and its environment serve again
    Rollback(Rollback),
    /// Make a deployment that is kept serve, with the environment of now
    Promote(Promote),
    /// Put an app to sleep until somebody asks for it
    Sleep(Sleep),
    /// Wake a sleeping app
    Wake(App),
    /// Let an app never sleep
    Pin(App),
    /// Let a pinned app sleep again as it is set
    Unpin(App),
    /// Show and set when an idle app sleeps
    Idle(Idle),
    /// Say why an app is awake or asleep, and what woke it
    Explain(Explain),
    /// Remove an app, its deployments and its files
    #[command(visible_alias = "remove")]
    Rm(Remove),
    /// Show and change an app's environment variables
    #[command(subcommand)]
    Env(Env),
    /// Set, remove and list an app's secrets: values that nobody can read again
    #[command(subcommand)]
    Secret(Secret),
    /// Save the address of a controller and a token
    Login(Login),
    /// Forget the saved login
    Logout,
    /// Make, list and remove access tokens
    #[command(subcommand)]
    Token(Token),
    /// Keep, list and forget logins for registries of images
    #[command(subcommand)]
    Registry(Registry),
    /// Examine the hosts: what works, what does not, and what to do
    Doctor,
    /// Print shell completions
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Explain the exit codes
    #[command(name = "exit-codes", long_about = format!("What the exit codes mean.\n\n{}", exit_codes::table()))]
    ExitCodes,
}

/// `deploy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What the folder holds decides its type: Dockerfile is docker; package.json is npm; requirements.txt or
*.py is python; index.html is static. Files named by .gitignore and .drowseignore stay behind, and so do .git,
node_modules, virtual environments and __pycache__ (-v lists them). What drowse.toml in the folder
pins (type, start, release, check, env) holds unless an option says otherwise. The address is
printed on standard output, all else on standard error.")]
pub struct Deploy {
    /// The folder
    #[arg(default_value = ".", value_name = "DIR")]
    pub folder: PathBuf,
    /// The app's name [default: made from the folder's name]
    #[arg(long, short, value_name = "APP")]
    pub name: Option<AppName>,
    /// The app's type [default: by what the folder holds]
    #[arg(long = "type", short = 't', value_enum, value_name = "TYPE")]
    pub kind: Option<Kind>,
    /// Deploy an OCI bundle instead: a folder with config.json and rootfs
    #[arg(long, value_name = "DIR", conflicts_with_all = ["folder", "kind", "start", "release"])]
    pub bundle: Option<PathBuf>,
    /// Deploy an image of a registry instead, as HOST/NAME:TAG
    #[arg(long, value_name = "IMAGE", value_parser = image, conflicts_with_all = ["folder", "kind", "bundle"])]
    pub image: Option<ImageReference>,
    /// The start command [default: by drowse.toml, the Procfile or the code]
    #[arg(long, value_name = "COMMAND")]
    pub start: Option<String>,
    /// A command that must succeed once before it serves [default: by drowse.toml or the Procfile]
    #[arg(long, value_name = "COMMAND")]
    pub release: Option<String>,
    /// A path that must answer 2xx or 3xx before it serves
    #[arg(long, value_name = "PATH")]
    pub check_path: Option<String>,
    /// How many seconds it may take to be ready
    #[arg(long, value_name = "SECONDS")]
    pub check_timeout: Option<u32>,
    /// Do not wait until it serves
    #[arg(long, short)]
    pub detach: bool,
}

fn image(text: &str) -> Result<ImageReference, ReferenceError> {
    ImageReference::parse(text)
}

/// A type that can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Files, served as they are
    Static,
    /// package.json: npm ci, npm run build, npm start
    Npm,
    /// requirements.txt into a virtual environment
    Python,
    /// A Dockerfile, built by buildah
    Docker,
}

impl From<Kind> for AppType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Static => Self::Static,
            Kind::Npm => Self::Npm,
            Kind::Python => Self::Python,
            Kind::Docker => Self::Docker,
        }
    }
}

/// An app that is named, or is the current folder's.
#[derive(Debug, clap::Args)]
pub struct App {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
}

/// `logs`.
#[derive(Debug, clap::Args)]
pub struct Logs {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Go on with what is written from now on
    #[arg(long, short)]
    pub follow: bool,
    /// What the newest deployment's build wrote instead, all of it
    #[arg(long, conflicts_with_all = ["follow", "tail"])]
    pub build: bool,
    /// How many of the last lines
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    pub tail: u32,
}

/// Whether a command gets a terminal.
#[derive(Debug, clap::Args)]
pub struct Tty {
    /// On a terminal of its own [default: if standard input and output are one]
    #[arg(long, short)]
    pub tty: bool,
    /// Without a terminal: standard output and error stay apart
    #[arg(long, short = 'T', conflicts_with = "tty")]
    pub no_tty: bool,
}

/// `exec`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The command runs as the app's user in its environment, below its limits, and ends with the app, with this
program, or by itself; what it leaves behind is ended with it. Ctrl-C goes to the command. It ends as the
command does: with its code, or with 128 and the number of the signal that ended it.")]
pub struct Exec {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Which instance, where there are several
    #[arg(long, short, value_name = "ID")]
    pub instance: Option<InstanceId>,
    #[command(flatten)]
    pub tty: Tty,
    /// The command with its arguments [default: the image's shell]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
It sees what was deployed, and nothing that running instances wrote; what it writes itself is removed with it.
Its memory counts as its user's own, beside that of the instances. The app may be stopped meanwhile.")]
pub struct Run {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    #[command(flatten)]
    pub tty: Tty,
    /// The command with its arguments [default: the image's shell]
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<String>,
}

/// `cp`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One end is here, the other is APP:PATH, seen from the app's folder. Into a folder that is there it is copied
under its own name, else under the name that is given. Modes and times are kept, owners are not. Links are
copied as links, and from an app only if they lead to what is copied with them.")]
pub struct Copy {
    /// What is copied: APP:PATH, or a file or folder here
    #[arg(value_name = "FROM")]
    pub from: std::ffi::OsString,
    /// Where to
    #[arg(value_name = "TO")]
    pub to: std::ffi::OsString,
    /// Which instance, where there are several
    #[arg(long, short, value_name = "ID")]
    pub instance: Option<InstanceId>,
}

/// `top`.
#[derive(Debug, clap::Args)]
pub struct Top {
    /// Only of this app
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Show it once [default: if standard output is no terminal, or with --output json]
    #[arg(long)]
    pub once: bool,
}

/// `events`.
#[derive(Debug, clap::Args)]
pub struct Events {
    /// Only of this app
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Go on with what happens from now on
    #[arg(long, short)]
    pub follow: bool,
    /// How many of the last events
    #[arg(long, short = 'n', value_name = "N", default_value_t = 50)]
    pub tail: u32,
}

/// `open`.
#[derive(Debug, clap::Args)]
pub struct Open {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Only print
    #[arg(long)]
    pub no_browser: bool,
}

/// `restart`, `stop`, `start`.
#[derive(Debug, clap::Args)]
pub struct Change {
    /// The app [default: made from the current folder's name]
    #[arg(value_name = "APP")]
    pub app: Option<AppName>,
    /// Do not wait until it is done
    #[arg(long, short)]
    pub detach: bool,
}

/// `rollback`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Version and environment become those of that release; secrets stay as they are now. Nothing is
built, the release command is not run, and the traffic moves when the new instance is ready.")]
pub struct Rollback {
    /// The app, if it is not the current folder's, and the release's number [default: the last different one]
    #[arg(value_name = "[APP] N", num_args = 0..=2)]
    pub words: Vec<String>,
    /// Do not wait until it is done
    #[arg(long, short)]
    pub detach: bool,
}

/// `promote`.
#[derive(Debug, clap::Args)]
pub struct Promote {
    /// The deployment's id, as `drowse info` and `drowse releases` show it
    #[arg(value_name = "DEPLOYMENT")]
    pub deployment: DeploymentId,
    /// Do not wait until it is done
    #[arg(long, short)]
    pub detach: bool,
}

/// `rm`.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// The app
    #[arg(value_name = "APP")]
    pub app: AppName,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
}

/// `env`.
#[derive(Debug, Subcommand)]
pub enum Env {
    /// Set variables, and restart the app without a gap
    Set {
        /// The app, then NAME=VALUE …; without APP the current folder's
        #[arg(value_name = "[APP] NAME=VALUE", required = true)]
        words: Vec<String>,
        /// Do not wait for the restart
        #[arg(long, short)]
        detach: bool,
    },
    /// Remove variables, and restart the app without a gap
    Unset {
        /// The app
        #[arg(value_name = "APP")]
        app: AppName,
        /// The variables' names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Do not wait for the restart
        #[arg(long, short)]
        detach: bool,
    },
    /// List the variables with their values
    Ls(App),
}

/// `secret`.
#[derive(Debug, Subcommand)]
pub enum Secret {
    /// Set a secret, and restart the app without a gap
    #[command(after_help = "\
The value is read from standard input, from a file, or asked for; one line end at its end is no part
of it. The app gets it as an environment variable when it runs; its build does not.")]
    Set {
        /// The app, if it is not the current folder's, and the secret's name
        #[arg(value_name = "[APP] NAME", required = true, num_args = 1..=2)]
        words: Vec<String>,
        /// Read the value from this file
        #[arg(long, value_name = "FILE", conflicts_with = "value")]
        file: Option<PathBuf>,
        /// The value itself, which other users of this machine can see while the command runs
        #[arg(long, value_name = "VALUE")]
        value: Option<String>,
        /// Do not wait for the restart
        #[arg(long, short)]
        detach: bool,
    },
    /// Remove secrets, and restart the app without a gap
    Unset {
        /// The app
        #[arg(value_name = "APP")]
        app: AppName,
        /// The secrets' names
        #[arg(value_name = "NAME", required = true)]
        names: Vec<String>,
        /// Do not wait for the restart
        #[arg(long, short)]
        detach: bool,
    },
    /// List the secrets by name
    Ls(App),
}

/// `login`.
#[derive(Debug, clap::Args)]
pub struct Login {
    /// The controller's address, such as http://api.drowse.localhost:8080
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// Read the token from standard input instead of asking for it
    #[arg(long)]
    pub token_stdin: bool,
}

/// `token`.
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Make a token and print its secret, this once
    Create {
        /// What it is for
        #[arg(value_name = "LABEL")]
        label: String,
        /// How long it is valid, such as 30d or 12h [default: for ever]
        #[arg(long, value_name = "TIME")]
        expires: Option<jiff::Span>,
    },
    /// List the tokens
    Ls,
    /// Remove a token: it is refused from now on
    Rm {
        /// Its id
        #[arg(value_name = "ID")]
        id: TokenId,
    },
}

/// `registry`.
#[derive(Debug, Subcommand)]
pub enum Registry {
    /// Keep a login, which your deploys use; the password is read from standard input
    Login {
        /// The registry, as references to its images begin: HOST or HOST:PORT
        #[arg(value_name = "HOST", value_parser = registry)]
        registry: String,
        /// Who logs in
        #[arg(long, short, value_name = "NAME")]
        username: String,
    },
    /// List the logins, without their passwords
    Ls,
    /// Forget a login
    Logout {
        /// The registry
        #[arg(value_name = "HOST", value_parser = registry)]
        registry: String,
    },
}

fn registry(text: &str) -> Result<String, String> {
    if is_registry(text) { Ok(text.to_ascii_lowercase()) } else { Err("write HOST or HOST:PORT".to_owned()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_bundle_excludes_a_folder_and_a_type() {
        assert!(Args::try_parse_from(["drowse", "deploy", "--bundle", "b"]).is_ok());
        assert!(Args::try_parse_from(["drowse", "deploy", "dir", "--bundle", "b"]).is_err());
        assert!(Args::try_parse_from(["drowse", "deploy", "--bundle", "b", "--type", "npm"]).is_err());
    }

    #[test]
    fn a_command_stands_behind_two_hyphens() {
        let parsed = Args::try_parse_from(["drowse", "exec", "shop", "-i", "abc", "--", "ls", "-l"]).expect("parsed");
        let Command::Exec(exec) = parsed.command else { panic!("{parsed:?}") };
        assert_eq!(exec.command, ["ls", "-l"]);
        assert!(Args::try_parse_from(["drowse", "exec", "shop", "ls"]).is_err());
        assert!(Args::try_parse_from(["drowse", "run", "-t", "-T", "shop"]).is_err());
    }

    #[test]
    fn a_bad_app_name_is_refused_with_the_rule() {
        let error = Args::try_parse_from(["drowse", "info", "My_Shop"]).expect_err("refused").to_string();
        assert!(error.contains("use only a-z, 0-9 and hyphen"), "{error}");
    }
}
