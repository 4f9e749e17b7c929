//! Quantities that carry their unit in the type.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// An amount of memory or disk, in bytes. Serialised as a number; read from text such as `512MiB`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MemoryBytes(pub u64);

/// A text that is no amount of memory.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an amount of memory; write for example 512MiB or 2GiB")]
pub struct AmountError(String);

impl MemoryBytes {
    /// So many KiB.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n * 1024)
    }

    /// So many MiB.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n * 1024 * 1024)
    }

    /// So many GiB.
    #[must_use]
    pub const fn gib(n: u64) -> Self {
        Self(n * 1024 * 1024 * 1024)
    }
}

impl fmt::Display for MemoryBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        for (size, unit) in UNITS {
            if self.0 >= size {
                let tenths = self.0 * 10 / size;
                return if tenths.is_multiple_of(10) {
                    write!(f, "{} {unit}", tenths / 10)
                } else {
                    write!(f, "{}.{} {unit}", tenths / 10, tenths % 10)
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl FromStr for MemoryBytes {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let bad = || AmountError(text.to_owned());
        let digits = text.trim().trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let number: u64 = digits.parse().map_err(|_| bad())?;
        let factor = match text.trim()[digits.len()..].trim() {
            "" | "B" => 1,
            "KiB" | "K" => 1 << 10,
            "MiB" | "M" => 1 << 20,
            "GiB" | "G" => 1 << 30,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(Self).ok_or_else(bad)
    }
}

impl<'de> Deserialize<'de> for MemoryBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Amount)
    }
}

/// Reads a number of bytes, or a text.
struct Amount;

impl Visitor<'_> for Amount {
    type Value = MemoryBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of bytes, or a text such as \"512MiB\"")
    }

    fn visit_u64<E: Error>(self, bytes: u64) -> Result<MemoryBytes, E> {
        Ok(MemoryBytes(bytes))
    }

    fn visit_i64<E: Error>(self, bytes: i64) -> Result<MemoryBytes, E> {
        u64::try_from(bytes).map(MemoryBytes).map_err(|_| E::custom("an amount of memory is not negative"))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<MemoryBytes, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_and_print() {
        assert_eq!("512MiB".parse(), Ok(MemoryBytes::mib(512)));
        assert_eq!("2 GiB".parse(), Ok(MemoryBytes::gib(2)));
        assert_eq!(MemoryBytes::mib(1536).to_string(), "1.5 GiB");
        assert!("lots".parse::<MemoryBytes>().is_err());
        assert!("99999999999GiB".parse::<MemoryBytes>().is_err());
    }

    #[test]
    fn amounts_are_read_from_numbers_and_from_text() {
        let read = serde_json::from_str::<MemoryBytes>;
        assert_eq!(read("536870912").expect("a number"), MemoryBytes::mib(512));
        assert_eq!(read("\"512MiB\"").expect("a text"), MemoryBytes::mib(512));
        assert!(read("-1").is_err() && read("\"many\"").is_err() && read("1.5").is_err());
        assert_eq!(serde_json::to_string(&MemoryBytes::kib(1)).expect("writes"), "1024");
    }
}
