//! Leases of one instance and the lines by which they are asked for. Values only.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The longest lease.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// How many names an instance may hold leases by at once.
const NAMES: usize = 32;
/// The name of a lease that was given none.
const UNNAMED: &str = "lease";

/// What an app asks by one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To be kept awake for so long from now on.
    Hold(Duration, String),
    /// Not to be kept awake any more.
    Release(String),
    /// What is held.
    Status,
}

/// Leases by their names, each with its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Leases(BTreeMap<String, Timestamp>);

/// Why a line was not followed, for whoever wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No word of ours.
    #[error("say `hold 10m [NAME]`, `release [NAME]` or `status`")]
    Unknown,
    /// No time, or one that cannot be.
    #[error("the time must be 1s to 24h, such as 90s, 10m or 2h")]
    Time,
    /// No name.
    #[error("a name has 1 to 32 of a-z, A-Z, 0-9, dot, hyphen and underscore")]
    Name,
    /// Too many at once.
    #[error("there are {NAMES} leases already: release one")]
    TooMany,
}

impl Asked {
    /// Reads one line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, LeaseError> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        match *words.as_slice() {
            ["hold", time] => Ok(Self::Hold(length(time)?, UNNAMED.to_owned())),
            ["hold", time, name] => Ok(Self::Hold(length(time)?, checked(name)?)),
            ["release"] => Ok(Self::Release(UNNAMED.to_owned())),
            ["release", name] => Ok(Self::Release(checked(name)?)),
            ["status"] => Ok(Self::Status),
            _ => Err(LeaseError::Unknown),
        }
    }
}

fn length(text: &str) -> Result<Duration, LeaseError> {
    let (number, unit) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let seconds = number.parse::<u64>().ok().filter(|_| is_number).and_then(|number| number.checked_mul(unit));
    let length = Duration::from_secs(seconds.ok_or(LeaseError::Time)?);
    if (Duration::from_secs(1)..=LONGEST).contains(&length) { Ok(length) } else { Err(LeaseError::Time) }
}

fn checked(name: &str) -> Result<String, LeaseError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_name = (1..=32).contains(&name.len()) && name.bytes().all(is_allowed);
    if is_name { Ok(name.to_owned()) } else { Err(LeaseError::Name) }
}

impl Leases {
    /// Follows one line, and answers it.
    ///
    /// # Errors
    /// Why it was not followed: nothing has changed then.
    pub fn follow(&mut self, asked: Asked, now: Timestamp) -> Result<String, LeaseError> {
        self.0.retain(|_, until| *until > now);
        match asked {
            Asked::Hold(length, name) => {
                if self.0.len() >= NAMES && !self.0.contains_key(&name) {
                    return Err(LeaseError::TooMany);
                }
                self.0.insert(name, now + length);
                Ok(format!("held for {} s", length.as_secs()))
            }
            Asked::Release(name) => Ok(match self.0.remove(&name) {
                Some(_) => "released".to_owned(),
                None => "released (it was not held)".to_owned(),
            }),
            Asked::Status => {
                let left = |until: &Timestamp| until.duration_since(now).as_secs().max(0);
                let held: Vec<_> = self.0.iter().map(|(name, until)| format!("{name} for {} s", left(until))).collect();
                Ok(if held.is_empty() { "none".to_owned() } else { format!("held: {}", held.join(", ")) })
            }
        }
    }

    /// Until when the app is to be kept awake, if it is.
    #[must_use]
    pub fn until(&self, now: Timestamp) -> Option<Timestamp> {
        self.0.values().copied().filter(|until| *until > now).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn say(leases: &mut Leases, line: &str, seconds: i64) -> String {
        let now = Timestamp::from_second(seconds).expect("a time");
        let answer = Asked::parse(line).and_then(|asked| leases.follow(asked, now));
        answer.unwrap_or_else(|error| format!("error: {error}"))
    }

    #[test]
    fn leases_are_held_released_and_end_by_themselves() {
        let mut leases = Leases::default();
        let until = |leases: &Leases, seconds| leases.until(Timestamp::from_second(seconds).expect("a time"));
        assert_eq!(say(&mut leases, "status", 0), "none");
        assert_eq!(say(&mut leases, "hold 10m", 0), "held for 600 s");
        assert_eq!(say(&mut leases, " hold  90s backup \r", 100), "held for 90 s");
        assert_eq!(say(&mut leases, "status", 100), "held: backup for 90 s, lease for 500 s");
        assert_eq!(until(&leases, 100), Some(Timestamp::from_second(600).expect("a time")));
        assert_eq!(say(&mut leases, "release", 120), "released");
        assert_eq!(until(&leases, 120), Some(Timestamp::from_second(190).expect("a time")));
        assert_eq!(until(&leases, 190), None, "it ended");
        assert_eq!(say(&mut leases, "release backup", 200), "released (it was not held)");
        assert_eq!(say(&mut leases, "hold 2h", 200), "held for 7200 s");
        assert_eq!(say(&mut leases, "hold 30", 200), "held for 30 s", "the newest word counts, also a shorter one");
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let mut leases = Leases::default();
        for line in [
            "",
            "hold",
            "hold 0s",
            "hold 25h",
            "hold -1s",
            "hold +1s",
            "hold 1.5h",
            "hold m",
            "hold 99999999999999999999s",
            "hold 10m a/b",
            "hold 10m x y",
            "HOLD 10m",
            "release \u{e4}",
            "status now",
            "hold 1\u{b2}",
        ] {
            assert!(say(&mut leases, line, 0).starts_with("error: "), "{line:?}");
        }
        assert_eq!(leases, Leases::default());
        for number in 0..NAMES {
            assert_eq!(say(&mut leases, &format!("hold 1m n{number}"), 0), "held for 60 s");
        }
        assert!(say(&mut leases, "hold 1m more", 0).contains("release one"));
        assert_eq!(say(&mut leases, "hold 1m n3", 0), "held for 60 s", "one that is held may be held longer");
        assert_eq!(say(&mut leases, "hold 1m more", 61), "held for 60 s", "those that ended make room");
    }
}
