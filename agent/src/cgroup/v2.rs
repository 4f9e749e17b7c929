//! Hosts with one version 2 hierarchy that has the memory, pids and cpu controllers.
//!
//! The kernel kills all of a group together at the memory limit where the group says so, and a group with
//! controllers for its children may hold no process itself. So the app's processes are in `app/main`, which
//! says so, and each command beside it in a group of its own below `app`: a greedy one ends alone.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use drowse_api::MemoryBytes;
use drowse_api::instance::Limits;
use rustix::fs::inotify;

use super::controllers::{self, Version};
use super::fresh::{self, Fresh};
use super::{CgroupError, Cgroups, CommandGroup, Layout, Leaf, Made, Place, Usage, files, tree, unified};

/// The tree of a version 2 host.
#[derive(Debug)]
pub struct V2 {
    mount: PathBuf,
    root: PathBuf,
    // A std lock, held over a few calls to the kernel: a slice must not be removed as empty while
    // another place is made in it.
    shape: Mutex<()>,
    fresh: Fresh,
}

impl V2 {
    /// The tree at `mount/name`, made now. `name` may be a path; only its last folder is made, since
    /// those above belong to whoever delegated them.
    ///
    /// # Errors
    /// If it cannot be made, or the controllers cannot be enabled in it.
    pub fn open(mount: &Path, name: &str) -> Result<Self, CgroupError> {
        let tree =
            Self { mount: mount.to_owned(), root: mount.join(name), shape: Mutex::new(()), fresh: Fresh::default() };
        tree.make_root()?;
        Ok(tree)
    }

    /// Makes the root, and has every group from the mount down to it hand the controllers on.
    fn make_root(&self) -> Result<(), CgroupError> {
        let below = self.root.strip_prefix(&self.mount).unwrap_or(&self.root);
        let mut group = self.mount.clone();
        for folder in below {
            enable(&group, CONTROLLERS)?;
            group.push(folder);
        }
        files::make(&group)?;
        enable(&group, CONTROLLERS)
    }

    /// Makes the folder of a slice. The unit that the root is in may have been started anew, which
    /// takes the root away.
    fn make_slice(&self, slice: &Path) -> Result<(), CgroupError> {
        match files::if_there(files::make(slice))? {
            Some(()) => Ok(()),
            None => self.make_root().and_then(|()| files::make(slice)),
        }
    }

    fn group(&self, place: &Place) -> PathBuf {
        self.root.join(place.folder())
    }

    fn leaf(&self, place: &Place, leaf: Leaf) -> PathBuf {
        self.group(place).join(leaf.folder())
    }

    /// Where the processes of a leaf are.
    fn home(&self, place: &Place, leaf: Leaf) -> PathBuf {
        match leaf {
            Leaf::Init => self.leaf(place, leaf),
            Leaf::App => self.leaf(place, leaf).join(MAIN),
        }
    }
}

/// The app's own processes, beside its commands.
const MAIN: &str = "main";

fn command_folder(app: &Path, command: &CommandGroup) -> PathBuf {
    app.join(command.folder())
}

const CONTROLLERS: &[&str] = &["cpu", "memory", "pids"];

/// Enables controllers for the children of `group`, and reads back that they are.
fn enable(group: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let path = group.join("cgroup.subtree_control");
    let missing = |text: &str| wanted.iter().any(|name| !text.split_ascii_whitespace().any(|there| there == *name));
    if !missing(&files::read(&path)?) {
        return Ok(());
    }
    let request = wanted.iter().map(|name| format!("+{name}")).collect::<Vec<_>>().join(" ");
    files::write(&path, &request)?;
    let found = files::read(&path)?;
    if missing(&found) {
        return Err(CgroupError::NotTaken { path, wanted: request, found: found.trim().to_owned() });
    }
    Ok(())
}

impl Cgroups for V2 {
    fn layout(&self) -> Layout {
        Layout::V2
    }

    fn create(&self, place: &Place, limits: &Limits) -> Result<Made, CgroupError> {
        let _shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        let slice = self.root.join(place.slice().folder());
        self.make_slice(&slice)?;
        enable(&slice, CONTROLLERS)?;
        let group = self.group(place);
        let is_new = files::make_new(&group)?;
        controllers::set_memory(&group, Version::V2, limits.memory.0)?;
        controllers::set_pids(&group, Version::V2, limits.pids)?;
        controllers::set_cpu_weight(&group, Version::V2, limits.cpu_weight)?;
        // Not there on a kernel without swap, which then needs no limit.
        files::if_there(files::write_checked(&group.join("memory.swap.max"), "0"))?;
        enable(&group, &["memory"])?;
        files::make(&self.leaf(place, Leaf::App))?;
        enable(&self.leaf(place, Leaf::App), &["memory"])?;
        for leaf in Leaf::ALL {
            if files::make_new(&self.home(place, leaf))? {
                self.fresh.made(place, leaf);
            }
        }
        files::write_checked(&self.home(place, Leaf::App).join("memory.oom.group"), "1")?;
        Ok(Made::new(is_new))
    }

    fn open_procs(&self, place: &Place, leaf: Leaf) -> Result<Vec<OwnedFd>, CgroupError> {
        Ok(vec![files::open_procs(&self.home(place, leaf), "cgroup.procs")?])
    }

    fn open_groups(&self, place: &Place, leaf: Leaf) -> Result<Vec<OwnedFd>, CgroupError> {
        if self.fresh.has(place, leaf) {
            return Ok(vec![fresh::open_folder(&self.home(place, leaf))?]);
        }
        self.open_procs(place, leaf)
    }

