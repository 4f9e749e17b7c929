//! Why an image could not be fetched.

use std::io;
use std::net::IpAddr;

use drowse_api::{Digest, MemoryBytes};
use drowse_rootfs::StoreError;

/// Why an image could not be fetched. Nothing of a registry's own words is in it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it, the fields are their parts")]
pub enum RegistryError {
    #[error("the registry {registry} cannot be reached")]
    Unreachable { registry: String, source: io::Error },
    #[error("the registry {registry} is on this host, which is not open to apps")]
    NotNamed { registry: String },
    #[error("the registry {registry} is at {address}, and only one on the host's loopback is asked without TLS")]
    Plain { registry: String, address: IpAddr },
    #[error("the registry {registry} wants a login for {repository}")]
    LoginMissing { registry: String, repository: String },
    #[error("the registry {registry} refuses the login for {repository}")]
    LoginRefused { registry: String, repository: String },
    #[error("there is no {reference}")]
    NoImage { reference: String },
    #[error("the registry {registry} answered {status}")]
    Answer { registry: String, status: u16 },
    #[error("the registry {registry} answered with what is no answer: {what}")]
    Malformed { registry: String, what: &'static str },
    #[error("the connection to {registry} broke off")]
    BrokenOff { registry: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{what} of {reference} is larger than {limit}")]
    TooLarge { reference: String, what: &'static str, limit: MemoryBytes },
    #[error("{what} hashes to {found}, not to {expected}: the registry sent something else")]
    WrongDigest { what: &'static str, expected: Digest, found: Digest },
    #[error("{reference} has no image for this machine (linux, {machine})")]
    NoPlatform { reference: String, machine: &'static str },
    #[error("{reference} cannot be run: {reason}")]
    Unfit { reference: String, reason: String },
    #[error(transparent)]
    Store(#[from] StoreError),
}
