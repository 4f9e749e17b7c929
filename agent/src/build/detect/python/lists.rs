//! What a Python app depends on, by the file that says so: requirements.txt, Pipfile or pyproject.toml,
//! the first that is there.

use drowse_api::Problem;

use super::super::Source;
use super::{pipfile, pyproject};

/// The name under which requirements that were read from another file are handed to pip.
pub(super) const GENERATED: &str = ".drowse-requirements.txt";
/// How many lists may name each other.
const MOST: usize = 16;

/// What is to be installed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lists {
    /// What is shown of the command.
    pub shown: String,
    /// What pip is told to install; nothing if there is nothing.
    pub arguments: Option<String>,
    /// The files that decide on the outcome.
    pub files: Vec<(String, Vec<u8>)>,
    /// Whether they alone decide.
    pub is_cacheable: bool,
    /// Folders of the source that are packages, to be installed once it is there: `.`, `-e lib`.
    pub own: Vec<String>,
    /// What builds them.
    pub backend: Vec<String>,
    /// Sentences for the log.
    pub notes: Vec<String>,
}

impl Lists {
    /// Whether a package is among them.
    pub fn names(&self, package: &str) -> bool {
        self.files.iter().any(|(_, content)| requires(&String::from_utf8_lossy(content), package))
    }

    /// Requirements that were read from `from`, and told pip as a file of ours.
    pub fn generated(from: &str, requirements: &[String]) -> Self {
        let arguments = (!requirements.is_empty()).then(|| format!("-r {GENERATED}"));
        let text = requirements.iter().map(|line| format!("{line}\n")).collect::<String>();
        Self {
            shown: format!("pip install (the dependencies of {from})"),
            arguments,
            files: vec![(GENERATED.to_owned(), text.into_bytes())],
            is_cacheable: true,
            ..Self::default()
        }
    }
}

pub(super) fn read(source: &Source) -> Result<Lists, Problem> {
    if let Some(text) = source.text("requirements.txt") {
        return Ok(requirements(source, text));
    }
    if let Some(lists) = pipfile::read(source)? {
        return Ok(lists);
    }
    if let Some(lists) = pyproject::read(source)? {
        return Ok(lists);
    }
    Ok(Lists {
        shown: "python3 -m venv /venv".to_owned(),
        is_cacheable: true,
        notes: vec!["no requirements.txt, Pipfile or pyproject.toml: only Python's own library is there".to_owned()],
        ..Lists::default()
    })
}

/// requirements.txt with the lists that it names.
fn requirements(source: &Source, text: String) -> Lists {
    let mut files = vec![("requirements.txt".to_owned(), text.into_bytes())];
    let mut is_cacheable = true;
    let mut at = 0;
    while at < files.len() {
        let (name, content) = &files[at];
        let folder = name.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
        let content = String::from_utf8_lossy(content).into_owned();
        for line in content.lines().map(str::trim) {
            match included(line) {
                Some(other) => {
                    let path = format!("{folder}{other}");
                    if files.iter().any(|(known, _)| *known == path) {
                        continue;
                    }
                    match source.read(&path).filter(|_| is_plain(&path) && files.len() < MOST) {
                        Some(content) => files.push((path, content)),
                        // pip says what is wrong with it.
                        None => is_cacheable = false,
                    }
                }
                None => is_cacheable &= !is_local(line),
            }
        }
        at += 1;
    }
    let shown = "pip install -r requirements.txt".to_owned();
    Lists { arguments: Some("-r requirements.txt".to_owned()), shown, files, is_cacheable, ..Lists::default() }
}

/// The other list that a line of requirements names.
fn included(line: &str) -> Option<&str> {
    let names = ["--requirement", "--constraint", "-r", "-c"];
    let rest = names.into_iter().find_map(|name| line.strip_prefix(name))?;
    let name = rest.trim_start_matches('=').split(" #").next()?.trim();
    (!name.is_empty() && !name.contains("://")).then_some(name)
}

fn is_plain(path: &str) -> bool {
    !path.starts_with('/') && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

/// Whether a line of requirements leads to other files of the source.
fn is_local(line: &str) -> bool {
    ["-e", "--editable", ".", "/", "file:", "-f", "--find-links"].iter().any(|prefix| line.starts_with(prefix))
        || line.contains("@ file:")
}

/// Whether requirements name this package.
fn requires(text: &str, name: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.lines().map(str::trim_start).any(|line| {
        let end = line.find(|c| !is_part(c)).unwrap_or(line.len());
        line[..end].replace('_', "-").eq_ignore_ascii_case(name)
    })
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::source;
    use super::*;

    #[test]
    fn a_requirement_is_found_by_its_whole_name() {
        let text = "Flask-Login==1\n  gunicorn ; python_version > '3'\nuvicorn[standard]\n";
        assert!(requires(text, "flask-login") && requires(text, "gunicorn") && requires(text, "uvicorn"));
        assert!(!requires(text, "flask"));
    }

    #[test]
    fn lists_that_name_each_other_are_read_together() {
        let files = [
            ("requirements.txt", "-r requirements/base.txt # ours\nflask\n"),
            ("requirements/base.txt", "-r more.txt\n-c ../requirements.txt\ndjango\n"),
            ("requirements/more.txt", "-r base.txt\ngunicorn\n"),
        ];
        let (_folder, source) = source(&files);
        let lists = read(&source).expect("reads");
        let names: Vec<&str> = lists.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["requirements.txt", "requirements/base.txt", "requirements/more.txt"]);
        assert!(lists.names("gunicorn") && lists.names("django"));
        assert!(!lists.is_cacheable, "one of them leads up");
    }

    #[test]
    fn requirements_that_lead_to_other_files_are_not_cached() {
        for line in ["-e .", "./wheels/a.whl", "-r missing.txt", "thing @ file:///app/thing", "-r /etc/passwd"] {
            let (_folder, source) = source(&[("requirements.txt", line)]);
            assert!(!read(&source).expect("reads").is_cacheable, "{line}");
        }
        let (_folder, source) = source(&[("requirements.txt", "flask==3.0 # -r x\n--require-hashes\n")]);
        assert!(read(&source).expect("reads").is_cacheable);
    }
}
