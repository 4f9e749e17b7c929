//! Apps with a package.json.

use drowse_api::{ErrorCode, Problem};
use serde::Deserialize;

use super::{Build, Detected, Install, Serves, Source, procfile, quoted};

/// Where front-end tools leave a site.
const SITES: &[&str] = &["dist", "build", "out", "public", ".output/public", "_site"];

const LOCKS: [&str; 2] = ["npm-shrinkwrap.json", "package-lock.json"];
/// Scripts that npm runs while it installs: they may need the source.
const LIFECYCLE: [&str; 6] = ["preinstall", "install", "postinstall", "preprepare", "prepare", "postprepare"];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Package {
    scripts: std::collections::BTreeMap<String, String>,
    main: Option<String>,
    workspaces: Option<serde_json::Value>,
    dependencies: std::collections::BTreeMap<String, String>,
    #[serde(rename = "devDependencies")]
    dev_dependencies: std::collections::BTreeMap<String, String>,
    #[serde(rename = "optionalDependencies")]
    optional_dependencies: std::collections::BTreeMap<String, String>,
}

pub(super) fn detect(source: &Source) -> Result<Detected, Problem> {
    let Some(bytes) = source.read("package.json") else {
        return Err(Problem::new(ErrorCode::NothingToRun, "the folder has no package.json")
            .hint("deploy the folder that package.json is in, or another type with --type"));
    };
    let package: Package = serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new(ErrorCode::BadRequest, format!("package.json cannot be read: {error}")))?;
    let mut notes = Vec::new();
    let serves = serves(source, &package, &mut notes)?;
    let command = || "npm run build".to_owned();
    let build =
        package.scripts.contains_key("build").then(|| Build { shown: command(), script: command(), keep: &["app"] });
    Ok(Detected { install: install(source, &package, bytes, build.is_some(), &mut notes), build, serves, notes })
}

fn install(
    source: &Source,
    package: &Package,
    manifest: Vec<u8>,
    has_build: bool,
    notes: &mut Vec<String>,
) -> Option<Install> {
    let all = || {
        package
            .dependencies
            .values()
            .chain(package.dev_dependencies.values())
            .chain(package.optional_dependencies.values())
    };
    let lock = LOCKS.into_iter().find(|name| source.has(name));
    // npm compiles what has one, unless it says how itself.
    let is_native = source.has("binding.gyp");
    let runs_scripts = is_native || LIFECYCLE.iter().any(|name| package.scripts.contains_key(*name));
    if all().next().is_none() && package.workspaces.is_none() && !runs_scripts {
        notes.push("no dependencies in package.json".to_owned());
        return None;
    }
    if lock.is_none() {
        notes.push("no package-lock.json: versions may change from build to build".to_owned());
    }
    // What only the build needs is installed for it also where NODE_ENV says production.
    let extent = if has_build { " --include=dev" } else { "" };
    let command = format!("npm {}{extent}", if lock.is_some() { "ci" } else { "install" });
    let is_local = |version: &String| {
        ["file:", "link:", "workspace:", ".", "/", "~/"].iter().any(|prefix| version.starts_with(prefix))
    };
    let is_cacheable = !runs_scripts && package.workspaces.is_none() && !all().any(is_local);
    let mut files = vec![("package.json".to_owned(), manifest)];
    for name in lock.into_iter().chain([".npmrc"]) {
        files.extend(source.read(name).map(|content| (name.to_owned(), content)));
    }
    // npm makes no folder where there was nothing to install; the layer needs one.
    let script = format!("set -e; {command}; mkdir -p node_modules");
    Some(Install { shown: command, script, files, is_cacheable, keep: "app/node_modules" })
}

