//! Archives that try to get out, to fill the disk, or to give power to files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tar::EntryType;
use tempfile::TempDir;

use super::{Policy, UnpackError, unpack};
use crate::archive::{ArchiveError, Exceeded, Limits, decompressed};
use crate::testing::{Archive, is_root, picture};

/// A folder to unpack into, beside one that must not change.
struct Arena {
    folder: TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Arena {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("root")).expect("a folder");
        fs::create_dir_all(folder.path().join("outside/folder")).expect("a folder");
        fs::write(folder.path().join("outside/secret"), "secret").expect("a file");
        let before = picture(&folder.path().join("outside"));
        Self { folder, before }
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn outside(&self) -> String {
        self.folder.path().join("outside").display().to_string()
    }

    fn unpack_as(&self, archive: Archive, policy: Policy) -> Result<(), UnpackError> {
        let result = unpack(&archive.end()[..], &self.root(), policy, Limits::UPLOAD);
        assert_eq!(picture(&self.folder.path().join("outside")), self.before, "something outside changed");
        let beside: Vec<_> = fs::read_dir(self.folder.path()).expect("the arena").collect();
        assert_eq!(beside.len(), 2, "something appeared beside the root");
        result
    }

    fn unpack(&self, archive: Archive) -> Result<(), UnpackError> {
        self.unpack_as(archive, Policy::Layer)
    }
}

/// Unpacks and expects a refusal that names `entry`.
fn refused(arena: &Arena, archive: Archive, entry: &str) -> String {
    match arena.unpack(archive) {
        Err(UnpackError::Archive(ArchiveError::Refused { entry: named, reason })) => {
            assert_eq!(named, entry, "another entry was named: {reason}");
            reason.to_owned()
        }
        other => panic!("{entry} was not refused: {other:?}"),
    }
}

#[test]
fn names_that_lead_upwards_or_are_absolute_are_refused() {
    if !is_root("names_that_lead_upwards_or_are_absolute_are_refused") {
        return;
    }
    for name in ["../outside/x", "a/../../outside/x", "/etc/x", "..", "a/.."] {
        refused(&Arena::new(), Archive::new().file(name, "x"), name);
        refused(&Arena::new(), Archive::new().folder(name), name);
        refused(&Arena::new(), Archive::new().symlink(name, "x"), name);
        let long = Archive::new().long_name(format!("{name}\0").as_bytes()).file("harmless", "x");
        refused(&Arena::new(), long, name);
        refused(&Arena::new(), Archive::new().pax("path", name.as_bytes()).file("harmless", "x"), name);
    }
}

#[test]
fn no_entry_is_written_through_a_symbolic_link_that_leads_outside() {
    if !is_root("no_entry_is_written_through_a_symbolic_link_that_leads_outside") {
        return;
    }
    let arena = Arena::new();
    for target in
        [&arena.outside()[..], "../outside", "..", "a/../../outside", "/", "/proc/self/root", "/proc/self/cwd"]
    {
        let start = || Archive::new().folder("a").symlink("link", target);
        refused(&Arena::new(), start().file("link/x", "x"), "link/x");
        refused(&Arena::new(), start().file("link/folder/x", "x"), "link/folder/x");
        refused(&Arena::new(), start().folder("link/x"), "link/x");
        refused(&Arena::new(), start().symlink("link/x", "y"), "link/x");
        refused(&Arena::new(), start().file("link/.wh.secret", ""), "link/.wh.secret");
        refused(&Arena::new(), start().file("link/.wh..wh..opq", ""), "link/.wh..wh..opq");
        refused(&Arena::new(), start().hardlink("stolen", "link/secret"), "stolen");
        refused(&Arena::new(), start().symlink("chain", "link").file("chain/x", "x"), "chain/x");
    }
    let outside = arena.outside();
    let replaced = Archive::new().folder("d").symlink("d", &outside).file("d/x", "x");
    assert_eq!(refused(&arena, replaced, "d/x"), "the way to it leads outside through a symbolic link");
}

