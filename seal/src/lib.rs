//! Values on disk that only the holder of a key file can read: XChaCha20-Poly1305 under a random key,
//! with a random nonce for each value (24 bytes, so that none comes twice).
//!
//! A leaf: it knows nothing of what is sealed, nor for whom. Whoever seals says what the value is,
//! and it opens as that and nothing else: a sealed value that was moved elsewhere is refused.

#![forbid(unsafe_code)]

mod file;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use file::KeyError;

const KEY: usize = 32;
const NONCE: usize = 24;

/// Which key sealed a value. Made from the key, which it does not tell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A value that cannot be read without its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The key.
    pub key: KeyId,
    nonce: String,
    text: String,
}

impl Sealed {
    /// The bytes that it takes, more or less.
    #[must_use]
    pub fn size(&self) -> usize {
        self.text.len() + self.nonce.len()
    }
}

/// Why a sealed value cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Another key sealed it.
    #[error("it is sealed with key {sealed}, and this is key {ours}")]
    OtherKey {
        /// The key that sealed it.
        sealed: KeyId,
        /// The key that was tried.
        ours: KeyId,
    },
    /// It was changed, or is not what it was asked for as.
    #[error("it is damaged, or was sealed as something else")]
    Damaged,
}

/// Why a value cannot be sealed: the system gives no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct SealError;

/// A key. What prints it prints its id.
#[derive(Clone)]
pub struct Key {
    id: KeyId,
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Key").field(&self.id).finish()
    }
}

impl Key {
    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY]) -> Self {
        let sum: [u8; 32] = Sha256::new().chain_update(b"drowse key id\0").chain_update(bytes).finalize().into();
        let id = sum[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        Self { id: KeyId(id), cipher: XChaCha20Poly1305::new(bytes.into()) }
    }

    /// Which key it is.
    #[must_use]
    pub fn id(&self) -> &KeyId {
        &self.id
    }

    /// Seals `value`, which is `what`.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&self, what: &str, value: &[u8]) -> Result<Sealed, SealError> {
        let mut nonce = [0_u8; NONCE];
        getrandom::fill(&mut nonce).map_err(|_| SealError)?;
        let payload = Payload { msg: value, aad: what.as_bytes() };
        let text = self.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| SealError)?;
        Ok(Sealed { key: self.id.clone(), nonce: BASE64.encode(nonce), text: BASE64.encode(text) })
    }

    /// Reads a value that was sealed as `what`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, what: &str, sealed: &Sealed) -> Result<Vec<u8>, OpenError> {
        if sealed.key != self.id {
            return Err(OpenError::OtherKey { sealed: sealed.key.clone(), ours: self.id.clone() });
        }
        let nonce = BASE64.decode(&sealed.nonce).map_err(|_| OpenError::Damaged)?;
        let nonce: [u8; NONCE] = nonce.try_into().map_err(|_| OpenError::Damaged)?;
        let text = BASE64.decode(&sealed.text).map_err(|_| OpenError::Damaged)?;
        let payload = Payload { msg: &text, aad: what.as_bytes() };
        self.cipher.decrypt(&XNonce::from(nonce), payload).map_err(|_| OpenError::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(byte: u8) -> Key {
        Key::from_bytes(&[byte; KEY])
    }

    proptest! {
        #[test]
        fn a_value_opens_as_what_it_was_sealed_as_and_as_nothing_else(value: Vec<u8>, what: String) {
            let sealed = key(1).seal(&what, &value).expect("seals");
            prop_assert_eq!(key(1).open(&what, &sealed), Ok(value));
            prop_assert_eq!(key(1).open(&format!("{what}."), &sealed), Err(OpenError::Damaged));
        }
    }

    #[test]
    fn another_key_is_named_and_a_changed_value_is_refused() {
        let sealed = key(1).seal("what", b"value").expect("seals");
        let error = key(2).open("what", &sealed).expect_err("another key");
        assert_eq!(error, OpenError::OtherKey { sealed: key(1).id().clone(), ours: key(2).id().clone() });
        for changed in [
            Sealed { text: BASE64.encode(b"0123456789abcdef0123"), ..sealed.clone() },
            Sealed { text: "?".to_owned(), ..sealed.clone() },
            Sealed { nonce: BASE64.encode([0; NONCE]), ..sealed.clone() },
            Sealed { nonce: String::new(), ..sealed.clone() },
        ] {
            assert_eq!(key(1).open("what", &changed), Err(OpenError::Damaged));
        }
    }

    #[test]
    fn the_same_value_is_never_sealed_alike_and_nothing_prints_it() {
        let (one, two) = (key(1).seal("a", b"planted"), key(1).seal("a", b"planted"));
        assert_ne!(one, two);
        let shown =
            format!("{:?} {:?} {}", key(1), one, serde_json::to_string(&one.clone().expect("seals")).expect("JSON"));
        assert!(!shown.contains("planted") && !shown.contains(&BASE64.encode("planted")), "{shown}");
    }
}
