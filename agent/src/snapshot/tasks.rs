//! What processes may do, as the kernel tells it: read before a dump and after a restore, and compared.
//! CRIU takes users, capabilities and filters from its images, so they are believed only after this.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{SnapshotError, io};

/// The lines of `/proc/PID/status` (proc(5)) that say what a process may do.
const FIELDS: [&str; 11] = [
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
];

/// What one process may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// The kernel's words for each of the fields.
    fields: BTreeMap<String, String>,
    /// The inode of its user namespace.
    user_namespace: u64,
}

/// The processes of an app by their pids inside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tasks(BTreeMap<i32, Rights>);

impl Tasks {
    /// Reads them; `pids` are the host's. Also the host's pid of each by its pid inside. One that has ended
    /// meanwhile is passed over.
    ///
    /// # Errors
    /// If one cannot be read.
    pub fn read(pids: &[i32]) -> Result<(Self, BTreeMap<i32, i32>), SnapshotError> {
        let (mut tasks, mut hosts) = (BTreeMap::new(), BTreeMap::new());
        for pid in pids {
            let folder = Path::new("/proc").join(pid.to_string());
            let path = folder.join("status");
            let status = match std::fs::read_to_string(&path) {
                Err(error) if has_ended(&error) => continue,
                other => other.map_err(io("read", &path))?,
            };
            let unusable = || SnapshotError::Unusable { what: format!("{} is not as proc(5) has it", path.display()) };
            let inside = field(&status, "NSpid").and_then(|pids| pids.split_whitespace().next_back()?.parse().ok());
            let namespace = folder.join("ns/user");
            let user_namespace = match std::fs::metadata(&namespace) {
                Err(error) if has_ended(&error) => continue,
                other => other.map_err(io("look at", &namespace))?.ino(),
            };
            let fields = FIELDS.iter().map(|name| Some(((*name).to_owned(), field(&status, name)?.to_owned())));
            let fields = fields.collect::<Option<BTreeMap<_, _>>>().ok_or_else(unusable)?;
            let inside = inside.ok_or_else(unusable)?;
            tasks.insert(inside, Rights { fields, user_namespace });
            hosts.insert(inside, *pid);
        }
        Ok((Self(tasks), hosts))
    }

    /// Whether all of them are in the user namespace of this process: what is dumped from another one would be
    /// restored into ours, and could be the host's root there.
    ///
    /// # Errors
    /// If /proc cannot be read.
    pub fn share_our_user_namespace(&self) -> Result<bool, SnapshotError> {
        let path = Path::new("/proc/self/ns/user");
        let ours = std::fs::metadata(path).map_err(io("look at", path))?.ino();
        Ok(self.0.values().all(|rights| rights.user_namespace == ours))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// That `restored` may do what the processes that were dumped might. They run already: one may have
    /// ended since, and one that was started since has the rights of one of them. `main` must be there.
    ///
    /// # Errors
    /// [`SnapshotError::Changed`] names the first difference.
    pub fn expect(&self, restored: &Self, main: i32) -> Result<(), SnapshotError> {
        let changed = |what: String| Err(SnapshotError::Changed { what });
        if !restored.0.contains_key(&main) {
            return changed(format!("the main process {main} is missing"));
        }
        for (pid, is) in &restored.0 {
            let Some(was) = self.0.get(pid) else {
                if self.0.values().any(|was| was == is) {
                    continue;
                }
                return changed(format!("process {pid} has rights that none had"));
            };
            if was.user_namespace != is.user_namespace {
                return changed(format!("process {pid} is in another user namespace"));
            }
            for (name, value) in &was.fields {
                let found = is.fields.get(name);
                if found != Some(value) {
                    return changed(format!("{name} of process {pid} was {value:?} and is {found:?}"));
                }
            }
        }
        Ok(())
    }
}

fn has_ended(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> Tasks {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        Tasks::read(&[pid]).expect("this process").0
    }

    fn pid() -> i32 {
        own().0.keys().next().copied().expect("one process")
    }

    #[test]
    fn a_process_is_like_itself() {
        assert_eq!(own().len(), 1);
        own().expect(&own(), pid()).expect("nothing changed");
    }

    #[test]
    fn every_right_counts() {
        for name in FIELDS {
            let mut other = own();
            let rights = other.0.values_mut().next().expect("one process");
            rights.fields.insert(name.to_owned(), "another".to_owned());
            let error = own().expect(&other, pid()).expect_err("it changed").to_string();
            assert!(error.contains(name), "{error}");
        }
        let mut other = own();
        other.0.values_mut().next().expect("one process").user_namespace += 1;
        assert!(own().expect(&other, pid()).is_err());
    }

    #[test]
    fn one_that_was_started_since_has_rights_that_were_there() {
        let mut more = own();
        let rights = more.0.values().next().expect("one process").clone();
        more.0.insert(i32::MAX, rights);
        own().expect(&more, pid()).expect("a child");
        more.expect(&own(), pid()).expect("a child has ended");
        more.0.get_mut(&i32::MAX).expect("there").fields.insert("CapEff".to_owned(), "ff".to_owned());
        assert!(own().expect(&more, pid()).expect_err("more").to_string().contains("that none had"));
        assert!(own().expect(&Tasks::default(), pid()).expect_err("none").to_string().contains("is missing"));
    }
}
