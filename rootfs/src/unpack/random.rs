//! Archives and bytes at random: whatever they say, nothing outside changes and nothing panics.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;

use super::hostile::Arena;
use super::{Policy, unpack};
use crate::archive::{Limits, decompressed};
use crate::testing::{Archive, is_root};

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
