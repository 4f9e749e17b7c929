//! What came of an attempt, and how it is told.

use std::io;

/// The end of an attempt.
pub enum Outcome {
    /// The kernel said no, with this errno.
    Refused(i32),
    /// It worked, and reached nothing outside.
    Contained(String),
    /// It reached what it must not.
    Escaped(String),
}

impl Outcome {
    /// Contained if it is as it should be, else escaped; `found` says what it is.
    pub fn fine_if(is_fine: bool, found: impl Into<String>) -> Self {
        if is_fine { Self::Contained(found.into()) } else { Self::Escaped(found.into()) }
    }

    /// Refused if it failed; a success is an escape.
    pub fn must_fail<T>(result: io::Result<T>) -> Self {
        match result {
            Ok(_) => Self::Escaped("it succeeded".to_owned()),
            Err(error) => Self::Refused(error.raw_os_error().unwrap_or_default()),
        }
    }
}

/// Prints the line of one attempt.
pub fn tell(name: &str, rule: &str, outcome: &Outcome) {
    let (word, errno, detail) = match outcome {
        Outcome::Refused(errno) => ("refused", *errno, String::new()),
        Outcome::Contained(detail) => ("contained", 0, detail.clone()),
        Outcome::Escaped(detail) => ("ESCAPED", 0, detail.clone()),
    };
    println!(
        r#"{{"name":"{}","rule":"{rule}","outcome":"{word}","errno":{errno},"detail":"{}"}}"#,
        plain(name),
        plain(&detail)
    );
}

/// As part of a JSON string, shortened.
fn plain(text: &str) -> String {
    let short = text.chars().take(200);
    short.map(|c| if c == '"' || c == '\\' || c.is_control() { ' ' } else { c }).collect()
}
