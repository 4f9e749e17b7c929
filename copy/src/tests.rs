use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use tar::{Builder, Header};

use super::*;
use crate::pack;

fn packed(path: &Path) -> (Vec<u8>, Vec<String>) {
    let (mut stream, mut notes) = (Vec::new(), Vec::new());
    pack(path, &mut stream, &mut |text| notes.push(text)).unwrap();
    (stream, notes)
}

fn unpacked(stream: &[u8], path: &Path, links: Links) -> (Result<Unpacked, CopyError>, Vec<String>) {
    let mut notes = Vec::new();
    let place = Place::find(path, OsStr::new("sent")).unwrap();
    let done = unpack(stream, &place, links, &mut |text| notes.push(text));
    (done, notes)
}

/// A stream with one entry of this kind, name and contents after a folder on top, and how it is refused.
fn entry(kind: EntryType, name: &[u8], target: &str, contents: &[u8]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut top = Header::new_gnu();
    top.set_entry_type(EntryType::Directory);
    top.set_size(0);
    top.set_mode(0o755);
    builder.append_data(&mut top, TOP, io::empty()).unwrap();
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6755);
    header.set_size(contents.len() as u64);
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    builder.append(&header, contents).unwrap();
    builder.into_inner().unwrap()
}

#[test]
fn a_folder_arrives_as_it_was_left() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let deep = from.path().join("a/b");
    fs::create_dir_all(&deep).unwrap();
    let long = "n".repeat(200);
    fs::write(deep.join(&long), vec![7; 300_000]).unwrap();
    fs::write(from.path().join("run"), "#!/bin/sh").unwrap();
    fs::set_permissions(from.path().join("run"), PermissionsExt::from_mode(0o4755)).unwrap();
    symlink("../run", from.path().join("a/link")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, from.path().join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let (stream, notes) = packed(from.path());
    assert!(notes.len() == 1 && notes[0].contains("pipe"), "{notes:?}");
    let (done, notes) = unpacked(&stream, to.path(), Links::Within);
    assert_eq!(done.unwrap(), Unpacked { files: 2, bytes: 300_009 });
    assert_eq!(notes, Vec::<String>::new());
    let sent = to.path().join("sent");
    assert_eq!(fs::read(sent.join("a/b").join(&long)).unwrap(), vec![7; 300_000]);
    assert_eq!(fs::metadata(sent.join("run")).unwrap().permissions().mode() & 0o7777, 0o755, "no setuid bit");
    assert_eq!(fs::read_link(sent.join("a/link")).unwrap(), Path::new("../run"));
    // Once more over what is there, under a name of its own.
    let (done, _) = unpacked(&stream, &to.path().join("other"), Links::Within);
    done.unwrap();
    let (done, _) = unpacked(&stream, to.path(), Links::Within);
    done.unwrap();
    assert_eq!(fs::read_dir(&sent).unwrap().count(), 2, "nothing is left beside");
}

#[test]
fn a_file_takes_the_place_of_a_file_and_not_of_a_folder() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(from.path().join("one"), "new").unwrap();
    let (stream, _) = packed(&from.path().join("one"));
    fs::write(to.path().join("there"), "old and longer").unwrap();
    let (done, _) = unpacked(&stream, &to.path().join("there"), Links::Within);
    assert_eq!(done.unwrap(), Unpacked { files: 1, bytes: 3 });
    assert_eq!(fs::read_to_string(to.path().join("there")).unwrap(), "new");
    fs::create_dir(to.path().join("sent")).unwrap();
    let error = unpacked(&stream, to.path(), Links::Within).0.unwrap_err();
    assert!(error.to_string().contains("a folder is in the way"), "{error}");
    assert!(matches!(Place::find(Path::new("/nowhere/x"), OsStr::new("y")), Err(CopyError::NotFound { .. })));
    assert!(Place::find(to.path(), OsStr::new("..")).is_err());
    assert!(matches!(Place::find(Path::new("/proc/self"), OsStr::new("y")), Err(CopyError::Refused { .. })));
}

