//! What a folder needs to be built and started, by what is in it. Pure but for reading the folder.

mod npm;
mod python;

use std::io::Read;
use std::path::PathBuf;

use drowse_api::Problem;
use drowse_api::deployment::AppType;
use drowse_api::image::APP_FOLDER;

use crate::host::image::open_in;

/// The largest file that is looked into.
const LARGEST: u64 = 16 << 20;

/// How an app is built and started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Detected {
    pub install: Option<Install>,
    pub build: Option<Build>,
    pub serves: Serves,
    /// Sentences for the log.
    pub notes: Vec<String>,
}

/// What is made of the source once its dependencies are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Build {
    /// What is shown of the command.
    pub shown: String,
    /// The command.
    pub script: String,
    /// The folders of the image that hold the outcome.
    pub keep: &'static [&'static str],
}

/// What serves an app once it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Serves {
    /// A process.
    Process {
        /// The start command, as a line for bash.
        start: String,
        /// Where it comes from, for the log.
        origin: String,
    },
    /// Files: its build leaves a site in one of these folders, the first that has an index.html.
    Site {
        /// Below the app's folder.
        folders: &'static [&'static str],
    },
}

/// How dependencies are installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Install {
    /// What is shown of the command.
    pub shown: String,
    /// The command.
    pub script: String,
    /// The lists that decide on the outcome, where nothing else of the source does.
    pub files: Vec<(String, Vec<u8>)>,
    /// Whether the lists alone decide.
    pub is_cacheable: bool,
    /// The folder of the image that holds the outcome.
    pub keep: &'static str,
}

/// A folder as it was uploaded: an unpacked layer, in which no link leads out.
#[derive(Debug, Clone)]
pub(super) struct Source {
    layer: PathBuf,
    start: Option<String>,
}

impl Source {
    pub fn new(layer: PathBuf) -> Self {
        Self { layer, start: None }
    }

    /// With a start command that its user pins, whatever is in it.
    pub fn started_by(self, start: Option<String>) -> Self {
        Self { start, ..self }
    }

    /// A file's content.
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        let file = open_in(std::slice::from_ref(&self.layer), &format!("{APP_FOLDER}/{name}"))?;
        let mut bytes = Vec::new();
        file.take(LARGEST).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// A file's text.
    pub fn text(&self, name: &str) -> Option<String> {
        Some(String::from_utf8_lossy(&self.read(name)?).into_owned())
    }

    /// Whether there is such a file.
    pub fn has(&self, name: &str) -> bool {
        open_in(std::slice::from_ref(&self.layer), &format!("{APP_FOLDER}/{name}")).is_some()
    }

    /// The names in its top folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.layer.join(APP_FOLDER.trim_start_matches('/')));
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}

/// Finds out how to build and start what is in `source`.
///
/// # Errors
/// `nothing-to-run` with what to add, `bad-request` for files that cannot be read.
pub(super) fn detect(app_type: AppType, source: &Source) -> Result<Detected, Problem> {
    let mut found = match app_type {
        AppType::Npm => npm::detect(source),
        AppType::Python => python::detect(source),
        // These have no commands; the pipeline does not ask.
        AppType::Static | AppType::Bundle | AppType::Docker | AppType::Image => {
            Err(Problem::new(drowse_api::ErrorCode::Internal, format!("a {app_type} app is not built by commands")))
        }
    }?;
    if let (Some(_), Serves::Process { origin, .. }) = (&source.start, &mut found.serves) {
        "drowse.toml".clone_into(origin);
    }
    Ok(found)
}

/// The start command that needs no guess: the one that is pinned, or that of the `web` process in a Procfile.
fn procfile(source: &Source) -> Option<String> {
    source.start.clone().or_else(|| process(&source.text("Procfile")?, "web"))
}

/// The command of a process in the text of a Procfile.
pub(super) fn process(procfile: &str, name: &str) -> Option<String> {
    let command = |line: &str| Some(line.trim().strip_prefix(name)?.trim_start().strip_prefix(':')?.trim().to_owned());
    procfile.lines().find_map(command).filter(|line| !line.is_empty())
}

/// A word for bash.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The start command.
    pub(in super::super) fn start_of(found: &Detected) -> &str {
        match &found.serves {
            Serves::Process { start, .. } => start,
            Serves::Site { .. } => panic!("it is a site"),
        }
    }

    /// A folder with these files.
    pub(in super::super) fn source(files: &[(&str, &str)]) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().expect("folder");
        for (name, text) in files {
            let path = folder.path().join("app").join(name);
            std::fs::create_dir_all(path.parent().expect("has one")).expect("makes");
            std::fs::write(path, text).expect("writes");
        }
        std::fs::create_dir_all(folder.path().join("app")).expect("makes");
        let source = Source::new(folder.path().to_owned());
        (folder, source)
    }

    #[test]
    fn a_procfile_names_the_web_process() {
        let (_folder, with) = source(&[("Procfile", "worker: x\n web:  run me --port $PORT \n")]);
        assert_eq!(procfile(&with).as_deref(), Some("run me --port $PORT"));
        let (_folder, without) = source(&[("Procfile", "worker: x\nweb:\n")]);
        assert_eq!(procfile(&without), None);
        assert_eq!(procfile(&without.clone().started_by(Some("pinned".to_owned()))).as_deref(), Some("pinned"));
        assert_eq!(process("web: a\nrelease: b c\n", "release").as_deref(), Some("b c"));
        assert_eq!(process("released: b\n", "release"), None);
    }
}
