//! The name of a cached layer of dependencies: by all that decides on what is in it.

use drowse_api::Digest;
use sha2::Digest as _;

/// The tag for `files` (names and contents) installed by `command` over the base image `base`.
pub(super) fn tag(base: &Digest, command: &str, files: &[(String, Vec<u8>)]) -> String {
    let mut hash = sha2::Sha256::new();
    let mut part = |bytes: &[u8]| {
        // With lengths, so that no two lists of parts read the same.
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(base.as_str().as_bytes());
    part(command.as_bytes());
    for (name, content) in files {
        part(name.as_bytes());
        part(content);
    }
    let sum: [u8; 32] = hash.finalize().into();
    format!("deps/{}", Digest::from_sha256(sum).hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_changes_with_base_command_and_every_file() {
        let base = |byte| Digest::from_sha256([byte; 32]);
        let files = |text: &str| vec![("package-lock.json".to_owned(), text.as_bytes().to_vec())];
        let key = tag(&base(1), "npm ci", &files("a"));
        assert_eq!(key, tag(&base(1), "npm ci", &files("a")));
        for other in [
            tag(&base(2), "npm ci", &files("a")),
            tag(&base(1), "npm install", &files("a")),
            tag(&base(1), "npm ci", &files("b")),
        ] {
            assert_ne!(key, other);
        }
    }
}
