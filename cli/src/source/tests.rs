//! What is chosen of a folder, what is refused, and what the archive holds.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use drowse_api::deployment::AppType;
use drowse_api::{ErrorCode, Problem};

use super::{EntryKind, Source, SourceError, archive, bundle, detect, folder};

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[&str]) -> Self {
        let tree = Self(tempfile::tempdir().expect("a folder"));
        files.iter().for_each(|file| tree.write(file, "x"));
        tree
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("written");
    }

    fn chosen(&self) -> Vec<String> {
        names(&folder::choose(self.path()).expect("chosen"))
    }

    fn refused(&self) -> Problem {
        folder::choose(self.path()).expect_err("refused").into()
    }
}

/// Files and links only.
fn names(source: &Source) -> Vec<String> {
    let entries = source.entries.iter().filter(|entry| entry.kind != EntryKind::Folder);
    entries.map(|entry| entry.path.display().to_string()).collect()
}

fn packed(source: &Source) -> Vec<u8> {
    let mut bytes = Vec::new();
    archive::write(source, &mut bytes, |_| {}).expect("packed");
    bytes
}

fn unpacked(bytes: &[u8]) -> BTreeMap<String, (tar::EntryType, u32, u64, String)> {
    let mut tar = tar::Archive::new(zstd::Decoder::new(bytes).expect("zstd"));
    let entries = tar.entries().expect("a tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").display().to_string();
        let link = entry.link_name().expect("a target").map(|target| target.display().to_string());
        let mut text = String::new();
        entry.read_to_string(&mut text).expect("text");
        let header = entry.header();
        let (mode, uid) = (header.mode().expect("a mode"), header.uid().expect("a uid"));
        (path, (header.entry_type(), mode, uid, link.unwrap_or(text)))
    });
    entries.collect()
}

#[test]
fn ignore_files_count_in_every_folder_and_ours_has_the_last_word() {
    let tree = Tree::new(&["app.py", "a.log", "keep.log", "sub/b.log", "sub/c.txt", "dist/out.js", ".flaskenv"]);
    tree.write(".gitignore", "*.log\n!keep.log\ndist/\n");
    tree.write("sub/.gitignore", "c.txt\n");
    tree.write(".drowseignore", "!dist/\nkeep.log\n");
    let expected = [".drowseignore", ".flaskenv", ".gitignore", "app.py", "dist/out.js", "sub/.gitignore"];
    assert_eq!(tree.chosen(), expected);
    let source = folder::choose(tree.path()).expect("chosen");
    let left_out: Vec<_> = source.left_out.iter().map(|left| left.path.display().to_string()).collect();
    assert_eq!(left_out, ["a.log", "keep.log", "sub/b.log", "sub/c.txt"]);
}

#[test]
fn what_stays_behind_is_not_looked_into() {
    let tree = Tree::new(&["index.html", "data/deep/file", "data/app.sock/x"]);
    tree.write(".drowseignore", "/data\n");
    let source = folder::choose(tree.path()).expect("chosen");
    let left_out: Vec<_> = source.left_out.iter().map(|left| left.path.display().to_string()).collect();
    assert_eq!(left_out, ["data"]);
}

#[test]
fn what_never_belongs_stays_behind_wherever_it_is() {
    let tree = Tree::new(&[
        "app.py",
        ".git/config",
        "node_modules/x/index.js",
        "web/node_modules/y/index.js",
        ".venv/pyvenv.cfg",
        "my-env/pyvenv.cfg",
        "my-env/bin/python",
        "pkg/__pycache__/m.pyc",
        "pkg/m.py",
        ".github/workflows/ci.yml",
    ]);
    assert_eq!(tree.chosen(), [".github/workflows/ci.yml", "app.py", "pkg/m.py"]);
    let source = folder::choose(tree.path()).expect("chosen");
    let left_out: Vec<_> = source.left_out.iter().map(|left| left.path.display().to_string()).collect();
    assert_eq!(left_out, [".git", ".venv", "my-env", "node_modules", "pkg/__pycache__", "web/node_modules"]);
}

#[test]
fn a_repositorys_ignore_file_above_the_folder_counts_and_one_of_no_repository_does_not() {
    let tree = Tree::new(&["apps/web/index.html", "apps/web/.env"]);
    tree.write(".gitignore", ".env\n");
    let web = tree.path().join("apps/web");
    assert_eq!(names(&folder::choose(&web).expect("chosen")), [".env", "index.html"]);
    fs::create_dir(tree.path().join(".git")).expect("a repository");
    assert_eq!(names(&folder::choose(&web).expect("chosen")), ["index.html"]);
}

