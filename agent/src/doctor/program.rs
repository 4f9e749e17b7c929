//! The programs that the agent runs: its own, and CRIU.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use drowse_api::agent::Check;

use super::{failure, ok, warning};
use crate::config::Config;

/// How long a program may take that only tells about itself.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) fn siblings(config: &Config) -> Check {
    let wanted = ["drowse-launcher", "drowse-init", "drowse-sites", "libdrowse_nsenter.so"];
    let missing: Vec<&str> = wanted.into_iter().filter(|name| !config.bin_dir.join(name).is_file()).collect();
    let folder = config.bin_dir.display();
    if missing.is_empty() {
        return ok("programs", format!("all are in {folder}"));
    }
    failure(
        "programs",
        format!("{} not in {folder}", missing.join(", ")),
        "install Drowse again, or set bin_dir to the folder that scripts/build filled",
    )
}

/// A missing CRIU costs sleep on disk and nothing else. Whether it can really dump and restore is
/// tried when it is set up; here it says what the kernel lacks.
pub(super) fn criu(config: &Config) -> Check {
    const ADVICE: &str = "install criu 4.2 or newer, or set criu in the agent's configuration to one that works here";
    let program = config.criu.as_deref().unwrap_or(Path::new("criu"));
    let shown = program.display();
    let without = |found: String| warning("criu", format!("{found}: apps will not sleep on disk"), ADVICE);
    let version = match run(program.as_os_str(), &["--version"]) {
        Ok(output) if output.status.success() => first_line(&output.stdout),
        Ok(output) => return without(format!("{shown} cannot be run: {}", first_line(&output.stderr))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return without(format!("{shown} is not installed")),
        Err(error) => return without(format!("{shown} cannot be run: {error}")),
    };
    // Without CAP_SYS_RESOURCE the full check refuses what a dump of an app does not need.
    match run(program.as_os_str(), &["check", "--unprivileged"]) {
        Ok(output) if output.status.success() => ok("criu", format!("{shown}, {version}")),
        Ok(output) => without(format!("{shown}, {version}, lacks something: {}", last_line(&output))),
        Err(error) => without(format!("{shown}, {version}, cannot examine the kernel: {error}")),
    }
}

/// Runs a program to its end, or kills it when it takes too long.
fn run(program: &OsStr, arguments: &[&str]) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("not done in {PATIENCE:?}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output()
}

fn first_line(text: &[u8]) -> String {
    String::from_utf8_lossy(text).lines().next().unwrap_or_default().trim().to_owned()
}

fn last_line(output: &Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no reason given").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_criu(path: &str) -> Check {
        let config = Config::parse(&format!("criu = {path:?}"), Path::new("agent.toml")).expect("a configuration");
        criu(&config)
    }

    #[test]
    fn a_missing_or_broken_criu_is_a_warning_that_names_the_loss() {
        for path in ["/nowhere/criu", "/bin/false", "/etc/passwd"] {
            let check = with_criu(path);
            assert_eq!(check.verdict, drowse_api::agent::Verdict::Warning);
            assert!(check.found.contains(path) && check.found.contains("will not sleep on disk"), "{}", check.found);
        }
    }

    #[test]
    fn a_criu_that_answers_is_told_with_its_version() {
        let check = with_criu("/bin/echo");
        assert_eq!(check.verdict, drowse_api::agent::Verdict::Ok, "{}", check.found);
    }
}
