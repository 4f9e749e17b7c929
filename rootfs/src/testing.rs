//! For tests: who runs them, and errors in full.

pub(crate) use crate::hostile::{Archive, picture};

/// Whether this is root; says loudly if a test is skipped because it is not.
pub(crate) fn is_root(test: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: {test}: it needs root");
    }
    is_root
}

/// An error with its causes.
pub(crate) fn in_full(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