#[test]
fn a_file_takes_the_place_of_a_link_and_is_not_written_through_it() {
    if !is_root("a_file_takes_the_place_of_a_link_and_is_not_written_through_it") {
        return;
    }
    let arena = Arena::new();
    let secret = format!("{}/secret", arena.outside());
    let folder = format!("{}/folder", arena.outside());
    let archive =
        Archive::new().symlink("f", &secret).file("f", "mine").symlink("d", &folder).folder("d").file("d/x", "x");
    arena.unpack(archive).expect("unpacks");
    assert_eq!(fs::read_to_string(arena.root().join("f")).expect("f"), "mine");
    assert!(fs::symlink_metadata(arena.root().join("d")).expect("d").is_dir());
}

#[test]
fn hard_links_reach_only_what_came_before() {
    if !is_root("hard_links_reach_only_what_came_before") {
        return;
    }
    for target in ["../outside/secret", "/etc/passwd", "missing", "folder", "", "."] {
        refused(&Arena::new(), Archive::new().folder("folder").hardlink("stolen", target), "stolen");
    }
    refused(&Arena::new(), Archive::new().raw(EntryType::Link, b"l", b"x", 0o644, 4, b"data"), "l");
    let arena = Arena::new();
    arena.unpack(Archive::new().file("a", "x").hardlink("b", "a").hardlink("a", "a")).expect("unpacks");
    let (a, b) = (fs::metadata(arena.root().join("a")).expect("a"), fs::metadata(arena.root().join("b")).expect("b"));
    assert_eq!(a.ino(), b.ino());
}

#[test]
fn device_nodes_are_refused_and_left_out_below_dev() {
    if !is_root("device_nodes_are_refused_and_left_out_below_dev") {
        return;
    }
    for kind in [EntryType::Char, EntryType::Block] {
        refused(&Arena::new(), Archive::new().special(kind, "sda"), "sda");
        let arena = Arena::new();
        arena.unpack(Archive::new().folder("dev").special(kind, "dev/sda")).expect("unpacks");
        assert!(!arena.root().join("dev/sda").exists());
    }
}

#[test]
fn privileges_do_not_survive() {
    if !is_root("privileges_do_not_survive") {
        return;
    }
    let arena = Arena::new();
    let capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let archive = Archive::new()
        .with_mode("su", 0o6755, "x")
        .pax("SCHILY.xattr.security.capability", capability)
        .file("ping", "x")
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
        .folder("trap")
        .pax("SCHILY.xattr.user.note", b"a\nb")
        .file("noted", "x");
    arena.unpack(archive).expect("unpacks");
    assert_eq!(fs::metadata(arena.root().join("su")).expect("su").mode() & 0o7777, 0o755);
    let xattr = |path: &str, name: &str| {
        let mut value = [0_u8; 64];
        let length = rustix::fs::getxattr(arena.root().join(path), name, &mut value).ok()?;
        Some(value[..length].to_vec())
    };
    assert_eq!(xattr("ping", "security.capability"), None);
    assert_eq!(xattr("trap", "trusted.overlay.redirect"), None);
    assert_eq!(xattr("noted", "user.note"), Some(b"a\nb".to_vec()));
}

#[test]
fn whiteouts_take_overlayfs_form_and_strange_ones_are_refused() {
    if !is_root("whiteouts_take_overlayfs_form_and_strange_ones_are_refused") {
        return;
    }
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        refused(&Arena::new(), Archive::new().folder("a").file(name, ""), name);
    }
    let arena = Arena::new();
    let archive = Archive::new()
        .file("etc/.wh.gone", "")
        .folder("opaque")
        .file("opaque/.wh..wh..opq", "")
        .file("opaque/kept", "x")
        .file(".wh.again", "")
        .folder("again")
        .file("again/x", "x")
        .file(".wh.file", "")
        .file("file", "new")
        .file(".wh..wh.plnk", "");
    arena.unpack(archive).expect("unpacks");
    let gone = fs::symlink_metadata(arena.root().join("etc/gone")).expect("a whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for folder in ["opaque", "again"] {
        let mut value = [0_u8; 8];
        let length = rustix::fs::getxattr(arena.root().join(folder), super::OPAQUE_XATTR, &mut value).expect(folder);
        assert_eq!(&value[..length], b"y");
    }
    assert_eq!(fs::read_to_string(arena.root().join("file")).expect("file"), "new");
    assert!(!arena.root().join(".wh..wh.plnk").exists());
}

