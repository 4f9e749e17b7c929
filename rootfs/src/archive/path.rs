//! The name of an entry: relative, without dot-dot, short enough for the kernel, and not too deep.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{ArchiveError, shown};

/// The longest path the kernel takes, without its final NUL (limits.h, `PATH_MAX`).
const LONGEST_PATH: usize = 4095;
/// The longest name of one folder or file (limits.h, `NAME_MAX`).
const LONGEST_NAME: usize = 255;

/// The most folders in one another: whoever walks a tree holds a descriptor and a stack frame for each.
const DEEPEST: usize = 256;

/// A checked name: components joined by single slashes; empty for the archive's root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryPath(Vec<u8>);

impl EntryPath {
    /// Checks `raw`. A leading `./`, doubled and trailing slashes are dropped.
    ///
    /// # Errors
    /// Names the entry and the rule it breaks.
    pub fn parse(raw: &[u8]) -> Result<Self, ArchiveError> {
        let refuse = |reason| Err(ArchiveError::refused(raw, reason));
        if raw.starts_with(b"/") {
            return refuse("its name is absolute");
        }
        if raw.contains(&0) {
            return refuse("its name holds a NUL");
        }
        let mut path = Vec::with_capacity(raw.len());
        let mut depth = 0;
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return refuse("its name leads upwards with \"..\""),
                long if long.len() > LONGEST_NAME => return refuse("a part of its name has more than 255 bytes"),
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
            depth += 1;
        }
        if depth > DEEPEST {
            return refuse("it is more than 256 folders deep");
        }
        if path.len() > LONGEST_PATH {
            return refuse("its name has more than 4095 bytes");
        }
        Ok(Self(path))
    }

    /// Whether it is the archive's root itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes of the path.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path, relative.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The folder's part (empty at the top) and the last name.
    #[must_use]
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }

    /// The names on the way, the first one first.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|component| !component.is_empty())
    }
}

impl fmt::Debug for EntryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", shown(&self.0))
    }
}

impl From<EntryPath> for PathBuf {
    fn from(path: EntryPath) -> Self {
        path.as_path().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_could_lead_outside_are_refused_by_name() {
        for bad in ["/etc/passwd", "../x", "a/../../x", "a/..", "..", "a\0b"] {
            let error = EntryPath::parse(bad.as_bytes()).expect_err(bad).to_string();
            assert!(error.starts_with("archive entry "), "{error}");
        }
        assert!(EntryPath::parse(&[b'x'; 256]).is_err());
        assert!(EntryPath::parse("a/".repeat(3000).as_bytes()).is_err());
    }

    #[test]
    fn harmless_spellings_become_one() {
        for (raw, clean) in [("./a/b", "a/b"), ("a//b/", "a/b"), ("./", ""), ("..a/b..", "..a/b..")] {
            assert_eq!(EntryPath::parse(raw.as_bytes()).expect(raw).as_bytes(), clean.as_bytes());
        }
    }

    proptest! {
        #[test]
        fn what_parses_stays_below_and_parses_again(raw in prop::collection::vec(prop::sample::select(b"ab./\0".to_vec()), 0..24)) {
            if let Ok(path) = EntryPath::parse(&raw) {
                prop_assert!(!path.as_bytes().starts_with(b"/"));
                prop_assert!(path.components().all(|c| c != b".." && c != b"." && !c.is_empty()));
                prop_assert_eq!(EntryPath::parse(path.as_bytes()).expect("again"), path);
            }
        }
    }
}