#[test]
fn a_folder_that_its_repository_ignores_is_deployed_by_its_own_rules() {
    let tree = Tree::new(&["dist/index.html", "dist/app.js", "dist/app.map"]);
    fs::create_dir(tree.path().join(".git")).expect("a repository");
    tree.write("dist/.drowseignore", "*.map\n");
    for rule in ["dist/\n", "/dist\n", "dist/*\n", "dist/**\n"] {
        tree.write(".gitignore", rule);
        let chosen = names(&folder::choose(&tree.path().join("dist")).expect("chosen"));
        assert!(chosen.ends_with(&["app.js".into(), "index.html".into()]), "{rule}: {chosen:?}");
        assert!(!chosen.contains(&"app.map".into()), "{rule}: {chosen:?}");
    }
}

#[test]
fn links_that_stay_inside_are_kept_and_others_are_refused() {
    let tree = Tree::new(&["a/b/file", "index.html"]);
    symlink("../../index.html", tree.path().join("a/b/up")).expect("linked");
    symlink("nowhere", tree.path().join("dangling")).expect("linked");
    assert_eq!(tree.chosen(), ["a/b/file", "a/b/up", "dangling", "index.html"]);
    for target in ["../outside", "a/../../outside", "/etc/passwd"] {
        let link = tree.path().join("a-link");
        symlink(target, &link).expect("linked");
        let problem = tree.refused();
        assert!(problem.detail.contains("a-link leads outside the folder"), "{}", problem.detail);
        fs::remove_file(&link).expect("removed");
    }
}

#[test]
fn special_files_are_refused_by_name() {
    let tree = Tree::new(&["index.html"]);
    let _socket = std::os::unix::net::UnixListener::bind(tree.path().join("app.sock")).expect("bound");
    let problem = tree.refused();
    assert!(problem.detail.ends_with("app.sock is a socket, which cannot be deployed"), "{}", problem.detail);
    tree.write(".drowseignore", "*.sock\n");
    assert_eq!(tree.chosen(), [".drowseignore", "index.html"]);
    let fifo = tree.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).expect("made");
    assert!(tree.refused().detail.ends_with("pipe is a named pipe, which cannot be deployed"));
}

#[test]
fn a_file_that_cannot_be_read_is_told_before_anything_is_sent() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root reads every file, so none is unreadable");
        return;
    }
    let tree = Tree::new(&["index.html", "secret"]);
    fs::set_permissions(tree.path().join("secret"), fs::Permissions::from_mode(0o000)).expect("closed");
    let problem = tree.refused();
    assert!(problem.detail.contains("cannot read") && problem.detail.contains("secret"), "{}", problem.detail);
}

#[test]
fn the_archive_is_the_same_for_the_same_tree_and_holds_it() {
    let make = || {
        let tree = Tree::new(&["b.txt", "a/z", "a/y", "run.sh"]);
        fs::set_permissions(tree.path().join("run.sh"), fs::Permissions::from_mode(0o700)).expect("runnable");
        fs::set_permissions(tree.path().join("b.txt"), fs::Permissions::from_mode(0o600)).expect("private");
        symlink("b.txt", tree.path().join("link")).expect("linked");
        let long = format!("{}/{}", "n".repeat(120), "m".repeat(120));
        tree.write(&long, "far");
        tree
    };
    let source_of = |tree: &Tree| {
        let mut source = folder::choose(tree.path()).expect("chosen");
        source.entries.iter_mut().for_each(|entry| entry.modified = 1_700_000_000);
        source
    };
    let (one, two) = (make(), make());
    let bytes = packed(&source_of(&one));
    assert!(bytes == packed(&source_of(&two)), "two equal trees gave different archives");
    let held = unpacked(&bytes);
    assert_eq!(held["run.sh"], (tar::EntryType::Regular, 0o755, 1000, "x".into()));
    assert_eq!(held["b.txt"], (tar::EntryType::Regular, 0o644, 1000, "x".into()));
    assert_eq!(held["link"].0, tar::EntryType::Symlink);
    assert_eq!(held["link"].3, "b.txt");
    assert_eq!(held["a"].1, 0o755);
    assert!(held.keys().any(|path| path.len() > 240));
}

#[test]
fn a_file_that_changes_while_it_is_packed_is_told() {
    let tree = Tree::new(&["index.html"]);
    for text in ["longer than it was", ""] {
        let source = folder::choose(tree.path()).expect("chosen");
        tree.write("index.html", text);
        let result = archive::write(&source, std::io::sink(), |_| {});
        assert!(matches!(result, Err(SourceError::Changed { .. })), "{result:?}");
    }
}

#[test]
fn what_is_too_large_is_told_with_the_largest_files() {
    let tree = Tree::new(&["index.html", "small.bin"]);
    let grow = |name: &str, size: u64| {
        let file = fs::File::create(tree.path().join(name)).expect("made");
        file.set_len(size).expect("sparse");
    };
    grow("video.mp4", 2 << 30);
    grow("dump.sql", 1 << 20);
    let problem = tree.refused();
    assert_eq!(problem.code, ErrorCode::TooLarge);
    let hint = problem.hint.expect("a hint");
    assert!(hint.contains("the largest are video.mp4 (2 GiB), dump.sql (1 MiB)"), "{hint}");
}

