//! What an image says about how it is run: files in its layers, users, and the command.
//!
//! Layers are hostile: every path is resolved by the kernel beneath the layer's own folder.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use drowse_api::image::{APP_ID, LABEL_START, LABEL_TYPE};
use drowse_rootfs::IdRange;
use oci_spec::image::ImageConfiguration;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::process::Signal;

use super::profile;

const MAX_TEXT: u64 = 1 << 20;

/// As the prelude; who asked for the command is told in a sentence if it is not there.
const PRELUDE_OF_COMMAND: &str = r#"for f in ./.profile.d/*.sh; do [ -r "$f" ] && . "$f"; done; [ -r ./.profile ] && . ./.profile
command -v -- "$1" >/dev/null 2>&1 || {
  case "$1" in */*) [ -e "$1" ] && { echo "$1 cannot be executed" >&2; exit 126; };; esac
  echo "there is no command $1 in the image" >&2; exit 127; }
exec "$@""#;

/// The file that the image shows at `path`, if it is a regular one. `layers`: the bottom one first.
#[must_use]
pub fn open_in(layers: &[PathBuf], path: &str) -> Option<File> {
    layers.iter().rev().find_map(|layer| match open_beneath(layer, path) {
        // Deleted there, whatever the layers below have.
        None if is_deleted(layer, path) => Some(None),
        found => found.map(Some),
    })?
}

/// Whether a layer says that there is nothing at `path`: overlayfs's whiteout, a device 0:0.
fn is_deleted(layer: &Path, path: &str) -> bool {
    let root = rustix::fs::openat(CWD, layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    root.and_then(|root| rustix::fs::openat2(root, path.trim_start_matches('/'), flags, Mode::empty(), resolve))
        .and_then(rustix::fs::fstat)
        .is_ok_and(|found| {
            rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::CharacterDevice
                && found.st_rdev == rustix::fs::makedev(0, 0)
        })
}

fn open_beneath(layer: &Path, path: &str) -> Option<File> {
    let root =
        rustix::fs::openat(CWD, layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(root, path.trim_start_matches('/'), flags, Mode::empty(), resolve).ok()?;
    let file = File::from(file);
    file.metadata().ok()?.is_file().then_some(file)
}

/// A text file of the image, up to 1 MiB of it.
#[must_use]
pub fn read_in(layers: &[PathBuf], path: &str) -> Option<String> {
    let mut bytes = Vec::new();
    open_in(layers, path)?.take(MAX_TEXT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Whom the image runs as, in its own ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The groups that the user is in beside that one.
    pub groups: Vec<u32>,
    /// The home folder, if the image knows one.
    pub home: Option<String>,
}

/// `user`, `uid`, `user:group` or `uid:gid` of an image's configuration, looked up in its passwd.
///
/// # Errors
/// If a name is not known to the image.
pub fn resolve_user(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, group_name) = wanted.split_once(':').map_or((wanted, None), |(user, group)| (user, Some(group)));
    let user = if user.is_empty() { "0" } else { user };
    let lines = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 6);
    let found = lines().find(|fields| fields[0] == user || fields[2] == user);
    let uid = match &found {
        Some(fields) => fields[2].parse().ok(),
        None => user.parse().ok(),
    };
    let uid = uid.ok_or_else(|| format!("the image runs as user {user:?}, whom its /etc/passwd does not know"))?;
    let known = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|fields| fields.len() >= 3);
    let gid = match group_name {
        Some(name) => name
            .parse()
            .ok()
            .or_else(|| known().find(|fields| fields[0] == name).and_then(|found| found[2].parse().ok())),
        None => Some(found.as_ref().and_then(|fields| fields[3].parse().ok()).unwrap_or(0)),
    };
    let gid = gid.ok_or_else(|| format!("the image runs as {wanted:?}, whose group its /etc/group does not know"))?;
    // As the image specification has it: of a user without a group named, all that the image knows.
    let is_member = |fields: &Vec<&str>| {
        found
            .as_ref()
            .is_some_and(|found| fields.get(3).is_some_and(|list| list.split(',').any(|name| name == found[0])))
    };
    let groups: Vec<u32> = match group_name {
        Some(_) => Vec::new(),
        None => known().filter(is_member).filter_map(|fields| fields[2].parse().ok()).filter(|id| *id != gid).collect(),
    };
    Ok(User { uid, gid, groups, home: found.map(|fields| fields[5].to_owned()) })
}

/// passwd or group with every id as the host has it, so that programs inside find their names.
#[must_use]
pub fn with_host_ids(text: &str, ids: IdRange, fields_with_ids: &[usize]) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.lines() {
        let mut fields: Vec<String> = line.split(':').map(ToOwned::to_owned).collect();
        for at in fields_with_ids {
            let host = fields.get(*at).and_then(|id| id.parse().ok()).and_then(|id| ids.to_host(id));
            if let (Some(field), Some(host)) = (fields.get_mut(*at), host) {
                *field = host.to_string();
            }
        }
        out.push_str(&fields.join(":"));
        out.push('\n');
    }
    out
}

/// What is run: the image's label, or its entrypoint and command, behind the app's own profile.
///
/// # Errors
/// If the image names nothing to run.
pub fn command(config: &ImageConfiguration, layers: &[PathBuf]) -> Result<Vec<String>, String> {
    let start = config.labels_of_config().and_then(|labels| labels.get(LABEL_START)).cloned();
    let shell = shell(layers);
    let command = match (start, shell) {
        (Some(line), Some(shell)) => vec![shell.to_owned(), "-c".to_owned(), line],
        (Some(line), None) => line.split_ascii_whitespace().map(ToOwned::to_owned).collect(),
        (None, _) => {
            let config = config.config().as_ref();
            let entrypoint = config.and_then(|config| config.entrypoint().clone()).unwrap_or_default();
            let arguments = config.and_then(|config| config.cmd().clone()).unwrap_or_default();
            entrypoint.into_iter().chain(arguments).collect()
        }
    };
    if command.is_empty() {
        return Err("the image names no command to run".to_owned());
    }
    Ok(match shell {
        Some(shell) => behind_the_profile(shell, command),
        None => command,
    })
}

/// A line for a shell as a command of the image, behind the app's own profile; none without a shell.
#[must_use]
pub fn line(line: &str, layers: &[PathBuf]) -> Option<Vec<String>> {
    let shell = shell(layers)?;
    Some(behind_the_profile(shell, [shell, "-c", line].map(ToOwned::to_owned).to_vec()))
}

fn behind_the_profile(shell: &str, command: Vec<String>) -> Vec<String> {
    [shell, "-c", profile::PRELUDE, shell].map(ToOwned::to_owned).into_iter().chain(command).collect()
}

fn shell(layers: &[PathBuf]) -> Option<&'static str> {
    ["/bin/bash", "/usr/bin/bash", "/bin/sh"].into_iter().find(|path| has_program(layers, path))
}

/// What is run for a command that somebody asked for beside the app: behind the app's profile, as the
/// app is; the shell itself if no words are given. `as_it_is`: without a shell before it.
///
/// # Errors
/// If there are no words and no shell.
pub fn command_beside(words: &[String], layers: &[PathBuf], as_it_is: bool) -> Result<Vec<String>, String> {
    let shell = shell(layers);
    let words = match (words, shell) {
        ([], Some(shell)) => vec![shell.to_owned()],
        ([], None) => return Err("the image has no shell: name a command".to_owned()),
        (words, _) => words.to_vec(),
    };
    Ok(match shell {
        Some(shell) if !as_it_is => {
            [shell, "-c", PRELUDE_OF_COMMAND, shell].map(ToOwned::to_owned).into_iter().chain(words).collect()
        }
        _ => words,
    })
}

/// Whether a layer has something at `path`. `/bin` may be a link in a layer below.
fn has_program(layers: &[PathBuf], path: &str) -> bool {
    let usr = format!("/usr{path}");
    open_in(layers, path).is_some() || (!path.starts_with("/usr") && open_in(layers, &usr).is_some())
}

/// The signal that an image names, as `SIGQUIT`, `QUIT` or `3`; none if it names none, or no signal.
#[must_use]
pub fn stop_signal(named: Option<&str>) -> Option<Signal> {
    const NAMES: [(&str, Signal); 31] = [
        ("HUP", Signal::HUP),
        ("INT", Signal::INT),
        ("QUIT", Signal::QUIT),
        ("ILL", Signal::ILL),
        ("TRAP", Signal::TRAP),
        ("ABRT", Signal::ABORT),
        ("BUS", Signal::BUS),
        ("FPE", Signal::FPE),
        ("KILL", Signal::KILL),
        ("USR1", Signal::USR1),
        ("SEGV", Signal::SEGV),
        ("USR2", Signal::USR2),
        ("PIPE", Signal::PIPE),
        ("ALRM", Signal::ALARM),
        ("TERM", Signal::TERM),
        ("STKFLT", Signal::STKFLT),
        ("CHLD", Signal::CHILD),
        ("CONT", Signal::CONT),
        ("STOP", Signal::STOP),
        ("TSTP", Signal::TSTP),
        ("TTIN", Signal::TTIN),
        ("TTOU", Signal::TTOU),
        ("URG", Signal::URG),
        ("XCPU", Signal::XCPU),
        ("XFSZ", Signal::XFSZ),
        ("VTALRM", Signal::VTALARM),
        ("PROF", Signal::PROF),
        ("WINCH", Signal::WINCH),
        ("IO", Signal::IO),
        ("PWR", Signal::POWER),
        ("SYS", Signal::SYS),
    ];
    let named = named?.trim().to_ascii_uppercase();
    let name = named.strip_prefix("SIG").unwrap_or(&named);
    let is_named = |(known, signal): &&(&str, Signal)| *known == name || name == signal.as_raw().to_string();
    NAMES.iter().find(is_named).map(|(_, signal)| *signal)
}

/// Whom an image runs as if it does not say: the app's own user in images of ours.
#[must_use]
pub fn wanted_user(config: &ImageConfiguration) -> String {
    let user = config.config().as_ref().and_then(|config| config.user().clone()).filter(|user| !user.is_empty());
    // Not those of a Dockerfile or a registry, which run as they say also where another command starts them.
    let app_type = config.labels_of_config().and_then(|labels| labels.get(LABEL_TYPE));
    let ours = app_type.is_some_and(|app_type| matches!(app_type.as_str(), "npm" | "python"));
    user.unwrap_or_else(|| if ours { format!("{APP_ID}:{APP_ID}") } else { String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\napp:x:1000:1000::/app:/bin/bash\n";
    const GROUP: &str = "root:x:0:\napp:x:1000:app\nwww:x:33:\nvideo:x:44:www,app\n";

    #[test]
    fn users_are_found_by_name_and_by_number() {
        let app = User { uid: 1000, gid: 1000, groups: vec![44], home: Some("/app".to_owned()) };
        assert_eq!(resolve_user("app", PASSWD, GROUP), Ok(app.clone()));
        assert_eq!(resolve_user("1000", PASSWD, GROUP), Ok(app.clone()));
        assert_eq!(resolve_user("app:www", PASSWD, GROUP), Ok(User { gid: 33, groups: vec![], ..app }));
        assert_eq!(resolve_user("", PASSWD, GROUP).map(|user| user.uid), Ok(0));
        let unknown = User { uid: 77, gid: 88, groups: vec![], home: None };
        assert_eq!(resolve_user("77:88", PASSWD, GROUP), Ok(unknown.clone()));
        assert_eq!(resolve_user("77", PASSWD, GROUP), Ok(User { gid: 0, ..unknown }));
        assert!(resolve_user("nobody-here", PASSWD, GROUP).is_err());
    }

    #[test]
    fn another_start_command_changes_nothing_of_whom_an_image_runs_as() {
        let user = |app_type: &str| {
            let mut config = ImageConfiguration::default();
            let mut inner = oci_spec::image::Config::default();
            let labels = [(LABEL_TYPE, app_type), (LABEL_START, "exec x")];
            inner.set_labels(Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()));
            config.set_config(Some(inner));
            wanted_user(&config)
        };
        assert_eq!((user("npm").as_str(), user("python").as_str()), ("1000:1000", "1000:1000"));
        assert_eq!((user("docker").as_str(), user("image").as_str()), ("", ""));
    }

    #[test]
    fn stop_signals_are_read_as_images_write_them() {
        for named in ["SIGQUIT", "quit", "3"] {
            assert_eq!(stop_signal(Some(named)), Some(Signal::QUIT), "{named}");
        }
        assert_eq!(stop_signal(Some("SIGWINCH")), Some(Signal::WINCH));
        for named in [None, Some("SIGNOT"), Some("0"), Some("99"), Some("")] {
            assert_eq!(stop_signal(named), None, "{named:?}");
        }
    }

    #[test]
    fn names_are_shown_for_the_ids_that_processes_have() {
        let ids = IdRange { first: 100_000, count: 65_536 };
        let shown = with_host_ids(PASSWD, ids, &[2, 3]);
        assert_eq!(shown.lines().nth(1), Some("app:x:101000:101000::/app:/bin/bash"));
    }

    #[test]
    fn a_link_in_a_layer_does_not_lead_out_of_it() {
        let folder = tempfile::tempdir().expect("folder");
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("passwd")).expect("link");
        assert!(open_in(&[folder.path().to_owned()], "/passwd").is_none());
    }
}
