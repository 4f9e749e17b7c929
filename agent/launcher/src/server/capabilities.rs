//! All five capability sets, set and read back.

use std::collections::HashSet;

use caps::{CapSet, Capability};
use oci_spec::runtime::{Capabilities, LinuxCapabilities};

use crate::failure::{Failure, OrFail, Step};
use crate::message::SeccompProfile;
use crate::rules::Rule;
use crate::sys::{self, ThreadCapabilities};

/// What root inside is root by, over its own ids: files of any of its users, other users for its
/// processes, signals to them. The ports are everybody's anyway, but servers look for the capability.
const ROOT_INSIDE: [Capability; 9] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
];

/// And what a builder of images is beside that: it mounts, and writes file capabilities into layers, which are
/// dropped from them later and honoured nowhere.
const BUILDER: [Capability; 3] = [Capability::CAP_SYS_ADMIN, Capability::CAP_SYS_CHROOT, Capability::CAP_SETFCAP];

/// The sets as masks. By default all are empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sets {
    pub(super) bounding: u64,
    pub(super) effective: u64,
    pub(super) permitted: u64,
    pub(super) inheritable: u64,
    pub(super) ambient: u64,
}

impl Sets {
    /// The sets that an OCI process asks for; nothing asked is nothing given.
    pub(super) fn asked(asked: Option<&LinuxCapabilities>) -> Self {
        let Some(asked) = asked else { return Self::default().by_rules() };
        let sets = Self {
            bounding: mask(asked.bounding().as_ref()),
            effective: mask(asked.effective().as_ref()),
            permitted: mask(asked.permitted().as_ref()),
            inheritable: mask(asked.inheritable().as_ref()),
            ambient: mask(asked.ambient().as_ref()),
        };
        sets.by_rules()
    }

    /// What a launcher would hand on that did not empty a set: what it has itself. A capability is
    /// inheritable only from the bounding set, and ambient only if permitted and inheritable.
    fn by_rules(mut self) -> Self {
        let all = || collect(|capability| sys::is_bounding(capability) == Some(true));
        if !Rule::CapabilitiesAmbient.in_force() {
            let all = all();
            self = Self { bounding: all, effective: all, permitted: all, inheritable: all, ambient: all };
        }
        if !Rule::CapabilitiesInheritable.in_force() {
            self = Self { bounding: all(), inheritable: all(), permitted: all(), ..self };
        }
        if !Rule::CapabilitiesBounding.in_force() {
            self.bounding = all();
        }
        self
    }

    /// Of these, what a process of this profile may have where root is inside.
    pub(super) fn of_root_inside(self, profile: SeccompProfile) -> Self {
        let more: &[Capability] = if profile == SeccompProfile::Builder { &BUILDER } else { &[] };
        let most = ROOT_INSIDE.iter().chain(more).fold(0, |mask, capability| mask | capability.bitmask());
        Self {
            bounding: self.bounding & most,
            effective: self.effective & most,
            permitted: self.permitted & most,
            inheritable: self.inheritable & most,
            ambient: self.ambient & most,
        }
    }

    /// Takes everything out of the bounding set that is not wanted there. Must happen while this
    /// process is still root.
    pub(super) fn limit_bounding(&self) -> Result<(), Failure> {
        for capability in 0..64 {
            match sys::is_bounding(capability) {
                None => break,
                Some(true) if self.bounding & (1 << capability) == 0 => {
                    sys::drop_bounding(capability).or_fail(Step::Capabilities, "the bounding set")?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Sets the other four, after the change of user, and reads all five back.
    pub(super) fn apply(&self) -> Result<(), Failure> {
        sys::clear_ambient().or_fail(Step::Capabilities, "the ambient set")?;
        let sets =
            ThreadCapabilities { effective: self.effective, permitted: self.permitted, inheritable: self.inheritable };
        sys::set_capabilities(sets).or_fail(Step::Capabilities, "the process")?;
        for capability in (0..64).filter(|capability| self.ambient & (1 << capability) != 0) {
            sys::raise_ambient(capability).or_fail(Step::Capabilities, "the ambient set")?;
        }
        self.verify()
    }

    /// Reads back by our own calls, and by those of a library that shares no code with them.
    fn verify(&self) -> Result<(), Failure> {
        if !Rule::CapabilitiesReadBack.in_force() {
            return Ok(());
        }
        let sets = sys::capabilities().or_fail(Step::Capabilities, "the process")?;
        let found = Self {
            bounding: collect(|capability| sys::is_bounding(capability) == Some(true)),
            effective: sets.effective,
            permitted: sets.permitted,
            inheritable: sets.inheritable,
            ambient: collect(sys::is_ambient),
        };
        // What the kernel does not know cannot have been given.
        let known = collect(|capability| sys::is_bounding(capability).is_some());
        let wanted = Self { bounding: self.bounding & known, ..*self };
        if found != wanted {
            return Err(Failure::refused(
                Step::Capabilities,
                "the process",
                format!("they read back as {found:x?}, not as {wanted:x?}"),
            ));
        }
        let library = [
            (CapSet::Effective, wanted.effective),
            (CapSet::Permitted, wanted.permitted),
            (CapSet::Inheritable, wanted.inheritable),
            (CapSet::Ambient, wanted.ambient),
        ];
        for (set, wanted) in library {
            let found = caps::read(None, set)
                .map_err(|error| Failure::refused(Step::Capabilities, format!("{set:?}"), error.to_string()))?
                .iter()
                .fold(0, |mask, capability| mask | capability.bitmask());
            if found != wanted {
                return Err(Failure::refused(
                    Step::Capabilities,
                    format!("{set:?}"),
                    format!("they read back as {found:x}, not as {wanted:x}"),
                ));
            }
        }
        Ok(())
    }
}

fn collect(holds: impl Fn(u32) -> bool) -> u64 {
    (0..64).filter(|capability| holds(*capability)).fold(0, |mask, capability| mask | 1 << capability)
}

/// The names of the specification are those of the kernel without their prefix.
fn mask(capabilities: Option<&Capabilities>) -> u64 {
    let Some(capabilities) = capabilities else { return 0 };
    let names: HashSet<String> = capabilities.iter().map(ToString::to_string).collect();
    caps::all()
        .into_iter()
        .filter(|capability| {
            let name = capability.to_string();
            names.contains(&name) || name.strip_prefix("CAP_").is_some_and(|short| names.contains(short))
        })
        .fold(0, |mask, capability| mask | capability.bitmask())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::{Capability, LinuxCapabilitiesBuilder};

    #[test]
    fn nothing_asked_is_nothing_given() {
        assert_eq!(Sets::asked(None), Sets::default());
    }

    #[test]
    fn a_capability_is_found_by_its_name() {
        let asked = LinuxCapabilitiesBuilder::default()
            .bounding(HashSet::from([Capability::NetBindService, Capability::Chown]))
            .effective(HashSet::from([Capability::NetBindService]))
            .permitted(HashSet::new())
            .inheritable(HashSet::new())
            .ambient(HashSet::new())
            .build()
            .unwrap();
        let sets = Sets::asked(Some(&asked));
        assert_eq!(sets.bounding, 1 << 10 | 1);
        assert_eq!(sets.effective, 1 << 10);
        assert_eq!(sets.ambient, 0);
    }
}