#[test]
fn archives_that_contradict_themselves_are_refused() {
    if !is_root("archives_that_contradict_themselves_are_refused") {
        return;
    }
    refused(&Arena::new(), Archive::new().file("f", "x").file("f/x", "x"), "f/x");
    refused(&Arena::new(), Archive::new().file("d/x", "x").file("d", "x"), "d");
    refused(&Arena::new(), Archive::new().symlink("l", "l").file("l/x", "x"), "l/x");
    refused(&Arena::new(), Archive::new().symlink("l", "nowhere").file("l/x", "x"), "l/x");
    refused(&Arena::new(), Archive::new().pax("size", b"700").file("f", "x"), "f");
    refused(&Arena::new(), Archive::new().pax("GNU.sparse.major", b"1").file("f", "x"), "f");
    refused(&Arena::new(), Archive::new().raw(EntryType::Symlink, b"l", b"", 0o777, 0, b""), "l");
    refused(&Arena::new(), Archive::new().pax("path", b"a\0b").file("f", "x"), "a\0b");
    let twice = Archive::new().long_name(b"a\0").long_name(b"b\0").file("f", "x");
    assert!(Arena::new().unpack(twice).is_err());
}

#[test]
fn an_archive_that_ends_too_early_is_an_error() {
    if !is_root("an_archive_that_ends_too_early_is_an_error") {
        return;
    }
    let whole = Archive::new().file("a", &"x".repeat(3000)).end();
    for length in [100, 600, 2000, 3500] {
        let arena = Arena::new();
        let result = unpack(&whole[..length], &arena.root(), Policy::Layer, Limits::LAYER);
        assert!(matches!(result, Err(UnpackError::Archive(ArchiveError::Read(_)))), "{length}: {result:?}");
    }
    let arena = Arena::new();
    let dangling = Archive::new().long_name(b"name\0").end();
    assert!(unpack(&dangling[..], &arena.root(), Policy::Layer, Limits::LAYER).is_err());
}

#[test]
fn every_cap_holds() {
    if !is_root("every_cap_holds") {
        return;
    }
    let arena = Arena::new();
    let small = Limits { bytes: 10_000, entries: 3, ratio: 200, extension: 1000 };
    let run = |bytes: &[u8], limits: Limits| match decompressed(bytes, limits)
        .map(|stream| unpack(stream, &arena.root(), Policy::Layer, limits))
    {
        Ok(Err(UnpackError::Archive(ArchiveError::Exceeded(cap)))) => cap,
        other => panic!("no cap was reached: {other:?}"),
    };
    let many = ["a", "b", "c", "d"].iter().fold(Archive::new(), |archive, name| archive.file(name, "")).end();
    assert_eq!(run(&many, small), Exceeded::Entries(3));
    assert!(matches!(run(&Archive::new().file("a", &"x".repeat(20_000)).end(), small), Exceeded::Bytes(_)));
    let long = Archive::new().long_name(&[b'x'; 2000]).file("f", "x").end();
    assert!(matches!(run(&long, small), Exceeded::Extension(_)));
    let claimed = Archive::new().raw(EntryType::XHeader, b"pax", b"", 0o644, 1 << 40, b"").end();
    assert!(matches!(run(&claimed, Limits::LAYER), Exceeded::Extension(_)));
    let zeros = Archive::new().file("zeros", &"\0".repeat(100 << 20)).end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&zeros).expect("compresses");
    assert_eq!(run(&gzip.finish().expect("compresses"), Limits::LAYER), Exceeded::Ratio(200));
    let zstd = zstd::encode_all(&zeros[..], 1).expect("compresses");
    assert_eq!(run(&zstd, Limits::LAYER), Exceeded::Ratio(200));
}

