//! Where packages come from: the Debian sources that the machine itself uses, turned to another
//! release of the same archive. No mirror is named anywhere in this repository.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names of releases that stand for the machine's own.
const ALIASES: [&str; 3] = ["stable", "oldstable", "testing"];
/// What a suite may add to its release and still be packages of that release.
const POCKETS: [&str; 3] = ["", "-updates", "-security"];
/// Settings of apt's transport that hold for stacks, too: proxies, certificates, date checks.
const TRANSPORT: [&str; 6] =
    ["Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv", "Acquire::Max-"];

/// Why no sources could be found.
#[derive(Debug, thiserror::Error)]
pub enum SourcesError {
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// Nothing that names Debian's archive.
    #[error("no source in {folder} holds Debian's packages of {release}: add one (component main) and try again")]
    None {
        /// Where was looked.
        folder: PathBuf,
        /// The machine's release.
        release: String,
    },
}

/// One source, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Source {
    uri: String,
    suite: String,
    signed_by: Option<String>,
}

/// Sources for `suite` in apt's deb822 form, from the machine's own configuration in `etc` (`/etc`).
pub(super) fn sources(etc: &Path, suite: &str) -> Result<String, SourcesError> {
    let release = release(&read(&etc.join("os-release"))?);
    let folder = etc.join("apt");
    let mut found = BTreeSet::new();
    let list = folder.join("sources.list");
    if list.exists() {
        found.extend(one_line(&read(&list)?));
    }
    let parts = folder.join("sources.list.d");
    if let Ok(entries) = fs::read_dir(&parts) {
        for entry in entries {
            let path = entry.map_err(|source| SourcesError::Read { path: parts.clone(), source })?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("list") => found.extend(one_line(&read(&path)?)),
                Some("sources") => found.extend(deb822(&read(&path)?)),
                _ => {}
            }
        }
    }
    let mut text = String::new();
    for source in &found {
        if let Some(suite) = turned(&source.suite, &release, suite) {
            let _ = write!(text, "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", source.uri);
            if let Some(key) = &source.signed_by {
                let _ = writeln!(text, "Signed-By: {key}");
            }
            text.push('\n');
        }
    }
    if text.is_empty() {
        return Err(SourcesError::None { folder, release });
    }
    Ok(text)
}

/// The machine's transport settings, each as one apt option.
pub(super) fn transport_options() -> Vec<String> {
    let Ok(output) = Command::new("apt-config").args(["dump", "Acquire"]).output() else { return Vec::new() };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| TRANSPORT.iter().any(|prefix| line.starts_with(prefix)) && !line.ends_with("\"\";"))
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

fn read(path: &Path) -> Result<String, SourcesError> {
    fs::read_to_string(path).map_err(|source| SourcesError::Read { path: path.to_owned(), source })
}

fn release(os_release: &str) -> String {
    let line = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    line.unwrap_or_default().trim_matches('"').to_owned()
}

/// The suite of `wanted` that plays the part of `suite`, if that is one of the machine's release.
fn turned(suite: &str, release: &str, wanted: &str) -> Option<String> {
    let stem = |name: &str| POCKETS.iter().find_map(|pocket| suite.strip_prefix(name).filter(|rest| rest == pocket));
    let pocket = std::iter::once(release).chain(ALIASES).filter(|name| !name.is_empty()).find_map(stem)?;
    Some(format!("{wanted}{pocket}"))
}

/// `deb [options] URI SUITE COMPONENT…` (sources.list(5)).
fn one_line(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_source).collect()
}

fn one_source(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?.to_owned(), words.next()?.to_owned());
    words.any(|component| component == "main").then(|| Source {
        uri,
        suite,
        signed_by: options.split_whitespace().find_map(|option| option.strip_prefix("signed-by=")).map(str::to_owned),
    })
}

