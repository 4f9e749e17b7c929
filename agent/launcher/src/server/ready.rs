//! The namespaces of a sandbox that do not depend on what will run in it, made ahead: making one for the
//! network is a third of all work. Nothing runs in them until a sandbox is built in them, once.

use std::fs::File;
use std::os::fd::OwnedFd;

use super::inside;
use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys;
use crate::wire::Done;

/// In the order in which they are passed.
pub(super) const SPACES: [(Rule, i32, &str); 3] = [
    (Rule::NamespaceNetwork, libc::CLONE_NEWNET, "net"),
    (Rule::NamespaceIpc, libc::CLONE_NEWIPC, "ipc"),
    (Rule::NamespaceUts, libc::CLONE_NEWUTS, "uts"),
];

/// Makes them; this process stays in them.
pub(super) fn prepare() -> Result<(Done, Vec<OwnedFd>), Failure> {
    sys::unshare(in_force().fold(0, |all, (_, space, _)| all | space)).or_fail(Step::Clone, "namespaces ahead")?;
    inside::set_up_network()?;
    let open = |(_, _, name): &(Rule, i32, &str)| -> Result<OwnedFd, Failure> {
        let path = format!("/proc/self/ns/{name}");
        Ok(File::open(&path).or_fail(Step::Report, &path)?.into())
    };
    Ok((Done::default(), SPACES.iter().map(open).collect::<Result<_, _>>()?))
}

/// Enters them, so that a child has them too.
pub(super) fn enter(spaces: &[OwnedFd]) -> Result<(), Failure> {
    for (space, (_, flag, name)) in spaces.iter().zip(SPACES).filter(|(_, (rule, ..))| rule.in_force()) {
        sys::enter(space, flag).or_fail(Step::EnterNamespace, name)?;
    }
    Ok(())
}

/// What a child must be cloned with that does not get them.
pub(super) fn in_force() -> impl Iterator<Item = (Rule, i32, &'static str)> {
    SPACES.into_iter().filter(|(rule, ..)| rule.in_force())
}
