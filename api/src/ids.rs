//! Names and ids, parsed once into types that cannot be wrong.
//!
//! Every type here is made by a checked constructor (`parse`, `generate`), serialises as its text
//! and refuses anything else when read.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// App names that would shadow a host name of the platform itself.
pub const RESERVED_APP_NAMES: &[&str] = &[
    "admin",
    "agent",
    "api",
    "app",
    "apps",
    "auth",
    "billing",
    "cdn",
    "controller",
    "dashboard",
    "docs",
    "drowse",
    "ftp",
    "git",
    "help",
    "imap",
    "internal",
    "localhost",
    "login",
    "mail",
    "metrics",
    "node",
    "ns1",
    "ns2",
    "pop",
    "registry",
    "root",
    "router",
    "smtp",
    "static",
    "status",
    "support",
    "system",
    "test",
    "webmail",
    "www",
];

/// The longest id: it must fit, with its prefix and an app name of 40, into a DNS label of 63.
pub const MAX_ID_LENGTH: usize = 16;

/// Why a text is not the id or name it was given as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Too short or too long.
    #[error("{what} {text:?} has {length} characters; it needs {min} to {max}")]
    Length {
        /// What was parsed.
        what: &'static str,
        /// The text, cut to a readable length.
        text: String,
        /// How long it was, in characters.
        length: usize,
        /// Fewest characters allowed.
        min: usize,
        /// Most characters allowed.
        max: usize,
    },
    /// A character or an arrangement that is not allowed.
    #[error("{what} {text:?} is not allowed: {rule}")]
    Form {
        /// What was parsed.
        what: &'static str,
        /// The text, cut to a readable length.
        text: String,
        /// The rule it breaks, as a sentence for users.
        rule: &'static str,
    },
    /// An app name that the platform keeps for itself.
    #[error("app name {text:?} is reserved for the platform; choose another, such as \"my-{text}\"")]
    Reserved {
        /// The reserved name.
        text: String,
    },
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_length(what: &'static str, text: &str, min: usize, max: usize) -> Result<(), NameError> {
    let length = text.chars().count();
    if length < min || length > max {
        return Err(NameError::Length { what, text: shown(text), length, min, max });
    }
    Ok(())
}

fn check_label(what: &'static str, text: &str) -> Result<(), NameError> {
    let form = |rule| NameError::Form { what, text: shown(text), rule };
    if !text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return Err(form("use only a-z, 0-9 and hyphen"));
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(form("begin and end with a letter or a digit"));
    }
    Ok(())
}