#[test]
fn an_upload_is_normalised_and_holds_only_plain_things() {
    if !is_root("an_upload_is_normalised_and_holds_only_plain_things") {
        return;
    }
    let policy = Policy::Upload { owner: 1000 };
    for archive in [
        Archive::new().file("a", "x").hardlink("b", "a"),
        Archive::new().special(EntryType::Fifo, "pipe"),
        Archive::new().special(EntryType::Char, "dev/null"),
        Archive::new().file(".wh.passwd", ""),
    ] {
        assert!(Arena::new().unpack_as(archive, policy).is_err());
    }
    let arena = Arena::new();
    let archive = Archive::owned(77)
        .with_mode("run.sh", 0o4700, "#!/bin/sh")
        .with_mode("data", 0o600, "x")
        .file("deep/er/file", "x")
        .symlink("link", "/etc/passwd")
        .file(".git/config", "x")
        .file("sub/.git/HEAD", "x");
    arena.unpack_as(archive, policy).expect("unpacks");
    let mode = |path: &str| fs::symlink_metadata(arena.root().join(path)).expect(path).mode() & 0o7777;
    assert_eq!((mode("run.sh"), mode("data"), mode("deep/er")), (0o755, 0o644, 0o755));
    for path in ["run.sh", "data", "deep", "deep/er", "deep/er/file", "link"] {
        let metadata = fs::symlink_metadata(arena.root().join(path)).expect(path);
        assert_eq!((metadata.uid(), metadata.gid()), (1000, 1000), "{path}");
    }
    assert!(!arena.root().join(".git").exists() && !arena.root().join("sub/.git").exists());
}

#[derive(Debug, Clone)]
enum Step {
    File(String),
    Folder(String),
    Symlink(String, String),
    Hardlink(String, String),
}

fn names() -> impl Strategy<Value = String> {
    let part =
        prop::sample::select(vec!["a", "b", "..", ".", "", ".wh.a", ".wh..wh..opq", "outside", "proc", "secret"]);
    prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"))
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let targets = || prop_oneof![names(), names().prop_map(|name| format!("/{name}")), Just("../outside".to_owned())];
    let step = prop_oneof![
        names().prop_map(Step::File),
        names().prop_map(Step::Folder),
        (names(), targets()).prop_map(|(name, target)| Step::Symlink(name, target)),
        (names(), targets()).prop_map(|(name, target)| Step::Hardlink(name, target)),
    ];
    prop::collection::vec(step, 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_an_archive_says_nothing_outside_changes(steps in steps()) {
        if is_root("whatever_an_archive_says_nothing_outside_changes") {
            let archive = steps.iter().fold(Archive::new(), |archive, step| match step {
                Step::File(name) => archive.file(name, "x"),
                Step::Folder(name) => archive.folder(name),
                Step::Symlink(name, target) => archive.symlink(name, target),
                Step::Hardlink(name, target) => archive.hardlink(name, target),
            });
            // The arena itself asserts; whether it unpacks is not the question.
            let arena = Arena::new();
            let _ = arena.unpack(archive);
            let secret = fs::metadata(Path::new(&arena.outside()).join("secret")).expect("the secret");
            prop_assert_eq!(secret.nlink(), 1);
        }
    }

    #[test]
    fn bytes_at_random_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
        if is_root("bytes_at_random_are_an_error_and_no_panic") {
            let arena = Arena::new();
            let _ = decompressed(&bytes[..], Limits::UPLOAD).map(|stream| unpack(stream, &arena.root(), Policy::Layer, Limits::UPLOAD));
        }
    }
}
