//! Where errors of the agent's parts become what callers are told.

use std::io::ErrorKind;

use drowse_api::{ErrorCode, Problem};
use drowse_rootfs::StoreError;
use drowse_rootfs::bundle::BundleError;

use crate::host::error::{SandboxError, chain};

/// An error of the image store.
#[must_use]
pub fn of_store(error: &StoreError) -> Problem {
    if is_disk_full(error) {
        return disk_full(error);
    }
    let code = match error {
        StoreError::WrongDigest { .. } | StoreError::Source(_) => ErrorCode::BadRequest,
        StoreError::TooLarge { .. } => ErrorCode::TooLarge,
        StoreError::Missing { .. } => ErrorCode::NotFound,
        StoreError::Malformed { .. }
        | StoreError::Unfit { .. }
        | StoreError::Unpack { .. }
        | StoreError::Archive(_) => ErrorCode::BadImage,
        StoreError::Bundle { source: BundleError::Refused(_), .. } => ErrorCode::NotAllowed,
        StoreError::Bundle { .. } => ErrorCode::BadImage,
        StoreError::Io { .. } | StoreError::Capture { .. } => ErrorCode::Internal,
    };
    // Where the bundle was unpacked on the node tells its owner nothing.
    let shown: &dyn std::error::Error = match error {
        StoreError::Bundle { source, .. } => source,
        error => error,
    };
    Problem::new(code, chain(shown))
}

/// An error of a sandbox that a build runs in.
#[must_use]
pub fn of_sandbox(error: &SandboxError) -> Problem {
    match error {
        SandboxError::Store(error) => of_store(error),
        error if is_disk_full(error) => disk_full(error),
        error => Problem::new(ErrorCode::HostUnfit, chain(error)).hint("drowse doctor examines the node"),
    }
}

/// What is told where a full disk is at the bottom of it.
#[must_use]
pub fn disk_full(error: &(dyn std::error::Error + 'static)) -> Problem {
    Problem::new(ErrorCode::DiskFull, format!("the node's disk is full: {}", chain(error)))
        .hint("free space on it, or remove apps that are not needed")
}

/// Whether a full disk is at the bottom of it.
#[must_use]
pub fn is_disk_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)) {
            return true;
        }
        cause = error.source();
    }
    false
}
