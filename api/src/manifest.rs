//! What a folder pins for every deploy of it, in its `drowse.toml`, as it travels with the upload.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::sleep::{SHORTEST, SleepSettings};
use crate::variable::{self, VariableError};

/// The largest manifest, as JSON.
pub const MAX_MANIFEST: usize = 32 << 10;

/// The longest command.
pub const MAX_COMMAND: usize = 8 << 10;

/// The longest wait for an app to be ready, in seconds.
pub const MAX_CHECK_SECONDS: u32 = 900;

/// What a deploy asks for beside its files and its type. Everything may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The start command, instead of what the folder says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// A command that must succeed once before the deployment may serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// How it is found ready.
    #[serde(default, skip_serializing_if = "Check::is_default")]
    pub check: Check,
    /// Environment of this version. What the app has by `drowse env` and `drowse secret` comes before it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// How it sleeps. What its user set by `drowse idle` comes before it.
    #[serde(default, skip_serializing_if = "SleepSettings::is_empty")]
    pub sleep: SleepSettings,
}

/// How a deployment is found ready, where it differs from the platform's way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A path that must answer a GET with 2xx or 3xx.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// How long it may take to be ready, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u32>,
}

impl Check {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What of a manifest cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A command that no shell gets as one line.
    #[error("{key} must be one line of 1 to {MAX_COMMAND} bytes")]
    Command {
        /// `start` or `release`.
        key: &'static str,
    },
    /// A path that cannot be asked for.
    #[error("check.path must begin with / and hold neither spaces nor control characters: {0:?}")]
    Path(String),
    /// A time that is none.
    #[error("check.timeout must be 1 to {MAX_CHECK_SECONDS} seconds, not {0}")]
    Timeout(u32),
    /// A time of being idle that is too short.
    #[error("an app must be idle for {SHORTEST} s at least before it sleeps")]
    Idle,
    /// A variable.
    #[error("env: {0}")]
    Variable(#[from] VariableError),
    /// All of it together.
    #[error("it has {size} bytes; the limit is {MAX_MANIFEST}")]
    TooLarge {
        /// Its size.
        size: usize,
    },
}

impl Manifest {
    /// Checks everything that whoever sent it may have got wrong.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn check(&self) -> Result<(), ManifestError> {
        for (key, command) in [("start", &self.start), ("release", &self.release)] {
            command.as_deref().map_or(Ok(()), |command| check_command(key, command))?;
        }
        self.check.path.as_deref().map_or(Ok(()), check_path)?;
        if let Some(seconds) = self.check.timeout_seconds.filter(|seconds| !(1..=MAX_CHECK_SECONDS).contains(seconds)) {
            return Err(ManifestError::Timeout(seconds));
        }
        if !self.sleep.is_long_enough() {
            return Err(ManifestError::Idle);
        }
        self.env.iter().try_for_each(|(name, value)| variable::check(name, value))?;
        let size = self.env.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size > MAX_MANIFEST { Err(ManifestError::TooLarge { size }) } else { Ok(()) }
    }
}

/// Checks a command that a shell is given as one line.
///
/// # Errors
/// [`ManifestError::Command`].
pub fn check_command(key: &'static str, command: &str) -> Result<(), ManifestError> {
    let is_line = !command.trim().is_empty() && !command.contains(['\n', '\r', '\0']);
    if is_line && command.len() <= MAX_COMMAND { Ok(()) } else { Err(ManifestError::Command { key }) }
}

/// Checks the path of a boot check.
///
/// # Errors
/// [`ManifestError::Path`].
pub fn check_path(path: &str) -> Result<(), ManifestError> {
    let is_path = path.starts_with('/') && path.len() <= 2048 && path.bytes().all(|byte| byte.is_ascii_graphic());
    if is_path && !path.contains('#') { Ok(()) } else { Err(ManifestError::Path(path.chars().take(80).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_checked_whoever_sent_it() {
        let good = Manifest {
            start: Some("gunicorn app:app".into()),
            release: Some("python3 migrate.py".into()),
            check: Check { path: Some("/health?deep=1".into()), timeout_seconds: Some(90) },
            env: [("MODE".to_owned(), "fast".to_owned())].into(),
            sleep: SleepSettings { wake: Some(crate::sleep::Wake::Auto), ..SleepSettings::default() },
        };
        assert_eq!(good.check(), Ok(()));
        let with = |change: fn(&mut Manifest)| {
            let mut manifest = good.clone();
            change(&mut manifest);
            manifest.check().expect_err("refused").to_string()
        };
        assert!(with(|m| m.start = Some(" ".into())).contains("start"));
        assert!(with(|m| m.release = Some("a\nb".into())).contains("release"));
        for path in ["health", "/a b", "/a\r\nHost: x", "/ä", "/a#b"] {
            let manifest = Manifest { check: Check { path: Some(path.into()), ..Check::default() }, ..good.clone() };
            assert!(manifest.check().is_err(), "{path}");
        }
        assert!(with(|m| m.check.timeout_seconds = Some(0)).contains("timeout"));
        assert!(with(|m| m.sleep.cold_after = Some(crate::sleep::After::Seconds(0))).contains("idle for 1 s"));
        assert!(with(|m| drop(m.env.insert("PORT".into(), "1".into()))).contains("PORT"));
        assert!(with(|m| drop(m.env.insert("A".into(), "x".repeat(MAX_MANIFEST)))).contains("limit"));
    }

    #[test]
    fn an_empty_one_is_an_empty_object_and_an_unknown_key_is_refused() {
        assert_eq!(serde_json::to_string(&Manifest::default()).expect("JSON"), "{}");
        assert_eq!(serde_json::from_str::<Manifest>("{}").expect("reads"), Manifest::default());
        assert!(serde_json::from_str::<Manifest>(r#"{"strat":"x"}"#).is_err());
    }
}
