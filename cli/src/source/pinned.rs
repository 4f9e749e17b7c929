//! `drowse.toml`: what a folder pins for each of its deploys. Every mistake is told with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use drowse_api::deployment::AppType;
use drowse_api::manifest::{Check, Manifest, ManifestError};
use drowse_api::sleep::{After, SleepSettings};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::args::{GlanceBy, IdleTime, Kind, SleepDepth, WakeBy};

/// Its name.
pub const FILE: &str = "drowse.toml";

/// The largest that is read.
const LARGEST: u64 = 64 << 10;

const KEYS: &[&str] = &["type", "start", "release", "check", "env", "sleep"];
const SLEEP_KEYS: &[&str] = &[
    "after",
    "depth",
    "paused_after",
    "paged_after",
    "snapshot_after",
    "cold_after",
    "wake",
    "prefetch",
    "crawlers",
    "monitors",
];
const CHECK_KEYS: &[&str] = &["path", "timeout"];

/// What the file says.
#[derive(Debug, Default, PartialEq)]
pub struct Pinned {
    /// The app's type.
    pub app_type: Option<AppType>,
    /// The rest of it.
    pub manifest: Manifest,
}

/// Why it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinnedError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is too large to be meant.
    #[error("{} has more than {LARGEST} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is no TOML.
    #[error("{}, line {line}: {what}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A key that has no meaning.
    #[error("{}, line {line}: there is no key {key}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// What to write instead.
        hint: String,
    },
    /// A value of another kind.
    #[error("{}, line {line}: {key} must be {expected}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The key.
        key: String,
        /// What it must be.
        expected: String,
    },
    /// A value that cannot be.
    #[error("{}: {rule}", path.display())]
    Rule {
        /// The file.
        path: PathBuf,
        /// Which rule.
        rule: ManifestError,
    },
}

/// Reads the file in `folder`, if there is one.
///
/// # Errors
/// Where and why it cannot be used.
pub fn read(folder: &Path) -> Result<Option<Pinned>, PinnedError> {
    let path = folder.join(FILE);
    match std::fs::metadata(&path) {
        Ok(found) if found.len() > LARGEST => return Err(PinnedError::TooLarge { path }),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PinnedError::Unreadable { path, source }),
    }
    match std::fs::read_to_string(&path) {
        Ok(text) => Reader { path: &path, text: &text }.read().map(Some),
        Err(source) => Err(PinnedError::Unreadable { path, source }),
    }
}

/// A text and what is needed to say where something is in it.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

type Value<'a> = Spanned<DeValue<'a>>;

