//! What archives may hold and what becomes of it: powers that are taken away, caps that hold. What is refused
//! is in [`crate::hostile`].

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use tar::EntryType;
use tempfile::TempDir;

use super::{Policy, UnpackError, unpack};
use crate::archive::{ArchiveError, Exceeded, Limits, decompressed};
use crate::testing::{Archive, is_root, picture};

/// A folder to unpack into, beside one that must not change.
pub(super) struct Arena {
    folder: TempDir,
    before: BTreeMap<PathBuf, String>,
}

impl Arena {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("root")).expect("a folder");
        fs::create_dir_all(folder.path().join("outside/folder")).expect("a folder");
        fs::write(folder.path().join("outside/secret"), "secret").expect("a file");
        let before = picture(&folder.path().join("outside"));
        Self { folder, before }
    }

    pub(super) fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    pub(super) fn outside(&self) -> String {
        self.folder.path().join("outside").display().to_string()
    }

    fn unpack_as(&self, archive: Archive, policy: Policy) -> Result<(), UnpackError> {
        let result = unpack(&archive.end()[..], &self.root(), policy, Limits::UPLOAD);
        assert_eq!(picture(&self.folder.path().join("outside")), self.before, "something outside changed");
        let beside: Vec<_> = fs::read_dir(self.folder.path()).expect("the arena").collect();
        assert_eq!(beside.len(), 2, "something appeared beside the root");
        result
    }

    pub(super) fn unpack(&self, archive: Archive) -> Result<(), UnpackError> {
        self.unpack_as(archive, Policy::Layer)
    }
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
fn hard_links_are_names_of_one_file() {
    if !is_root("hard_links_are_names_of_one_file") {
        return;
    }
    let arena = Arena::new();
    arena.unpack(Archive::new().file("a", "x").hardlink("b", "a").hardlink("a", "a")).expect("unpacks");
    let (a, b) = (fs::metadata(arena.root().join("a")).expect("a"), fs::metadata(arena.root().join("b")).expect("b"));
    assert_eq!(a.ino(), b.ino());
}

#[test]
fn device_nodes_below_dev_are_left_out() {
    if !is_root("device_nodes_below_dev_are_left_out") {
        return;
    }
    for kind in [EntryType::Char, EntryType::Block] {
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
        .pax("SCHILY.xattr.user.overlay.redirect", b"/etc")
        .folder("user-trap")
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
    assert_eq!(xattr("user-trap", "user.overlay.redirect"), None);
    assert_eq!(xattr("noted", "user.note"), Some(b"a\nb".to_vec()));
}

#[test]
fn whiteouts_take_overlayfs_form() {
    if !is_root("whiteouts_take_overlayfs_form") {
        return;
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
fn a_million_entries_are_too_many_however_little_each_of_them_does() {
    if !is_root("a_million_entries_are_too_many_however_little_each_of_them_does") {
        return;
    }
    let one = Archive::new().special(EntryType::XGlobalHeader, "pax").unfinished().repeat(2_000);
    let endless = std::iter::repeat_n(&one[..], 501)
        .fold(Box::new(std::io::empty()) as Box<dyn Read>, |all, more| Box::new(all.chain(more)));
    let result = unpack(endless, &Arena::new().root(), Policy::Layer, Limits::LAYER);
    assert!(matches!(result, Err(UnpackError::Archive(ArchiveError::Exceeded(Exceeded::Entries(1_000_000))))));
}

#[test]
fn an_upload_is_normalised_and_holds_only_plain_things() {
    if !is_root("an_upload_is_normalised_and_holds_only_plain_things") {
        return;
    }
    let policy = Policy::Upload { owner: 1000 };
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