/// 10 characters of a-z and 2-7 from the system's generator: 50 bits, so that ids do not collide.
fn random_id() -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut bytes = [0_u8; 10];
    getrandom::fill(&mut bytes).expect("the kernel's random generator answers");
    bytes.iter().map(|b| char::from(ALPHABET[usize::from(b & 31)])).collect()
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text`.
            ///
            /// # Errors
            /// Says which rule the text breaks.
            pub fn parse(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(&text)?;
                Ok(Self(text))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::parse(text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! random_id_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        text_type!($(#[$doc])* $name, |text| {
            check_length($what, text, 1, MAX_ID_LENGTH)?;
            check_label($what, text)?;
            if text.contains("--") {
                return Err(NameError::Form { what: $what, text: shown(text), rule: "no two hyphens in a row" });
            }
            Ok(())
        });

        impl $name {
            /// A new random id of 10 characters.
            #[must_use]
            pub fn generate() -> Self {
                Self(random_id())
            }
        }
    };
}

text_type!(
    /// The name of an app, unique on the platform and its DNS label: 3 to 40 of a-z, 0-9 and hyphen,
    /// alphanumeric at both ends, never `--`, not reserved.
    AppName,
    |text| {
        check_length("app name", text, 3, 40)?;
        check_label("app name", text)?;
        if text.contains("--") {
            return Err(NameError::Form { what: "app name", text: shown(text), rule: "no two hyphens in a row" });
        }
        if RESERVED_APP_NAMES.contains(&text) {
            return Err(NameError::Reserved { text: text.to_owned() });
        }
        Ok(())
    }
);
random_id_type!(
    /// One immutable version of an app.
    DeploymentId, "deployment id"
);
random_id_type!(
    /// One copy of a deployment. It survives restarts, sleep and the agent.
    InstanceId, "instance id"
);
random_id_type!(
    /// A user of the platform.
    UserId, "user id"
);
random_id_type!(
    /// The public half of an access token.
    TokenId, "token id"
);
random_id_type!(
    /// The lineage of a controller's records: made with its database, and kept by its backups.
    ControllerId, "controller id"
);
random_id_type!(
    /// One start of a controller. Revisions of routing tables can be compared within one only.
    RunId, "run id"
);
random_id_type!(
    /// One log of an agent's events. Numbers of events can be compared within one only.
    EventLogId, "event log id"
);
text_type!(
    /// A host that runs an agent.
    NodeName,
    |text| {
        check_length("node name", text, 1, 63)?;
        check_label("node name", text)
    }
);
text_type!(
    /// A host name in lower case without a trailing dot (RFC 1123), as the router compares it.
    HostName,
    |text| {
        check_length("host name", text, 1, 253)?;
        if text.split('.').any(|label| label.is_empty() || label.len() > 63) {
            return Err(NameError::Form { what: "host name", text: shown(text), rule: "each label has 1 to 63 characters" });
        }
        text.split('.').try_for_each(|label| check_label("host name", label))
    }
);
text_type!(
    /// The digest of a blob: `sha256:` and 64 hexadecimal digits (OCI image specification, descriptor).
    Digest,
    |text| {
        let hex = text.strip_prefix("sha256:").unwrap_or_default();
        if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(NameError::Form {
                what: "digest",
                text: shown(text),
                rule: "it is sha256: and 64 lower-case hexadecimal digits",
            });
        }
        Ok(())
    }
);

impl Digest {
    /// The digest with these 32 bytes.
    #[must_use]
    pub fn from_sha256(bytes: [u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in bytes {
            write!(text, "{byte:02x}").expect("writing to a string does not fail");
        }
        Self(text)
    }

    /// The hexadecimal part, used as a file name in the store.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }
}

/// Which decision about an instance is newer. The controller raises it with every command that
/// changes an instance; an agent refuses an older one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_app_name_that_is_no_dns_label_is_refused_with_the_rule() {
        for bad in ["", "ab", "-abc", "abc-", "a--b", "Shop", "shöp", "a.b.c", "a b c", &"x".repeat(41)] {
            assert!(AppName::parse(bad).is_err(), "{bad:?} was accepted");
        }
        let error = AppName::parse("my_shop").expect_err("underscore").to_string();
        assert_eq!(error, "app name \"my_shop\" is not allowed: use only a-z, 0-9 and hyphen");
    }

    #[test]
    fn reserved_names_are_refused_and_others_are_not() {
        assert!(matches!(AppName::parse("api"), Err(NameError::Reserved { .. })));
        assert!(AppName::parse("api2").is_ok());
    }

    #[test]
    fn an_id_read_from_json_is_checked() {
        assert!(serde_json::from_str::<InstanceId>("\"../../etc\"").is_err());
        assert!(serde_json::from_str::<Digest>("\"sha256:ABC\"").is_err());
    }

    #[test]
    fn the_longest_instance_host_label_fits_into_dns() {
        let longest = format!("{}--i-{}", "a".repeat(40), "b".repeat(MAX_ID_LENGTH));
        assert!(longest.len() <= 63);
    }

    proptest! {
        #[test]
        fn generated_ids_parse_and_differ(_n in 0..50) {
            let (a, b) = (InstanceId::generate(), InstanceId::generate());
            prop_assert_eq!(InstanceId::parse(a.as_str()), Ok(a.clone()));
            prop_assert_ne!(a, b);
        }

        #[test]
        fn a_name_that_parses_survives_a_round_trip(text in "[a-z0-9-]{1,45}") {
            if let Ok(name) = AppName::parse(text.clone()) {
                let json = serde_json::to_string(&name).expect("serialises");
                prop_assert_eq!(serde_json::from_str::<AppName>(&json).expect("reads"), name);
            }
        }
    }
}