impl Reader<'_> {
    fn read(&self) -> Result<Pinned, PinnedError> {
        let table = DeTable::parse(self.text).map_err(|error| PinnedError::Syntax {
            path: self.path.to_owned(),
            line: self.line(error.span().map_or(0, |span| span.start)),
            what: error.message().to_owned(),
        })?;
        let mut pinned = Pinned::default();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            match name {
                "type" => pinned.app_type = Some(self.app_type(value)?),
                "start" => pinned.manifest.start = Some(self.string(name, value)?),
                "release" => pinned.manifest.release = Some(self.string(name, value)?),
                "check" => pinned.manifest.check = self.check(value)?,
                "env" => pinned.manifest.env = self.env(value)?,
                "sleep" => pinned.manifest.sleep = self.sleep(value)?,
                _ => return Err(self.unknown("", name, key.span().start, KEYS)),
            }
        }
        pinned.manifest.check().map_err(|rule| PinnedError::Rule { path: self.path.to_owned(), rule })?;
        Ok(pinned)
    }

    fn app_type(&self, value: &Value<'_>) -> Result<AppType, PinnedError> {
        let kinds: Vec<_> = Kind::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
        let names: Vec<_> = kinds.iter().map(clap::builder::PossibleValue::get_name).collect();
        let wrong = || self.wrong("type", value, format!("one of {}", names.join(", ")));
        let word = self.string("type", value).map_err(|_| wrong())?;
        Kind::from_str(&word, false).map(AppType::from).map_err(|_| wrong())
    }

    fn check(&self, value: &Value<'_>) -> Result<Check, PinnedError> {
        let mut check = Check::default();
        for (key, value) in self.table("check", value)? {
            match key.get_ref().as_ref() {
                "path" => check.path = Some(self.string("check.path", value)?),
                "timeout" => check.timeout_seconds = Some(self.seconds("check.timeout", value)?),
                name => return Err(self.unknown("check.", name, key.span().start, CHECK_KEYS)),
            }
        }
        Ok(check)
    }

    fn sleep(&self, value: &Value<'_>) -> Result<SleepSettings, PinnedError> {
        let mut sleep = SleepSettings::default();
        let mut after = None;
        let mut depth = SleepDepth::Paused;
        let table = self.table("sleep", value)?;
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let full = format!("sleep.{name}");
            match name {
                "after" => after = Some(self.idle(&full, value)?),
                "depth" => depth = self.word(&full, value)?,
                "paused_after" => sleep.paused_after = Some(self.idle(&full, value)?),
                "paged_after" => sleep.paged_after = Some(self.idle(&full, value)?),
                "snapshot_after" => sleep.snapshot_after = Some(self.idle(&full, value)?),
                "cold_after" => sleep.cold_after = Some(self.idle(&full, value)?),
                "wake" => sleep.wake = self.word::<WakeBy>(&full, value)?.into(),
                "prefetch" => sleep.prefetch = self.word::<GlanceBy>(&full, value)?.into(),
                "crawlers" => sleep.crawlers = self.word::<GlanceBy>(&full, value)?.into(),
                "monitors" => sleep.monitors = self.word::<GlanceBy>(&full, value)?.into(),
                _ => return Err(self.unknown("sleep.", name, key.span().start, SLEEP_KEYS)),
            }
        }
        match (after, depth) {
            // In whichever order the two stand.
            (Some(after), SleepDepth::Paused) => sleep.paused_after = Some(after),
            (Some(after), SleepDepth::Paged) => sleep.paged_after = Some(after),
            (Some(after), SleepDepth::Snapshot) => sleep.snapshot_after = Some(after),
            (Some(after), SleepDepth::Cold) => sleep.cold_after = Some(after),
            (None, _) => {
                if let Some((_, value)) = table.iter().find(|(key, _)| key.get_ref().as_ref() == "depth") {
                    return Err(self.wrong(
                        "sleep.depth",
                        value,
                        "beside sleep.after: the time of that depth".to_owned(),
                    ));
                }
            }
        }
        Ok(sleep)
    }

    fn idle(&self, key: &str, value: &Value<'_>) -> Result<After, PinnedError> {
        let time = match value.get_ref() {
            DeValue::Integer(number) => {
                number.as_str().parse::<u32>().ok().filter(|seconds| *seconds > 0).map(After::Seconds)
            }
            DeValue::String(text) => text.parse().ok().and_then(|IdleTime(after)| after),
            _ => None,
        };
        let expected = || "\"never\", a number of seconds, or a text such as \"90s\", \"10m\" or \"2h\"".to_owned();
        time.ok_or_else(|| self.wrong(key, value, expected()))
    }

    /// One of the words that an option of the command line takes.
    fn word<T: ValueEnum>(&self, key: &str, value: &Value<'_>) -> Result<T, PinnedError> {
        let known = || T::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names = || known().map(|word| word.get_name().to_owned()).collect::<Vec<_>>().join(", ");
        let wrong = || self.wrong(key, value, format!("one of {}", names()));
        let word = self.string(key, value).map_err(|_| wrong())?;
        T::from_str(&word, false).map_err(|_| wrong())
    }

    fn env(&self, value: &Value<'_>) -> Result<BTreeMap<String, String>, PinnedError> {
        let variable = |(key, value): (&Spanned<toml::de::DeString<'_>>, &Value<'_>)| {
            let name = key.get_ref().as_ref();
            let text = match value.get_ref() {
                DeValue::String(text) => text.as_ref().to_owned(),
                DeValue::Integer(number) => number.as_str().to_owned(),
                DeValue::Boolean(is) => is.to_string(),
                _ => return Err(self.wrong(&format!("env.{name}"), value, "a text".to_owned())),
            };
            Ok((name.to_owned(), text))
        };
        self.table("env", value)?.iter().map(variable).collect()
    }

    fn table<'v>(&self, key: &str, value: &'v Value<'v>) -> Result<&'v DeTable<'v>, PinnedError> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.wrong(key, value, format!("a table: a line [{key}], and its keys below it"))),
        }
    }

    fn string(&self, key: &str, value: &Value<'_>) -> Result<String, PinnedError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text.as_ref().to_owned()),
            _ => Err(self.wrong(key, value, "a text".to_owned())),
        }
    }

    fn seconds(&self, key: &str, value: &Value<'_>) -> Result<u32, PinnedError> {
        let seconds = match value.get_ref() {
            DeValue::Integer(number) => number.as_str().parse().ok(),
            DeValue::String(text) => match (text.strip_suffix('s'), text.strip_suffix('m')) {
                (Some(seconds), _) => seconds.trim().parse().ok(),
                (_, Some(minutes)) => minutes.trim().parse().ok().and_then(|minutes: u32| minutes.checked_mul(60)),
                _ => None,
            },
            _ => None,
        };
        seconds.ok_or_else(|| {
            self.wrong(key, value, "a number of seconds, or a text such as \"90s\" or \"2m\"".to_owned())
        })
    }

    fn wrong(&self, key: &str, value: &Value<'_>, expected: String) -> PinnedError {
        let (path, line) = (self.path.to_owned(), self.line(value.span().start));
        PinnedError::Value { path, line, key: key.to_owned(), expected }
    }

    fn unknown(&self, prefix: &str, key: &str, at: usize, known: &[&str]) -> PinnedError {
        let near = known.iter().map(|name| (strsim::damerau_levenshtein(key, name), *name)).min();
        let hint = match near {
            Some((distance, name)) if distance <= 1 + name.len() / 4 => format!("did you mean {prefix}{name}?"),
            _ => format!(
                "the keys are {}",
                known.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>().join(", ")
            ),
        };
        let key: String = key.chars().take(80).collect();
        PinnedError::Unknown { path: self.path.to_owned(), line: self.line(at), key: format!("{prefix}{key}"), hint }
    }

    fn line(&self, at: usize) -> usize {
        self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Pinned, PinnedError> {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(FILE), text).expect("written");
        read(folder.path()).map(|pinned| pinned.expect("there is one"))
    }

    #[test]
    fn every_key_is_read() {
        let text = "type = \"python\"\nstart = \"gunicorn app:app\"\nrelease = \"python3 migrate.py\"\n\
                    [check]\npath = \"/health\"\ntimeout = \"2m\"\n[env]\nMODE = \"fast\"\nWORKERS = 2\nDEBUG = false\n\
                    [sleep]\nafter = \"10m\"\ndepth = \"cold\"\npaused_after = 15\nsnapshot_after = \"never\"\nwake = \"auto\"\n\
                    monitors = \"hold\"\n";
        let pinned = read_text(text).expect("reads");
        assert_eq!(pinned.app_type, Some(AppType::Python));
        let Manifest { start, release, check, env, sleep } = pinned.manifest;
        assert_eq!(start.as_deref(), Some("gunicorn app:app"));
        assert_eq!(release.as_deref(), Some("python3 migrate.py"));
        assert_eq!(check, Check { path: Some("/health".into()), timeout_seconds: Some(120) });
        let expected = [("MODE", "fast"), ("WORKERS", "2"), ("DEBUG", "false")];
        assert_eq!(env, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let expected = SleepSettings {
            paused_after: Some(After::Seconds(15)),
            snapshot_after: Some(After::Never),
            cold_after: Some(After::Seconds(600)),
            wake: Some(drowse_api::sleep::Wake::Auto),
            monitors: Some(drowse_api::sleep::Glance::Hold),
            ..SleepSettings::default()
        };
        assert_eq!(sleep, expected);
        assert_eq!(read_text("").expect("an empty one"), Pinned::default());
        assert!(read(Path::new("/nowhere")).expect("none").is_none());
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_the_nearest_key() {
        for (text, expected, hint) in [
            ("type = \"npm\"\nstrat = \"x\"\n", "line 2: there is no key strat", "did you mean start?"),
            ("[check]\n\ntimout = 3\n", "line 3: there is no key check.timout", "did you mean check.timeout?"),
            (
                "replicas = 3\n",
                "line 1: there is no key replicas",
                "the keys are type, start, release, check, env, sleep",
            ),
            (
                "[sleep]\npaused_afer = 3\n",
                "line 2: there is no key sleep.paused_afer",
                "did you mean sleep.paused_after?",
            ),
        ] {
            let error = read_text(text).expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
            assert!(matches!(&error, PinnedError::Unknown { hint: found, .. } if found == hint), "{error:?}");
        }
        for (text, expected) in [
            ("\nstart = 3\n", "line 2: start must be a text"),
            ("type = \"cobol\"\n", "line 1: type must be one of static, npm, python"),
            ("check = 3\n", "line 1: check must be a table"),
            ("[check]\ntimeout = \"soon\"\n", "line 2: check.timeout must be a number of seconds"),
            ("[env]\nA = [1]\n", "line 2: env.A must be a text"),
            ("[sleep]\nafter = \"soon\"\n", "line 2: sleep.after must be \"never\""),
            ("[sleep]\nafter = 0\n", "line 2: sleep.after must be"),
            ("[sleep]\nafter = 3\ndepth = \"deep\"\n", "line 3: sleep.depth must be one of paused,"),
            ("[sleep]\ndepth = \"cold\"\n", "line 2: sleep.depth must be beside sleep.after"),
            ("[sleep]\nwake = \"never\"\n", "line 2: sleep.wake must be one of page, auto"),
            ("start = \"a\n", "line 1:"),
            ("[check]\ntimeout = 0\n", "check.timeout must be 1 to"),
            ("[env]\nPORT = 80\n", "PORT is set by the platform"),
        ] {
            let error = read_text(text).expect_err("refused").to_string();
            assert!(error.contains(expected), "{error:?} does not say {expected:?}");
        }
    }
}
