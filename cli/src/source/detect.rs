//! Finds an app's type by what its folder holds.

use std::path::Path;

use drowse_api::deployment::AppType;

use super::{EntryKind, Source, SourceError, bundle};

const LOOKED_FOR: &str = "Dockerfile (docker), package.json (npm), requirements.txt, Pipfile, pyproject.toml or *.py (python), index.html (static)";

/// Files that say what a Python app depends on, as a build looks for them.
const PYTHON: [&str; 4] = ["requirements.txt", "Pipfile.lock", "Pipfile", "pyproject.toml"];

/// A type, and what told it.
#[derive(Debug, PartialEq, Eq)]
pub struct Detected {
    /// The type.
    pub app_type: AppType,
    /// The file that told it.
    pub by: String,
    /// Another type that the folder could be, with the file that says so.
    pub also: Option<(AppType, String)>,
}

/// The type of the app in `source`.
///
/// # Errors
/// When nothing in it can be run.
pub fn detect(source: &Source) -> Result<Detected, SourceError> {
    let mut found = candidates(source).into_iter();
    match found.next() {
        Some((app_type, by)) => Ok(Detected { app_type, by, also: found.next() }),
        None => {
            Err(SourceError::NothingToRun { root: source.root.clone(), looked_for: LOOKED_FOR, hint: hint(source) })
        }
    }
}

/// What the top of the folder says, the strongest first.
fn candidates(source: &Source) -> Vec<(AppType, String)> {
    let named = |name: &str| source.has_file(name).then(|| name.to_owned());
    let python = || {
        let mut scripts = source.entries.iter().filter(|entry| {
            let is_at_top = entry.path.components().count() == 1;
            is_at_top && entry.kind != EntryKind::Folder && entry.path.extension().is_some_and(|e| e == "py")
        });
        scripts.next().map(|entry| entry.path.display().to_string())
    };
    [
        (AppType::Docker, named("Dockerfile")),
        (AppType::Npm, named("package.json")),
        (AppType::Python, PYTHON.into_iter().find_map(named).or_else(python)),
        (AppType::Static, named("index.html")),
    ]
    .into_iter()
    .filter_map(|(app_type, by)| Some((app_type, by?)))
    .collect()
}

/// What would help a folder in which nothing can be run.
fn hint(source: &Source) -> String {
    if bundle::looks_like_one(&source.root) {
        return format!("it looks like an OCI bundle: drowse deploy --bundle {}", source.root.display());
    }
    if let Some(left_out) = source.left_out.iter().find(|left_out| tells_a_type(&left_out.path)) {
        return format!("{} is {}; it would tell the type", left_out.path.display(), left_out.why);
    }
    if source.has_file("Procfile") {
        let root = source.root.display();
        return format!("Procfile tells how it starts; say what it is: drowse deploy {root} --type npm|python");
    }
    let deeper = source.entries.iter().find(|entry| entry.path.components().count() == 2 && tells_a_type(&entry.path));
    match deeper.and_then(|entry| entry.path.parent()) {
        Some(folder) => format!("drowse deploy {}", source.root.join(folder).display()),
        None => "name another folder, or the type: drowse deploy DIR --type static|npm|python|docker".to_owned(),
    }
}

fn tells_a_type(path: &Path) -> bool {
    const NAMES: [&str; 4] = ["Dockerfile", "package.json", "requirements.txt", "index.html"];
    path.file_name().is_some_and(|name| NAMES.iter().any(|known| name == *known))
}