fn serves(source: &Source, package: &Package, notes: &mut Vec<String>) -> Result<Serves, Problem> {
    let process = |start: String, origin: &str| Ok(Serves::Process { start, origin: origin.to_owned() });
    if let Some(line) = procfile(source) {
        return process(line, "Procfile");
    }
    if let Some(script) = package.scripts.get("start") {
        let has_hooks = ["prestart", "poststart"].iter().any(|name| package.scripts.contains_key(*name));
        let needs_npm = script.contains("npm_") || script.contains("$npm");
        if has_hooks || needs_npm {
            return process("npm start".to_owned(), "package.json");
        }
        // Without npm in between, signals reach the app and 50 MB stay free.
        return process(script.clone(), "package.json, scripts.start");
    }
    let main = package.main.as_deref().filter(|name| source.has(name));
    if let Some(name) = main.or_else(|| ["server.js", "app.js", "index.js"].into_iter().find(|name| source.has(name))) {
        notes.push(format!("package.json has no start script; guessed from {name}"));
        return process(format!("node {}", quoted(name)), "guess");
    }
    if package.scripts.contains_key("build") {
        notes.push("package.json has a build script and nothing that starts a server: what it builds is served as a static site".to_owned());
        return Ok(Serves::Site { folders: SITES });
    }
    let problem = Problem::new(ErrorCode::NothingToRun, "package.json has no start script, and there is no server.js");
    Err(problem.hint("add a \"start\" script to package.json, or a Procfile with a line such as: web: node main.js"))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{source, start_of};
    use super::*;

    fn found(files: &[(&str, &str)]) -> Detected {
        let (_folder, source) = source(files);
        detect(&source).expect("is one")
    }

    #[test]
    fn a_locked_app_is_installed_by_npm_ci_from_its_lists_alone() {
        let package = r#"{"scripts":{"start":"node server.js"},"dependencies":{"express":"^4"}}"#;
        let found = found(&[("package.json", package), ("package-lock.json", "{}"), ("server.js", "")]);
        let install = found.install.clone().expect("has dependencies");
        assert_eq!((install.shown.as_str(), install.is_cacheable), ("npm ci", true));
        assert_eq!(
            install.files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["package.json", "package-lock.json"]
        );
        assert_eq!(start_of(&found), "node server.js");
        assert_eq!(found.build, None);
    }

    #[test]
    fn what_needs_the_source_while_installing_is_not_cached() {
        for package in [
            r#"{"scripts":{"start":"x","postinstall":"node gen.js"},"dependencies":{"a":"1"}}"#,
            r#"{"scripts":{"start":"x"},"dependencies":{"a":"file:../a"}}"#,
            r#"{"scripts":{"start":"x"},"workspaces":["packages/*"]}"#,
        ] {
            let install = found(&[("package.json", package)]).install.expect(package);
            assert!(!install.is_cacheable, "{package}");
        }
    }

    #[test]
    fn an_app_that_is_a_native_module_itself_is_installed_where_its_source_is() {
        let package = r#"{"scripts":{"start":"node server.js"}}"#;
        let native = found(&[("package.json", package), ("binding.gyp", "{}"), ("server.js", "")]);
        assert!(native.install.is_some_and(|install| !install.is_cacheable));
        assert_eq!(found(&[("package.json", package), ("server.js", "")]).install, None);
    }

    #[test]
    fn hooks_of_start_keep_npm_in_between() {
        let package = r#"{"scripts":{"start":"node a.js","prestart":"node b.js"}}"#;
        let found = found(&[("package.json", package)]);
        assert_eq!((start_of(&found), found.install.as_ref()), ("npm start", None));
    }

    #[test]
    fn nothing_to_run_says_what_to_add() {
        let (_folder, nothing) = source(&[("package.json", "{}")]);
        let problem = detect(&nothing).expect_err("nothing");
        assert_eq!(problem.code, ErrorCode::NothingToRun);
        assert!(problem.hint.is_some_and(|hint| hint.contains("start")));
    }

    #[test]
    fn a_build_without_a_server_makes_a_site_and_it_is_told() {
        let found = found(&[("package.json", r#"{"scripts":{"build":"vite build"}}"#), ("index.html", "")]);
        assert_eq!(found.serves, Serves::Site { folders: SITES });
        assert!(found.notes.iter().any(|note| note.contains("served as a static site")), "{:?}", found.notes);
    }
}
