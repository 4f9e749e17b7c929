//! Values with a kind and a version, as JSON.
//!
//! A record that a newer program wrote is refused, never guessed at; one of an older version is
//! brought up to date by its own type when it is read.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{Entry, StoreError};

/// A type that is kept in the store.
pub trait Record: Serialize + DeserializeOwned {
    /// The first part of its keys: `app`, `deployment`, …
    const KIND: &'static str;
    /// The version that this program writes.
    const VERSION: u32;

    /// The second part of its key.
    fn id(&self) -> String;

    /// Brings a value of an older version up to date.
    #[must_use]
    fn upgrade(_version: u32, value: serde_json::Value) -> serde_json::Value {
        value
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(flatten)]
    value: T,
}

/// The prefix of all keys of a kind.
#[must_use]
pub fn prefix<T: Record>() -> String {
    format!("{}/", T::KIND)
}

/// The key of a record with this id.
#[must_use]
pub fn key<T: Record>(id: &str) -> String {
    format!("{}/{id}", T::KIND)
}

/// The value that is stored for `record`.
///
/// # Errors
/// If it cannot be written as JSON.
pub fn encode<T: Record>(record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(&Envelope { version: T::VERSION, value: record }).map_err(|source| StoreError::BadRecord {
        key: key::<T>(&record.id()),
        kind: T::KIND,
        source,
    })
}

/// The record in an entry.
///
/// # Errors
/// If it is not such a record, or of a newer version.
pub fn decode<T: Record>(entry: &Entry) -> Result<T, StoreError> {
    let bad = |source| StoreError::BadRecord { key: entry.key.clone(), kind: T::KIND, source };
    let Envelope { version, value } =
        serde_json::from_slice::<Envelope<serde_json::Value>>(&entry.value).map_err(bad)?;
    if version > T::VERSION {
        return Err(StoreError::NewerRecord { key: entry.key.clone(), found: version, supported: T::VERSION });
    }
    let value = if version < T::VERSION { T::upgrade(version, value) } else { value };
    serde_json::from_value(value).map_err(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Revision;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Pet {
        name: String,
        legs: u32,
    }

    impl Record for Pet {
        const KIND: &'static str = "pet";
        const VERSION: u32 = 2;
        fn id(&self) -> String {
            self.name.clone()
        }
        fn upgrade(_version: u32, mut value: serde_json::Value) -> serde_json::Value {
            value["legs"] = 4.into();
            value
        }
    }

    fn entry(value: &[u8]) -> Entry {
        Entry { key: "pet/rex".into(), value: value.to_vec(), created: Revision(1), modified: Revision(1) }
    }

    #[test]
    fn a_record_survives_a_round_trip() {
        let pet = Pet { name: "rex".into(), legs: 3 };
        let bytes = encode(&pet).expect("encodes");
        assert_eq!(decode::<Pet>(&entry(&bytes)).expect("decodes"), pet);
    }

    #[test]
    fn an_older_record_is_brought_up_to_date() {
        let pet = decode::<Pet>(&entry(br#"{"version":1,"name":"rex"}"#)).expect("decodes");
        assert_eq!(pet.legs, 4);
    }

    #[test]
    fn a_newer_record_is_refused() {
        let error = decode::<Pet>(&entry(br#"{"version":3,"name":"rex","wings":2}"#)).expect_err("newer");
        assert!(matches!(error, StoreError::NewerRecord { found: 3, supported: 2, .. }), "{error}");
    }
}
