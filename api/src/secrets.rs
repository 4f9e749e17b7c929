//! Values that are given to an app and shown to nobody.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The most bytes of one secret's value. The kernel takes 128 KiB for a variable with its name.
pub const MAX_SECRET: usize = 64 << 10;

/// Secret values by name. As JSON it is the values, for the wire alone; for people and logs (`Debug`)
/// it is the names.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secrets(BTreeMap<String, String>);

impl Secrets {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Names and values.
    pub fn reveal(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl FromIterator<(String, String)> for Secrets {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        Self(pairs.into_iter().collect())
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_prints_it_prints_the_names() {
        let secrets: Secrets = [("TOKEN".to_owned(), "planted".to_owned())].into_iter().collect();
        assert_eq!(format!("{secrets:?}"), "{\"TOKEN\"}");
        assert_eq!(serde_json::to_string(&secrets).expect("JSON"), r#"{"TOKEN":"planted"}"#);
    }
}