/// Paragraphs of `Field: value`, values going on in lines that begin with a blank (deb822(5)).
fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            let start = paragraph.iter().position(|line| {
                line.split_once(':').is_some_and(|(field, _)| field.trim_end().eq_ignore_ascii_case(name))
            })?;
            let mut value = paragraph[start].split_once(':')?.1.trim().to_owned();
            for more in paragraph[start + 1..].iter().take_while(|line| line.starts_with([' ', '\t'])) {
                value.push('\n');
                value.push_str(more);
            }
            Some(value)
        };
        let has = |name: &str, word: &str| field(name).is_some_and(|value| value.split_whitespace().any(|w| w == word));
        let is_off =
            field("Enabled").is_some_and(|value| matches!(&*value.to_lowercase(), "no" | "false" | "off" | "0"));
        if is_off || !has("Types", "deb") || !has("Components", "main") {
            continue;
        }
        let (Some(uris), Some(suites)) = (field("URIs"), field("Suites")) else { continue };
        for uri in uris.split_whitespace() {
            for suite in suites.split_whitespace() {
                sources.push(Source { uri: uri.to_owned(), suite: suite.to_owned(), signed_by: field("Signed-By") });
            }
        }
    }
    sources
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let etc = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = etc.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            fs::write(path, text).expect("a file");
        }
        etc
    }

    #[test]
    fn a_machine_of_one_release_gives_the_sources_of_another() {
        let etc = machine(&[
            ("os-release", "ID=debian\nVERSION_CODENAME=trixie\n"),
            (
                "apt/sources.list.d/debian.sources",
                "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: trixie trixie-updates\nComponents: main\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: http://security.example\nSuites: trixie-security\nComponents: main contrib\n",
            ),
            ("apt/sources.list.d/other.list", "deb [signed-by=/o.gpg] https://vendor.example nodistro main\n"),
            ("apt/sources.list.d/old.sources.disabled", "Types: deb\nURIs: x\nSuites: trixie\nComponents: main\n"),
        ]);
        let text = sources(etc.path(), "bookworm").expect("sources");
        assert_eq!(text.matches("Types: deb").count(), 3, "{text}");
        for wanted in
            ["Suites: bookworm\n", "Suites: bookworm-updates\n", "Suites: bookworm-security\n", "Signed-By: /k.gpg"]
        {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
        assert!(!text.contains("vendor.example") && !text.contains("trixie"), "{text}");
    }

    #[test]
    fn the_old_one_line_form_is_read() {
        let etc = machine(&[
            ("os-release", "VERSION_CODENAME=bookworm\n"),
            (
                "apt/sources.list",
                "# deb http://no.example bookworm main\ndeb [arch=amd64 signed-by=/k.gpg] http://mirror.example bookworm main non-free\ndeb-src http://mirror.example bookworm main\ndeb http://mirror.example stable-updates main\n",
            ),
        ]);
        let text = sources(etc.path(), "bookworm").expect("sources");
        assert_eq!(text.matches("Types: deb").count(), 2, "{text}");
        assert!(text.contains("Signed-By: /k.gpg") && text.contains("Suites: bookworm-updates"), "{text}");
    }

    #[test]
    fn a_machine_without_a_debian_source_is_told_what_to_do() {
        let etc = machine(&[("os-release", "VERSION_CODENAME=bookworm\n")]);
        let error = sources(etc.path(), "bookworm").expect_err("nothing").to_string();
        assert!(error.contains("no source in") && error.contains("add one"), "{error}");
    }

    #[test]
    fn a_disabled_source_and_an_embedded_key_are_read_right() {
        let text = "Enabled: no\nTypes: deb\nURIs: a\nSuites: s\nComponents: main\n\nTypes: deb\nURIs: b\nSuites: s\nComponents: main\nSigned-By:\n -----BEGIN\n .\n -----END\n";
        let found = deb822(text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].uri, "b");
        assert_eq!(found[0].signed_by.as_deref(), Some("\n -----BEGIN\n .\n -----END"));
    }
}
