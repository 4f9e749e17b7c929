//! Hosts whose memory, pids and cpu controllers are version 1 hierarchies of their own, beside a
//! version 2 tree without them.
//!
//! The same folders are made in every hierarchy. Limits are version 1 files; freezing, killing and
//! events are version 2 files. The kernel has no group kill there: at the limit it kills one process,
//! and whoever watches the count finishes the group.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use drowse_api::MemoryBytes;
use drowse_api::instance::Limits;
use rustix::event::{EventfdFlags, eventfd};

use super::controllers::{self, Version};
use super::fresh::{self, Fresh};
use super::{CgroupError, Cgroups, CommandGroup, Layout, Leaf, Made, Place, Usage, files, strays, tree, unified};

/// Where the hierarchies of a hybrid host are mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mounts {
    /// The version 2 tree.
    pub unified: PathBuf,
    /// Version 1 memory.
    pub memory: PathBuf,
    /// Version 1 pids.
    pub pids: PathBuf,
    /// Version 1 cpu.
    pub cpu: PathBuf,
}

/// The trees of a hybrid host.
#[derive(Debug)]
pub struct Hybrid {
    unified: PathBuf,
    memory: PathBuf,
    pids: PathBuf,
    cpu: PathBuf,
    // A std lock, held over a few calls to the kernel: a slice must not be removed as empty while
    // another place is made in it.
    shape: Mutex<()>,
    fresh: Fresh,
}

impl Hybrid {
    /// The trees named `name` in every mount, made now.
    ///
    /// # Errors
    /// If one cannot be made.
    pub fn open(mounts: &Mounts, name: &str) -> Result<Self, CgroupError> {
        let hybrid = Self {
            unified: mounts.unified.join(name),
            memory: mounts.memory.join(name),
            pids: mounts.pids.join(name),
            cpu: mounts.cpu.join(name),
            shape: Mutex::new(()),
            fresh: Fresh::default(),
        };
        hybrid.roots().iter().try_for_each(|root| files::make(root))?;
        count_children_too(&hybrid.memory)?;
        Ok(hybrid)
    }

    /// Every hierarchy's root, each once: cpu and memory may be mounted together.
    fn roots(&self) -> Vec<PathBuf> {
        let mut roots = Vec::new();
        for root in [&self.memory, &self.pids, &self.cpu, &self.unified] {
            if !roots.contains(root) {
                roots.push(root.clone());
            }
        }
        roots
    }

    fn leaf(&self, place: &Place, leaf: Leaf) -> PathBuf {
        self.unified.join(place.folder()).join(leaf.folder())
    }

    /// A process may be in some hierarchies and not yet, or not any more, in the unified one.
    fn kill_strays(&self, place: &Place, leaf: Leaf) -> Result<(), CgroupError> {
        for root in [&self.memory, &self.pids, &self.cpu] {
            strays::kill_below(&root.join(place.folder()).join(leaf.folder()))?;
        }
        Ok(())
    }
}

/// The group of a command in the hierarchy with this root.
fn command_folder(root: &Path, place: &Place, command: &CommandGroup) -> PathBuf {
    root.join(place.folder()).join(Leaf::App.folder()).join(command.folder())
}

/// On kernels before 5.11 a memory group counts its children only if told so before it has any.
fn count_children_too(group: &std::path::Path) -> Result<(), CgroupError> {
    let path = group.join("memory.use_hierarchy");
    match files::if_there(files::read_number(&path))? {
        Some(0) => files::write_checked(&path, "1"),
        _ => Ok(()),
    }
}

impl Cgroups for Hybrid {
    fn layout(&self) -> Layout {
        Layout::Hybrid
    }

