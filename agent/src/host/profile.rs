//! What an app's own `.profile.d/*.sh` and `.profile` do before its start command, and how it is told
//! when they go wrong: in the app's log by the shell itself, and from there in the reason of a failure.

use drowse_api::instance::ProcessIdentity;

use super::process;

/// Sources what the app wants set before it starts, then becomes it. `$@` is the command.
///
/// Each file is sourced in a function, so that `set --` in it changes nothing here. One that fails is
/// told and passed over; one that ends the shell is told by the trap; PORT is the platform's to set.
pub(super) const PRELUDE: &str = r#"readonly __drowse_port="${PORT-}"
__drowse_profile() {
[ -r "$1" ] || return 0
__drowse_file=${1#./}
trap 'echo "drowse: $__drowse_file ended the start with status $?" >&2' EXIT
. "$1"
__drowse_status=$?
trap - EXIT
[ "$__drowse_status" = 0 ] || echo "drowse: $__drowse_file ended with status $__drowse_status; the start goes on" >&2
[ "${PORT-}" = "$__drowse_port" ] || { echo "drowse: $__drowse_file set PORT to '${PORT-}'; it is $__drowse_port again" >&2; PORT=$__drowse_port; }
}
for f in ./.profile.d/*.sh; do __drowse_profile "$f"; done
__drowse_profile ./.profile
export PORT
exec "$@""#;

/// Whether the main process of an app still is the shell that sources its profile.
pub(super) fn is_running(app: ProcessIdentity) -> bool {
    let Ok(line) = std::fs::read(format!("/proc/{}/cmdline", app.pid)) else { return false };
    line.split(|byte| *byte == 0).nth(2) == Some(PRELUDE.as_bytes()) && process::is_alive(app)
}

/// The sentence by which the shell told that a profile ended it, among the last lines of a log.
pub(super) fn ended_the_start(log: &[String]) -> Option<String> {
    let told = |line: &&String| line.starts_with("drowse: ") && line.contains(" ended the start with status ");
    log.iter().rev().find(told).and_then(|line| line.strip_prefix("drowse: ")).map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::{Command, Output};

    use super::*;

    /// Runs the prelude of `shell` before a command that shows PORT, its arguments and `SET`.
    fn start(shell: &str, files: &[(&str, &str)]) -> Output {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join(".profile.d")).expect("makes");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("writes");
        }
        let show = r#"echo "$PORT ${SET-} $*""#;
        Command::new(shell)
            .args(["-c", PRELUDE, shell, shell, "-c", show, "it", "a b", "c"])
            .current_dir(folder.path())
            .env("PORT", "8080")
            .output()
            .expect("the shell runs")
    }

    fn told(output: &Output) -> (String, String) {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        (text(&output.stdout), text(&output.stderr))
    }

    #[test]
    fn what_profiles_set_arrives_and_nothing_is_told_of_those_that_do_well() {
        for shell in ["bash", "sh"] {
            let files = [(".profile.d/a.sh", "SET=folder\nset -- x y\n"), (".profile", "export SET=$SET-profile\n")];
            assert_eq!(told(&start(shell, &files)), ("8080 folder-profile a b c".into(), String::new()), "{shell}");
            assert_eq!(told(&start(shell, &[])), ("8080  a b c".into(), String::new()), "{shell}");
        }
    }

    #[test]
    fn a_profile_that_fails_is_told_and_the_start_goes_on() {
        for shell in ["bash", "sh"] {
            let (out, err) = told(&start(shell, &[(".profile", "export SET=yes\nfalse\n")]));
            assert_eq!(out, "8080 yes a b c", "{shell}");
            assert_eq!(err, "drowse: .profile ended with status 1; the start goes on", "{shell}");
        }
    }

    #[test]
    fn a_profile_that_sets_port_is_overruled_and_told() {
        for (text, shown) in [("export PORT=3000\n", "3000"), ("unset PORT\n", "")] {
            for shell in ["bash", "sh"] {
                let (out, err) = told(&start(shell, &[(".profile.d/port.sh", text)]));
                assert_eq!(out, "8080  a b c", "{shell}");
                assert_eq!(err, format!("drowse: .profile.d/port.sh set PORT to '{shown}'; it is 8080 again"));
            }
        }
    }

    #[test]
    fn a_profile_that_exits_ends_the_start_and_is_named() {
        for text in ["exit 3\n", "set -e\n( exit 3 )\necho not here\n"] {
            for shell in ["bash", "sh"] {
                let output = start(shell, &[(".profile", text)]);
                let (out, err) = told(&output);
                assert_eq!((output.status.code(), out.as_str()), (Some(3), ""), "{shell}");
                // bash may add a remark of its own on functions that are left by `set -e`.
                let log: Vec<String> = err.lines().map(ToOwned::to_owned).collect();
                assert_eq!(ended_the_start(&log).as_deref(), Some(".profile ended the start with status 3"));
            }
        }
    }

    #[test]
    fn a_shell_in_a_profile_is_told_apart_from_the_app() {
        let mut child = Command::new("bash")
            .args(["-c", &format!("sleep 60; {PRELUDE}"), "bash", "true"])
            .spawn()
            .expect("the shell runs");
        let pid = i32::try_from(child.id()).expect("a pid");
        let start_time = drowse_launcher::process::start_time(pid).expect("it runs");
        assert!(!is_running(ProcessIdentity { pid, start_time }), "another script");
        child.kill().expect("killed");
        child.wait().expect("reaped");

        let folder = tempfile::tempdir().expect("folder");
        // Says that it began, and waits for the end of its input.
        fs::write(folder.path().join(".profile"), "echo began; read line\n").expect("writes");
        let mut child = Command::new("bash")
            .args(["-c", PRELUDE, "bash", "true"])
            .current_dir(folder.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("the shell runs");
        let mut began = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().expect("piped"), &mut began).expect("it began");
        let pid = i32::try_from(child.id()).expect("a pid");
        let identity = ProcessIdentity { pid, start_time: drowse_launcher::process::start_time(pid).expect("it runs") };
        assert!(is_running(identity));
        drop(child.stdin.take());
        child.wait().expect("ended");
        assert!(!is_running(identity));
    }
}
