//! Which host ids a user's processes have: one range of 65,536 each, given once and for ever, since
//! the files of a user's instances carry them.
//!
//! It knows nothing of what runs under the ids.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use drowse_api::UserId;
use drowse_rootfs::IdRange;
use serde::{Deserialize, Serialize};

use crate::durable::{self, DurableError};

/// Ids in one user's range.
pub const RANGE_SIZE: u32 = 65_536;

const MAGIC: &str = "drowse-users";
const VERSION: u32 = 1;

/// Why a user has no range.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The table cannot be read or written. A damaged one is not replaced: restore it from a copy, or
    /// remove all instances' files with it.
    #[error("the table of users' id ranges cannot be used")]
    Table(#[from] DurableError),
    /// Two users of the table have ids in common.
    #[error("{path} gives users {one} and {other} ids in common")]
    Overlap {
        /// Which file.
        path: PathBuf,
        /// One of the two.
        one: UserId,
        /// The other.
        other: UserId,
    },
    /// No ids are left.
    #[error("no host ids are left for user {user}: {used} users have a range, and ids end at 4294967294")]
    Exhausted {
        /// Who asked.
        user: UserId,
        /// How many have a range.
        used: usize,
    },
}

/// The table of users and their ranges. Calls block on the disk.
#[derive(Debug)]
pub struct UserIds {
    path: PathBuf,
    first: u32,
    // A std lock: held over one small file's write, so that two new users never get the same range.
    table: Mutex<Table>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    /// The first host id of each user's range. Users are never removed: their files may come back.
    first_ids: BTreeMap<UserId, u32>,
}

impl UserIds {
    /// Opens the table at `path`, or starts an empty one whose first range begins at `first`. A
    /// `first` changed later moves only users that are new.
    ///
    /// # Errors
    /// If the file is damaged, of a newer form, or gives an id twice: it is then left as it is, since
    /// files on disk are owned by these ids.
    pub fn open(path: &Path, first: u32) -> Result<Self, IdentityError> {
        let table: Table = durable::load(path, MAGIC, VERSION)?.unwrap_or_default();
        if let Some((one, other)) = table.overlap() {
            return Err(IdentityError::Overlap { path: path.to_owned(), one, other });
        }
        Ok(Self { path: path.to_owned(), first, table: Mutex::new(table) })
    }

    /// The range of `user`, given now if it has none: it is on disk before it is returned.
    ///
    /// # Errors
    /// If the table cannot be written or no ids are left.
    pub fn range(&self, user: &UserId) -> Result<IdRange, IdentityError> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = table.first_ids.get(user) {
            return Ok(IdRange { first: *first, count: RANGE_SIZE });
        }
        let used = table.first_ids.len();
        let first = table.next(self.first).ok_or_else(|| IdentityError::Exhausted { user: user.clone(), used })?;
        let mut changed = table.clone();
        changed.first_ids.insert(user.clone(), first);
        durable::save(&self.path, MAGIC, VERSION, &changed)?;
        *table = changed;
        Ok(IdRange { first, count: RANGE_SIZE })
    }
}

impl Table {
    /// The first id behind all that were given. The last id of all, 4294967295, means "none".
    fn next(&self, first: u32) -> Option<u32> {
        let behind = match self.first_ids.values().max() {
            Some(last) => last.checked_add(RANGE_SIZE)?.max(first),
            None => first,
        };
        behind.checked_add(RANGE_SIZE).map(|_| behind)
    }

    fn overlap(&self) -> Option<(UserId, UserId)> {
        let mut ranges: Vec<_> = self.first_ids.iter().map(|(user, first)| (*first, user)).collect();
        ranges.sort_unstable();
        let pair = ranges.windows(2).find(|pair| pair[1].0 - pair[0].0 < RANGE_SIZE)?;
        Some((pair[0].1.clone(), pair[1].1.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: u32 = 6_553_600;

    fn table_file() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let path = folder.path().join("users.json");
        (folder, path)
    }

    #[test]
    fn a_user_keeps_its_range_and_no_two_share_an_id() {
        let (_folder, path) = table_file();
        let (one, other, third) = (UserId::generate(), UserId::generate(), UserId::generate());
        let ids = UserIds::open(&path, FIRST).expect("open");
        let first = ids.range(&one).expect("range");
        assert_eq!((first.first, first.count), (FIRST, RANGE_SIZE));
        assert_eq!(ids.range(&other).expect("range").first, FIRST + RANGE_SIZE);
        assert_eq!(ids.range(&one).expect("range"), first);

        let again = UserIds::open(&path, FIRST).expect("open again");
        assert_eq!(again.range(&one).expect("range"), first);
        assert_eq!(again.range(&third).expect("range").first, FIRST + 2 * RANGE_SIZE);
    }

    #[test]
    fn a_changed_first_id_moves_only_new_users() {
        let (_folder, path) = table_file();
        let (one, other) = (UserId::generate(), UserId::generate());
        UserIds::open(&path, FIRST).and_then(|ids| ids.range(&one)).expect("range");
        let lower = UserIds::open(&path, 65_536).expect("open");
        assert_eq!(lower.range(&one).expect("range").first, FIRST);
        assert_eq!(lower.range(&other).expect("range").first, FIRST + RANGE_SIZE);
    }

    #[test]
    fn the_end_of_all_ids_is_an_error_and_changes_nothing() {
        let (_folder, path) = table_file();
        let (one, other) = (UserId::generate(), UserId::generate());
        let ids = UserIds::open(&path, u32::MAX - RANGE_SIZE).expect("open");
        ids.range(&one).expect("the last range");
        assert!(matches!(ids.range(&other), Err(IdentityError::Exhausted { used: 1, .. })));
        assert!(UserIds::open(&path, FIRST).expect("open").range(&one).is_ok());
    }

    #[test]
    fn a_damaged_table_is_refused_and_left_as_it_is() {
        let (_folder, path) = table_file();
        std::fs::write(&path, "drowse-users v1 sha256:00 2\n{}").expect("write");
        let error = UserIds::open(&path, FIRST).expect_err("damaged");
        assert!(matches!(error, IdentityError::Table(ref cause) if cause.is_damage()), "{error}");
        assert!(path.exists());
    }

    #[test]
    fn a_table_that_gives_an_id_twice_is_refused() {
        let (_folder, path) = table_file();
        let first_ids = BTreeMap::from([(UserId::generate(), FIRST), (UserId::generate(), FIRST + 1)]);
        durable::save(&path, MAGIC, VERSION, &Table { first_ids }).expect("save");
        assert!(matches!(UserIds::open(&path, FIRST), Err(IdentityError::Overlap { .. })));
    }
}