#[test]
fn no_link_is_followed_wherever_it_comes_from() {
    let (outside, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // The stream brings the link that its next entry goes through.
    let mut builder = Builder::new(Vec::new());
    let mut link = Header::new_gnu();
    link.set_entry_type(EntryType::Symlink);
    link.set_size(0);
    let mut top = Header::new_gnu();
    top.set_entry_type(EntryType::Directory);
    top.set_size(0);
    top.set_mode(0o755);
    builder.append_data(&mut top, TOP, io::empty()).unwrap();
    builder.append_link(&mut link, "it/way", outside.path()).unwrap();
    let mut file = Header::new_gnu();
    file.set_size(4);
    builder.append_data(&mut file, "it/way/file", &b"evil"[..]).unwrap();
    let stream = builder.into_inner().unwrap();
    let error = unpacked(&stream, to.path(), Links::All).0.unwrap_err();
    assert!(error.to_string().contains("no folder is in the way"), "{error}");
    let (done, notes) = unpacked(&stream, &to.path().join("within"), Links::Within);
    assert!(matches!(done, Err(CopyError::NotFound { .. })), "its folder is not there");
    assert!(notes[0].contains("way was left out"), "{notes:?}");
    // It was there before.
    fs::create_dir(to.path().join("third")).unwrap();
    symlink(outside.path(), to.path().join("third/way")).unwrap();
    let stream = entry(EntryType::Regular, b"it/way/file", "", b"evil");
    fs::rename(to.path().join("third"), to.path().join("within")).unwrap();
    let place = Place::find(to.path(), OsStr::new("within")).unwrap();
    unpack(stream.as_slice(), &place, Links::All, &mut |_| {}).unwrap_err();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0, "nothing came outside");
    // One in the place of a file is replaced, and not written through.
    let secret = outside.path().join("secret");
    fs::write(&secret, "kept").unwrap();
    fs::create_dir(to.path().join("fourth")).unwrap();
    symlink(&secret, to.path().join("fourth/file")).unwrap();
    let stream = entry(EntryType::Regular, b"it/file", "", b"evil");
    fs::rename(to.path().join("fourth"), to.path().join("sent")).unwrap_err();
    fs::remove_dir_all(to.path().join("sent")).unwrap();
    fs::rename(to.path().join("fourth"), to.path().join("sent")).unwrap();
    unpacked(&stream, to.path(), Links::All).0.unwrap();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "kept");
    assert_eq!(fs::read_to_string(to.path().join("sent/file")).unwrap(), "evil");
}

#[test]
fn packing_follows_the_named_link_and_none_below() {
    let (from, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(outside.path().join("secret"), "secret").unwrap();
    symlink(outside.path().join("secret"), from.path().join("link")).unwrap();
    let (stream, _) = packed(from.path());
    let kind = |entry: io::Result<tar::Entry<'_, &[u8]>>| entry.unwrap().header().entry_type();
    let kinds: Vec<_> = Archive::new(stream.as_slice()).entries().unwrap().map(kind).collect();
    assert_eq!(kinds, [EntryType::Directory, EntryType::Symlink], "no file was packed");
    let (stream, _) = packed(&from.path().join("link"));
    assert!(stream.windows(6).any(|part| part == b"secret"));
    let mut note = |_| {};
    assert!(matches!(pack(Path::new("/proc/self/environ"), Vec::new(), &mut note), Err(CopyError::Refused { .. })));
    assert!(matches!(pack(Path::new("/dev/null"), Vec::new(), &mut note), Err(CopyError::Refused { .. })));
    assert!(matches!(pack(Path::new("/nowhere"), Vec::new(), &mut note), Err(CopyError::NotFound { .. })));
}

#[test]
fn hostile_entries_are_refused() {
    let to = tempfile::tempdir().unwrap();
    let hostile: [(EntryType, &[u8], &str); 9] = [
        (EntryType::Regular, b"it/../../evil", ""),
        (EntryType::Regular, b"/etc/evil", ""),
        (EntryType::Regular, b"evil", ""),
        (EntryType::Regular, b"it//evil", ""),
        (EntryType::Regular, b"it/./evil", ""),
        (EntryType::Link, b"it/evil", "/etc/passwd"),
        (EntryType::Char, b"it/evil", ""),
        (EntryType::GNUSparse, b"it/evil", ""),
        (EntryType::Symlink, b"it/evil", ""),
    ];
    for (kind, name, target) in hostile {
        let (done, _) = unpacked(&entry(kind, name, target, b""), &to.path().join("x"), Links::All);
        assert!(matches!(done, Err(CopyError::Malformed(_))), "{name:?}: {done:?}");
    }
    let (done, _) = unpacked(&entry(EntryType::GNULongName, b"long", "", &[b'x'; 20_000]), to.path(), Links::All);
    assert!(matches!(done, Err(CopyError::Malformed("a name is too long"))), "{done:?}");
    let whole = entry(EntryType::Regular, b"it/cut", "", &[1; 2000]);
    let (done, _) = unpacked(&whole[..whole.len() - 2500], to.path(), Links::All);
    assert!(matches!(done, Err(CopyError::Stream(_))), "{done:?}");
    assert!(!to.path().join("sent/cut").exists());
    assert_eq!(fs::read_dir(to.path().join("sent")).unwrap().count(), 0, "nothing half is left");
}

#[test]
fn links_lead_inside_or_are_left_out() {
    let leads = |at: &str, to: &str| leads_inside(&parts(at.as_bytes()).unwrap(), Path::new(to));
    assert!(leads("it/a/x", "../b") && leads("it/x", "a/b") && leads("it/a/b/x", "../.."));
    assert!(!leads("it/x", "..") && !leads("it/a/x", "../../b") && !leads("it/x", "/etc/passwd"));
    assert!(!leads("it/a/x", "b/../../.."), "a way up after a way down may follow another link");
}
