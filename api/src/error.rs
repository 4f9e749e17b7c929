//! Error codes, and where each of them maps to HTTP and to an exit code of the command line.
//!
//! The body of every failed call is RFC 9457 `application/problem+json` with these fields.

use serde::{Deserialize, Serialize};

/// The media type of a [`Problem`] (RFC 9457).
pub const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $exit:literal;)*) => {
        /// What went wrong, as a word that programs can match.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
        }

        impl ErrorCode {
            /// Every code, for documentation and tests.
            pub const ALL: &[ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The word on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text,)* }
            }

            /// The HTTP status it is answered with.
            #[must_use]
            pub fn http_status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* }
            }

            /// The exit code of `drowse` when a command ends with it.
            #[must_use]
            pub fn exit_code(self) -> u8 {
                match self { $(ErrorCode::$variant => $exit,)* }
            }
        }
    };
}

codes! {
    /// The request is malformed or a value in it is not allowed.
    BadRequest = "bad-request", 400, 2;
    /// No token, or one that is unknown, expired or revoked.
    Unauthenticated = "unauthenticated", 401, 4;
    /// The caller is known and may not do this.
    Forbidden = "forbidden", 403, 4;
    /// What was named does not exist.
    NotFound = "not-found", 404, 3;
    /// It exists already, or changed meanwhile.
    Conflict = "conflict", 409, 5;
    /// Nothing of it runs now.
    NotRunning = "not-running", 409, 5;
    /// The command carries an older epoch than the agent has seen.
    StaleEpoch = "stale-epoch", 409, 5;
    /// What was asked for existed once and is not kept any more.
    Compacted = "compacted", 410, 5;
    /// A body is larger than its limit.
    TooLarge = "too-large", 413, 2;
    /// The folder holds nothing that can be run.
    NothingToRun = "nothing-to-run", 422, 2;
    /// A bundle asks for what the operator does not allow.
    NotAllowed = "not-allowed", 422, 2;
    /// An image or archive is broken or hostile.
    BadImage = "bad-image", 422, 2;
    /// The build ended with an error.
    BuildError = "build-error", 422, 10;
    /// The release command ended with an error.
    ReleaseError = "release-error", 422, 13;
    /// The app was not reachable on its port in time.
    TimeoutError = "timeout-error", 422, 11;
    /// The app crashed again and again.
    CrashLoop = "crash-loop", 422, 12;
    /// The image has no such command.
    CommandNotFound = "command-not-found", 422, 127;
    /// What was named as a command may not be executed.
    NotExecutable = "not-executable", 422, 126;
    /// A newer deploy or a command of the user took this one's place.
    Superseded = "superseded", 409, 5;
    /// A limit of the platform or of the user is used up.
    Exhausted = "exhausted", 429, 6;
    /// The disk of the node is full.
    DiskFull = "disk-full", 507, 6;
    /// The host lacks something that is needed.
    HostUnfit = "host-unfit", 503, 7;
    /// A node or the controller does not answer.
    Unavailable = "unavailable", 503, 7;
    /// It took too long.
    Deadline = "deadline", 504, 7;
    /// A fault of ours.
    Internal = "internal", 500, 1;
}

/// The body of a failed call, and the error type of the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The word that programs match.
    pub code: ErrorCode,
    /// One sentence for people: what was wrong, naming the thing.
    pub detail: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The last lines of the log that explain it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log: Vec<String>,
}

impl Problem {
    /// A problem without hint and log.
    #[must_use]
    pub fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), hint: None, log: Vec::new() }
    }

    /// With a sentence on what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// With the log lines that explain it.
    #[must_use]
    pub fn log(mut self, log: Vec<String>) -> Self {
        self.log = log;
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.detail)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_reads_back_and_has_an_error_status() {
        for code in ErrorCode::ALL {
            let json = serde_json::to_string(code).expect("serialises");
            assert_eq!(json, format!("{:?}", code.as_str()));
            assert_eq!(serde_json::from_str::<ErrorCode>(&json).expect("reads"), *code);
            assert!((400..600).contains(&code.http_status()));
            assert_ne!(code.exit_code(), 0);
        }
    }
}
