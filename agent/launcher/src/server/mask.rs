//! Hides what proc and sysfs tell about the host, and makes read-only what would change it.

use std::path::Path;

use rustix::mount::MountAttrFlags;

use super::mounts::{self, attach};
use super::root::{Root, Shape};
use super::{devices, spec};
use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys::{MountChange, change_mount};

/// Applies both lists of a configuration. What does not exist needs nothing.
pub(super) fn hide(root: &Root, plan: &spec::Plan) -> Result<(), Failure> {
    let null = devices::host_null()?;
    // One empty file system hides all folders.
    let mut empty = None;
    for path in plan.masked.iter().filter(|path| rule_of(path).in_force()) {
        let Some((target, shape)) = root.find(path)? else { continue };
        let mask = match (shape, &empty) {
            (Shape::Folder, Some(empty)) => mounts::copy_of(empty, false).or_fail(Step::Mask, path)?,
            (Shape::Folder, None) => mounts::new_mount("tmpfs", &["size=4k", "nr_inodes=2"], mounts::read_only())?,
            (Shape::File, _) => mounts::copy_of(&null, false).or_fail(Step::Mask, path)?,
        };
        attach(&mask, target).or_fail(Step::Mask, path)?;
        if shape == Shape::Folder {
            empty.get_or_insert(mask);
        }
    }
    for path in plan.read_only.iter().filter(|_| Rule::ProcReadOnly.in_force()) {
        make_read_only(root, path)?;
    }
    Ok(())
}

/// The rule that wants a path masked.
fn rule_of(path: &Path) -> Rule {
    let hardware = ["/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/scsi"];
    if ["/proc/keys", "/proc/key-users"].iter().any(|keys| Path::new(keys) == path) {
        Rule::MaskKeys
    } else if hardware.iter().any(|hardware| Path::new(hardware) == path) {
        Rule::MaskHardware
    } else if path.starts_with("/sys") {
        Rule::MaskSys
    } else {
        Rule::MaskKernel
    }
}

fn make_read_only(root: &Root, path: &Path) -> Result<(), Failure> {
    let Some((place, _)) = root.find(path)? else { return Ok(()) };
    let copy = mounts::copy_of(&place, true).or_fail(Step::ReadOnly, path)?;
    let set = MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into();
    change_mount(&copy, &MountChange { set, recursive: true, ..MountChange::default() })
        .or_fail(Step::ReadOnly, path)?;
    attach(copy, place).or_fail(Step::ReadOnly, path)
}
