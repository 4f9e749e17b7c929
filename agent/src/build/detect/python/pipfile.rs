//! Pipfile and Pipfile.lock, read as the requirements that they are.
//!
//! The lock has each version with its hashes, which pip holds it to; a Pipfile alone has the ranges.

use drowse_api::{ErrorCode, Problem};
use serde_json::{Map, Value};

use super::super::{Source, quoted};
use super::lists::Lists;

pub(super) fn read(source: &Source) -> Result<Option<Lists>, Problem> {
    if let Some(text) = source.text("Pipfile.lock") {
        let lock: Value = serde_json::from_str(&text).map_err(|error| unreadable("Pipfile.lock", &error))?;
        return Ok(Some(lists("Pipfile.lock", &lock["_meta"]["sources"], &lock["default"])));
    }
    let Some(text) = source.text("Pipfile") else { return Ok(None) };
    let file: toml::Table = toml::from_str(&text).map_err(|error| unreadable("Pipfile", &error))?;
    let file = serde_json::to_value(file).map_err(|error| unreadable("Pipfile", &error))?;
    let mut lists = lists("Pipfile", &file["source"], &file["packages"]);
    lists.notes.push("no Pipfile.lock: versions may change from build to build".to_owned());
    Ok(Some(lists))
}

fn unreadable(name: &str, error: &dyn std::fmt::Display) -> Problem {
    Problem::new(ErrorCode::BadRequest, format!("{name} cannot be read: {error}"))
}

fn lists(from: &str, sources: &Value, packages: &Value) -> Lists {
    let empty = Map::new();
    let packages = packages.as_object().unwrap_or(&empty);
    let own: Vec<String> = packages.values().filter_map(folder).collect();
    // pip wants hashes of all or of none.
    let has_all = packages.values().filter(|entry| folder(entry).is_none()).all(|entry| !hashes(entry).is_empty());
    let mut requirements = indexes(sources);
    requirements.extend(
        packages
            .iter()
            .filter(|(_, entry)| folder(entry).is_none())
            .map(|(name, entry)| requirement(name, entry, has_all)),
    );
    let mut lists = Lists::generated(from, &requirements);
    if !own.is_empty() {
        lists.backend = ["setuptools", "wheel"].map(ToOwned::to_owned).to_vec();
    }
    Lists { own, ..lists }
}

/// The registries, where they are not the usual one.
fn indexes(sources: &Value) -> Vec<String> {
    let sources = sources.as_array().map(Vec::as_slice).unwrap_or_default();
    let url = |source: &Value| Some(source["url"].as_str()?.to_owned());
    let own = sources.iter().filter(|source| source["name"] != "pypi").filter_map(url);
    let has_usual = sources.is_empty() || sources.iter().any(|source| source["name"] == "pypi");
    own.enumerate()
        .map(|(at, url)| if at == 0 && !has_usual { format!("-i {url}") } else { format!("--extra-index-url {url}") })
        .collect()
}

/// A folder of the source that is a package, as pip is told it.
fn folder(entry: &Value) -> Option<String> {
    let path = quoted(entry["path"].as_str()?);
    Some(if entry["editable"] == true { format!("-e {path}") } else { path })
}

fn hashes(entry: &Value) -> Vec<&str> {
    entry["hashes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

/// One line of requirements.
fn requirement(name: &str, entry: &Value, with_hashes: bool) -> String {
    let extras: Vec<&str> = entry["extras"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut line = name.to_owned();
    if !extras.is_empty() {
        line.push_str(&format!("[{}]", extras.join(",")));
    }
    let version = entry.as_str().or_else(|| entry["version"].as_str()).filter(|version| *version != "*");
    if let Some(repository) = entry["git"].as_str() {
        let at = entry["ref"].as_str().map(|name| format!("@{name}")).unwrap_or_default();
        line.push_str(&format!(" @ git+{repository}{at}"));
    } else if let Some(file) = entry["file"].as_str() {
        line.push_str(&format!(" @ {file}"));
    } else if let Some(version) = version {
        line.push_str(version);
    }
    if let Some(markers) = entry["markers"].as_str() {
        line.push_str(&format!(" ; {markers}"));
    }
    if with_hashes {
        line.extend(hashes(entry).iter().map(|hash| format!(" --hash={hash}")));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::source;
    use super::*;

    fn text_of(lists: &Lists) -> String {
        String::from_utf8(lists.files[0].1.clone()).expect("text")
    }

    #[test]
    fn a_lock_becomes_requirements_with_their_hashes() {
        let lock = r#"{
            "_meta": {"sources": [{"name": "pypi", "url": "https://index.example/simple", "verify_ssl": true}]},
            "default": {
                "flask": {"hashes": ["sha256:aa", "sha256:bb"], "index": "pypi", "version": "==3.0.0"},
                "uvicorn": {"extras": ["standard"], "hashes": ["sha256:cc"], "markers": "python_version >= '3.8'",
                            "version": "==0.30"}
            },
            "develop": {"pytest": {"hashes": ["sha256:dd"], "version": "==8"}}
        }"#;
        let (_folder, source) = source(&[("Pipfile.lock", lock), ("Pipfile", "[packages]\nflask = '*'\n")]);
        let lists = read(&source).expect("reads").expect("is one");
        let expected = "flask==3.0.0 --hash=sha256:aa --hash=sha256:bb\n\
                        uvicorn[standard]==0.30 ; python_version >= '3.8' --hash=sha256:cc\n";
        assert_eq!(text_of(&lists), expected);
        assert!(lists.is_cacheable && lists.own.is_empty() && lists.names("uvicorn") && !lists.names("pytest"));
    }

    #[test]
    fn a_pipfile_alone_becomes_ranges_and_it_is_told() {
        let file = "[[source]]\nname = 'own'\nurl = 'https://packages.example/simple'\n[packages]\n\
                    flask = '*'\ndjango = '>=5,<6'\nshop = {path = './shop', editable = true}\n\
                    tool = {git = 'https://git.example/tool.git', ref = 'v1'}\n";
        let (_folder, source) = source(&[("Pipfile", file)]);
        let lists = read(&source).expect("reads").expect("is one");
        let expected =
            "-i https://packages.example/simple\ndjango>=5,<6\nflask\ntool @ git+https://git.example/tool.git@v1\n";
        assert_eq!(text_of(&lists), expected);
        assert_eq!(lists.own, ["-e './shop'"]);
        assert!(lists.notes.iter().any(|note| note.contains("no Pipfile.lock")));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let (_folder, broken) = source(&[("Pipfile", "[packages\n")]);
        assert!(read(&broken).expect_err("broken").detail.contains("Pipfile cannot be read"));
        let (_folder, none) = source(&[]);
        assert_eq!(read(&none).expect("reads"), None);
    }
}