#[test]
fn the_type_is_found_by_what_the_folder_holds() {
    let found = |files: &[&str]| {
        let tree = Tree::new(files);
        let detected = detect::detect(&folder::choose(tree.path()).expect("chosen"));
        detected.map(|found| (found.app_type, found.by, found.also.map(|(other, _)| other)))
    };
    let is = |files: &[&str]| found(files).expect("a type");
    assert_eq!(is(&["package.json", "index.html"]), (AppType::Npm, "package.json".into(), Some(AppType::Static)));
    assert_eq!(is(&["requirements.txt"]), (AppType::Python, "requirements.txt".into(), None));
    assert_eq!(is(&["main.py", "README.md"]), (AppType::Python, "main.py".into(), None));
    assert_eq!(is(&["index.html", "a.css"]), (AppType::Static, "index.html".into(), None));
    assert!(found(&["README.md", "sub/deep/index.html"]).is_err());
}

#[test]
fn a_folder_with_nothing_to_run_says_what_was_looked_for_and_what_would_help() {
    let problem = |tree: &Tree| -> Problem {
        detect::detect(&folder::choose(tree.path()).expect("chosen")).expect_err("nothing to run").into()
    };
    let nothing = problem(&Tree::new(&["README.md"]));
    assert_eq!(nothing.code, ErrorCode::NothingToRun);
    assert!(nothing.detail.ends_with(
        "package.json (npm), requirements.txt, Pipfile, pyproject.toml or *.py (python), index.html (static)"
    ));
    let deeper = problem(&Tree::new(&["README.md", "public/index.html"]));
    assert!(deeper.hint.expect("a hint").ends_with("/public"));
    let ignored = Tree::new(&["package.json"]);
    ignored.write(".gitignore", "*.json\n");
    assert!(problem(&ignored).hint.expect("a hint").starts_with("package.json is named in an ignore file"));
    let started = problem(&Tree::new(&["Procfile", "main.rb"]));
    assert!(started.hint.expect("a hint").contains("--type npm|python"));
    let bundle = Tree::new(&["config.json", "rootfs/bin/sh"]);
    assert!(problem(&bundle).hint.expect("a hint").contains("drowse deploy --bundle"));
}

#[test]
fn a_bundle_is_packed_whole_with_its_owners_and_modes() {
    let tree = Tree::new(&["rootfs/app/node_modules/x", "rootfs/app/.gitignore", "README.md"]);
    tree.write("config.json", r#"{"ociVersion": "1.0.2", "root": {"path": "./rootfs/"}}"#);
    symlink("/usr/bin/env", tree.path().join("rootfs/env")).expect("linked");
    let file = tree.path().join("rootfs/app/node_modules/x");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o4751)).expect("setuid");
    let held = unpacked(&packed(&bundle::choose(tree.path()).expect("chosen")));
    let uid = u64::from(rustix::process::geteuid().as_raw());
    assert_eq!(held["rootfs/app/node_modules/x"], (tar::EntryType::Regular, 0o4751, uid, "x".into()));
    assert_eq!(held["rootfs/env"].3, "/usr/bin/env");
    assert!(held.contains_key("config.json") && held.contains_key("rootfs") && !held.contains_key("README.md"));
}

#[test]
fn devices_of_a_bundles_dev_are_left_out_and_others_refused() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: devices_of_a_bundles_dev_are_left_out_and_others_refused: it needs root");
        return;
    }
    let tree = Tree::new(&["rootfs/dev/kept"]);
    tree.write("config.json", r#"{"root": {"path": "rootfs"}}"#);
    let device = |path: &str| {
        let made = std::process::Command::new("mknod").arg(tree.path().join(path)).args(["c", "1", "3"]).status();
        assert!(made.expect("mknod runs").success());
    };
    device("rootfs/dev/null");
    let source = bundle::choose(tree.path()).expect("chosen");
    assert_eq!(names(&source), ["config.json", "rootfs/dev/kept"]);
    assert_eq!(source.left_out[0].path, Path::new("rootfs/dev/null"));
    device("rootfs/null");
    assert!(bundle::choose(tree.path()).expect_err("refused").to_string().contains("device"));
}

#[test]
fn what_is_no_bundle_is_told() {
    let why = |tree: &Tree| bundle::choose(tree.path()).expect_err("refused").to_string();
    assert!(why(&Tree::new(&["rootfs/x"])).contains("cannot read config.json"));
    let tree = Tree::new(&["rootfs/x"]);
    tree.write("config.json", r#"{"root": {"path": "/srv/root"}}"#);
    assert!(why(&tree).contains(r#"root.path in config.json is "/srv/root" and must be "rootfs""#), "{}", why(&tree));
    let empty = Tree::new(&[]);
    empty.write("config.json", r#"{"root": {"path": "rootfs"}}"#);
    assert!(why(&empty).contains("it has no folder rootfs"));
}
