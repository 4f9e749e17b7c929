//! Why the network could not be changed or read.

use std::io;

use super::{Owner, PoolExhausted};
use crate::config::AddressRange;

/// Why the network could not be changed or read.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel's netlink socket could not be opened.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused a change or an answer.
    #[error("the kernel refused to {action}")]
    Netlink {
        /// What was asked: `make link dw-abc`.
        action: String,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// A network namespace cannot be used.
    #[error("cannot use a network namespace: cannot {action}")]
    Namespace {
        /// What was tried.
        action: String,
        /// Why not.
        source: io::Error,
    },
    /// A kernel setting could not be read or written.
    #[error("cannot {action} /proc/sys/{key}")]
    Setting {
        /// `read`, `write "1" to`.
        action: String,
        /// Which, below /proc/sys.
        key: String,
        /// Why not.
        source: io::Error,
    },
    /// The program `nft` cannot be run.
    #[error("cannot run nft; install the package nftables")]
    NftMissing(#[source] io::Error),
    /// `nft` refused.
    #[error("nft refused {what}: {message}")]
    Nft {
        /// `the rules`, `the list of elements`.
        what: &'static str,
        /// What it said.
        message: String,
    },
    /// Something else on this host uses addresses of the range.
    #[error("the address range {range} overlaps {other}; set address_range to one that nothing on this host uses")]
    RangeTaken {
        /// Ours.
        range: AddressRange,
        /// The route that was found.
        other: String,
    },
    /// Every address is in use.
    #[error(transparent)]
    Exhausted(#[from] PoolExhausted),
    /// The owner has no link.
    #[error("{owner} has no link")]
    NoLink {
        /// Whose.
        owner: Owner,
    },
    /// The other end of the owner's link is not in the namespace it was asked for.
    #[error("the link of {owner} does not end in its sandbox")]
    InnerEnd {
        /// Whose.
        owner: Owner,
    },
    /// A link was switched on, and the kernel lets nothing out of it.
    #[error("link {name} is switched on at both ends and did not begin to run")]
    NotRunning {
        /// The link.
        name: String,
    },
    /// A link of that name belongs to somebody else.
    #[error("link {name} belongs to {alias:?} and not to {owner}; remove it or set another link_prefix")]
    NameTaken {
        /// The link.
        name: String,
        /// What its alias says.
        alias: String,
        /// Who wanted it.
        owner: Owner,
    },
}
