//! What is on the machine under our roots, whoever made it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::files::{children, remove_tree};
use super::{CgroupError, CommandGroup, Place, Slice};

/// Every place below any of `roots`, in order.
pub(super) fn places(roots: &[PathBuf]) -> Result<Vec<Place>, CgroupError> {
    let mut found = BTreeSet::new();
    for root in roots {
        for folder in children(root)? {
            let Some(slice) = name(&folder).and_then(Slice::from_folder) else { continue };
            for group in children(&folder)? {
                found.extend(name(&group).and_then(|id| Place::new(slice.clone(), id).ok()));
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Every command below any of the leaves `apps`, in order.
pub(super) fn commands(apps: &[PathBuf]) -> Result<Vec<CommandGroup>, CgroupError> {
    let mut found = BTreeSet::new();
    for app in apps {
        found.extend(children(app)?.iter().filter_map(|group| name(group).and_then(CommandGroup::from_folder)));
    }
    Ok(found.into_iter().collect())
}

/// Removes the roots and what is empty below them.
pub(super) fn remove_root(roots: &[PathBuf]) -> Result<(), CgroupError> {
    roots.iter().try_for_each(|root| remove_tree(root))
}

fn name(folder: &std::path::Path) -> Option<&str> {
    folder.file_name()?.to_str()
}