    fn kill_app(&self, place: &Place) -> Result<(), CgroupError> {
        self.fresh.spoiled(place, Leaf::App);
        unified::kill(&self.leaf(place, Leaf::App))
    }

    fn kill_all(&self, place: &Place) -> Result<(), CgroupError> {
        Leaf::ALL.into_iter().for_each(|leaf| self.fresh.spoiled(place, leaf));
        unified::kill(&self.group(place))
    }

    fn processes(&self, place: &Place, leaf: Leaf) -> Result<Vec<i32>, CgroupError> {
        files::pids_below(&self.leaf(place, leaf))
    }

    fn is_populated(&self, place: &Place, leaf: Leaf) -> Result<bool, CgroupError> {
        unified::is_populated(&self.leaf(place, leaf))
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
        let leaf = self.leaf(place, Leaf::App);
        let charged = files::read_number(&leaf.join("memory.current"))?;
        // EAGAIN: less than all of it could be let go. Kernels before 5.19 have no such file.
        match files::if_there(files::write(&leaf.join("memory.reclaim"), &charged.to_string())) {
            Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(libc::EAGAIN) => Ok(()),
            other => other.map(drop),
        }
    }

    fn let_swap(&self, place: &Place, may: bool) -> Result<(), CgroupError> {
        let path = self.group(place).join("memory.swap.max");
        // What is in swap already stays there at a limit of none.
        files::if_there(files::write_checked(&path, if may { "max" } else { "0" })).map(drop)
    }

    fn swapped(&self, place: &Place) -> Result<u64, CgroupError> {
        let group = self.group(place);
        let swapped = files::if_there(files::read_number(&group.join("memory.swap.current")))?;
        match swapped {
            Some(swapped) => Ok(swapped),
            None => files::read_number(&group.join("memory.current")).map(|_| 0),
        }
    }

    fn oom_kills(&self, place: &Place) -> Result<u64, CgroupError> {
        // A kill is counted where the killed process was, and above.
        let count = |leaf| files::read_key(&self.home(place, leaf).join("memory.events"), "oom_kill");
        Ok(count(Leaf::Init)? + count(Leaf::App)?)
    }

    fn refused_forks(&self, place: &Place) -> Result<u64, CgroupError> {
        // The leaves have no such controller: also kernels that count where the process is count here.
        files::read_key(&self.group(place).join("pids.events"), "max")
    }

    fn watch_oom(&self, place: &Place) -> Result<OwnedFd, CgroupError> {
        let path = self.home(place, Leaf::App).join("memory.events");
        let watch = || {
            let notices = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&notices, &path, inotify::WatchFlags::MODIFY)?;
            Ok::<_, rustix::io::Errno>(notices)
        };
        watch().map_err(|error: rustix::io::Errno| files::failed("watch", &path)(error.into()))
    }

    fn usage(&self, place: &Place) -> Result<Usage, CgroupError> {
        let group = self.group(place);
        Ok(Usage {
            memory: files::read_number(&group.join("memory.current"))?,
            peak: files::if_there(files::read_number(&group.join("memory.peak")))?,
            pids: files::read_number(&group.join("pids.current"))?,
            cpu: unified::cpu_time(&group)?,
        })
    }

    fn limits(&self, place: &Place) -> Result<Limits, CgroupError> {
        let group = self.group(place);
        Ok(Limits {
            memory: MemoryBytes(controllers::memory(&group, Version::V2)?),
            pids: controllers::pids(&group)?,
            cpu_weight: controllers::cpu_weight(&group, Version::V2)?,
            ..Limits::default()
        })
    }

    fn make_command(&self, place: &Place, command: &CommandGroup) -> Result<Vec<OwnedFd>, CgroupError> {
        let group = command_folder(&self.leaf(place, Leaf::App), command);
        files::make(&group)?;
        files::write_checked(&group.join("memory.oom.group"), "1")?;
        Ok(vec![files::open_procs(&group, "cgroup.procs")?])
    }

    fn command_processes(&self, place: &Place, command: &CommandGroup) -> Result<Vec<i32>, CgroupError> {
        files::pids_below(&command_folder(&self.leaf(place, Leaf::App), command))
    }

    fn kill_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError> {
        unified::kill(&command_folder(&self.leaf(place, Leaf::App), command))
    }

    fn oom_kills_with(&self, place: &Place, command: &CommandGroup) -> Result<u64, CgroupError> {
        let own = command_folder(&self.leaf(place, Leaf::App), command).join("memory.events");
        let own = files::if_there(files::read_key(&own, "oom_kill"))?;
        Ok(self.oom_kills(place)? + own.unwrap_or_default())
    }

    fn remove_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError> {
        files::remove_tree(&command_folder(&self.leaf(place, Leaf::App), command))
    }

    fn commands(&self, place: &Place) -> Result<Vec<CommandGroup>, CgroupError> {
        tree::commands(&[self.leaf(place, Leaf::App)])
    }

    fn remove(&self, place: &Place) -> Result<(), CgroupError> {
        Leaf::ALL.into_iter().for_each(|leaf| self.fresh.spoiled(place, leaf));
        files::remove_tree(&self.group(place))?;
        let _shape = self.shape.lock().unwrap_or_else(PoisonError::into_inner);
        files::remove_if_empty(&self.root.join(place.slice().folder()))
    }

    fn list(&self) -> Result<Vec<Place>, CgroupError> {
        tree::places(std::slice::from_ref(&self.root))
    }

    fn remove_root(&self) -> Result<(), CgroupError> {
        tree::remove_root(std::slice::from_ref(&self.root))
    }
}