    fn create(&self, place: &Place, limits: &Limits) -> Result<Made, CgroupError> {
        let _shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all_new = true;
        for root in self.roots() {
            files::make(&root.join(place.slice().folder()))?;
            all_new &= files::make_new(&root.join(place.folder()))?;
        }
        count_children_too(&self.memory.join(place.slice().folder()))?;
        let memory = self.memory.join(place.folder());
        count_children_too(&memory)?;
        controllers::set_memory(&memory, Version::V1, limits.memory.0)?;
        controllers::set_pids(&self.pids.join(place.folder()), Version::V1, limits.pids)?;
        controllers::set_cpu_weight(&self.cpu.join(place.folder()), Version::V1, limits.cpu_weight)?;
        for leaf in Leaf::ALL {
            for root in self.roots() {
                let is_new = files::make_new(&root.join(place.folder()).join(leaf.folder()))?;
                if is_new && root == self.unified {
                    self.fresh.made(place, leaf);
                }
            }
            // Each group's own value counts when its pages are looked at: no page of it goes to swap.
            files::write_checked(&memory.join(leaf.folder()).join("memory.swappiness"), "0")?;
        }
        files::write_checked(&memory.join("memory.swappiness"), "0")?;
        Ok(Made::new(all_new))
    }

    fn open_procs(&self, place: &Place, leaf: Leaf) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |root: &PathBuf| {
            let name = if *root == self.unified { "cgroup.procs" } else { "tasks" };
            files::open_procs(&root.join(place.folder()).join(leaf.folder()), name)
        };
        self.roots().iter().map(open).collect()
    }

    fn open_groups(&self, place: &Place, leaf: Leaf) -> Result<Vec<OwnedFd>, CgroupError> {
        let mut groups = self.open_procs(place, leaf)?;
        if self.fresh.has(place, leaf) {
            // The unified one is the last.
            groups.pop();
            groups.push(fresh::open_folder(&self.leaf(place, leaf))?);
        }
        Ok(groups)
    }

    fn kill_app(&self, place: &Place) -> Result<(), CgroupError> {
        self.fresh.spoiled(place, Leaf::App);
        unified::kill(&self.leaf(place, Leaf::App))?;
        self.kill_strays(place, Leaf::App)
    }

    fn kill_all(&self, place: &Place) -> Result<(), CgroupError> {
        Leaf::ALL.into_iter().for_each(|leaf| self.fresh.spoiled(place, leaf));
        unified::kill(&self.unified.join(place.folder()))?;
        Leaf::ALL.into_iter().try_for_each(|leaf| self.kill_strays(place, leaf))
    }

    fn processes(&self, place: &Place, leaf: Leaf) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        for root in self.roots() {
            pids.extend(files::pids_below(&root.join(place.folder()).join(leaf.folder()))?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    fn is_populated(&self, place: &Place, leaf: Leaf) -> Result<bool, CgroupError> {
        Ok(unified::is_populated(&self.leaf(place, leaf))? || !self.processes(place, leaf)?.is_empty())
    }

    fn freeze(&self, place: &Place) -> Result<(), CgroupError> {
        unified::set_frozen(&self.leaf(place, Leaf::App), true)
    }

    fn thaw(&self, place: &Place) -> Result<(), CgroupError> {
        unified::set_frozen(&self.leaf(place, Leaf::App), false)
    }

    fn is_frozen(&self, place: &Place) -> Result<bool, CgroupError> {
        unified::is_frozen(&self.leaf(place, Leaf::App))
    }

    fn open_folder(&self, place: &Place, leaf: Leaf) -> Result<OwnedFd, CgroupError> {
        Ok(files::open(&self.leaf(place, leaf))?.into())
    }

    fn drop_cache(&self, place: &Place) -> Result<(), CgroupError> {
        files::write(&self.memory.join(place.folder()).join(Leaf::App.folder()).join("memory.force_empty"), "0")
    }

    fn let_swap(&self, place: &Place, may: bool) -> Result<(), CgroupError> {
        let leaf = self.memory.join(place.folder()).join(Leaf::App.folder());
        files::write_checked(&leaf.join("memory.swappiness"), if may { "100" } else { "0" })
    }

    fn swapped(&self, place: &Place) -> Result<u64, CgroupError> {
        let stat = self.memory.join(place.folder()).join(Leaf::App.folder()).join("memory.stat");
        // Not listed by a kernel without swap.
        let Ok(swapped) = files::read_key(&stat, "swap") else { return files::read(&stat).map(|_| 0) };
        Ok(swapped)
    }

    fn oom_kills(&self, place: &Place) -> Result<u64, CgroupError> {
        // Version 1 counts a kill only in the group that the killed process was in.
        let group = self.memory.join(place.folder());
        let count = |leaf: Leaf| files::read_key(&group.join(leaf.folder()).join("memory.oom_control"), "oom_kill");
        Ok(count(Leaf::Init)? + count(Leaf::App)?)
    }

    fn refused_forks(&self, place: &Place) -> Result<u64, CgroupError> {
        // Version 1 counts in the group of the process that forks.
        let group = self.pids.join(place.folder()).join(Leaf::App.folder());
        files::read_key(&group.join("pids.events"), "max")
    }

    fn watch_oom(&self, place: &Place) -> Result<OwnedFd, CgroupError> {
        // A group is told of the limits above it too, so watching the leaf sees every one.
        let group = self.memory.join(place.folder()).join(Leaf::App.folder());
        let path = group.join("memory.oom_control");
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| files::failed("make a notice for", &path)(error.into()))?;
        let control = files::open(&path)?;
        files::write(&group.join("cgroup.event_control"), &format!("{} {}", event.as_raw_fd(), control.as_raw_fd()))?;
        Ok(event)
    }

    fn usage(&self, place: &Place) -> Result<Usage, CgroupError> {
        let memory = self.memory.join(place.folder());
        Ok(Usage {
            memory: files::read_number(&memory.join("memory.usage_in_bytes"))?,
            peak: files::if_there(files::read_number(&memory.join("memory.max_usage_in_bytes")))?,
            pids: files::read_number(&self.pids.join(place.folder()).join("pids.current"))?,
            cpu: unified::cpu_time(&self.unified.join(place.folder()))?,
        })
    }

    fn limits(&self, place: &Place) -> Result<Limits, CgroupError> {
        Ok(Limits {
            memory: MemoryBytes(controllers::memory(&self.memory.join(place.folder()), Version::V1)?),
            pids: controllers::pids(&self.pids.join(place.folder()))?,
            cpu_weight: controllers::cpu_weight(&self.cpu.join(place.folder()), Version::V1)?,
            ..Limits::default()
        })
    }

    fn make_command(&self, place: &Place, command: &CommandGroup) -> Result<Vec<OwnedFd>, CgroupError> {
        let groups: Vec<_> = self.roots().iter().map(|root| command_folder(root, place, command)).collect();
        groups.iter().try_for_each(|group| files::make(group))?;
        files::write_checked(&command_folder(&self.memory, place, command).join("memory.swappiness"), "0")?;
        groups.iter().map(|group| files::open_procs(group, "cgroup.procs")).collect()
    }

    fn command_processes(&self, place: &Place, command: &CommandGroup) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        for root in self.roots() {
            pids.extend(files::pids_below(&command_folder(&root, place, command))?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    fn kill_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError> {
        unified::kill(&command_folder(&self.unified, place, command))?;
        let v1 = [&self.memory, &self.pids, &self.cpu];
        v1.into_iter().try_for_each(|root| strays::kill_below(&command_folder(root, place, command)))
    }

    fn oom_kills_with(&self, place: &Place, command: &CommandGroup) -> Result<u64, CgroupError> {
        let own = command_folder(&self.memory, place, command).join("memory.oom_control");
        let own = files::if_there(files::read_key(&own, "oom_kill"))?;
        Ok(self.oom_kills(place)? + own.unwrap_or_default())
    }

    fn remove_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError> {
        self.roots().iter().try_for_each(|root| files::remove_tree(&command_folder(root, place, command)))
    }

    fn commands(&self, place: &Place) -> Result<Vec<CommandGroup>, CgroupError> {
        let apps: Vec<_> = self.roots().iter().map(|root| root.join(place.folder()).join(Leaf::App.folder())).collect();
        tree::commands(&apps)
    }

    fn remove(&self, place: &Place) -> Result<(), CgroupError> {
        Leaf::ALL.into_iter().for_each(|leaf| self.fresh.spoiled(place, leaf));
        for root in self.roots() {
            files::remove_tree(&root.join(place.folder()))?;
        }
        let _shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        self.roots().iter().try_for_each(|root| files::remove_if_empty(&root.join(place.slice().folder())))
    }

    fn list(&self) -> Result<Vec<Place>, CgroupError> {
        tree::places(&self.roots())
    }

    fn remove_root(&self) -> Result<(), CgroupError> {
        tree::remove_root(&self.roots())
    }
}
