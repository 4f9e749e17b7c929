//! Control groups without a kernel: every change is recorded, and tests say what happens inside.
//!
//! No real process is ever touched: pids here are numbers that a test made up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use drowse_api::instance::Limits;
use rustix::event::{EventfdFlags, eventfd};

use super::{CgroupError, Cgroups, CommandGroup, Layout, Leaf, Made, Place, Usage, files};

/// One change that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// `create`, with its limits.
    Create(Place, Limits),
    /// `kill_app`.
    KillApp(Place),
    /// `kill_all`.
    KillAll(Place),
    /// `freeze`.
    Freeze(Place),
    /// `thaw`.
    Thaw(Place),
    /// `remove`.
    Remove(Place),
    /// `remove_root`.
    RemoveRoot,
}

/// Control groups without a kernel.
#[derive(Debug, Default)]
pub struct Fake {
    // A std lock, for what tests and the tested code do at once; never held over a wait.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    groups: BTreeMap<Place, Group>,
    calls: Vec<Call>,
}

#[derive(Debug)]
struct Group {
    limits: Limits,
    init: BTreeSet<i32>,
    app: BTreeSet<i32>,
    commands: BTreeMap<CommandGroup, BTreeSet<i32>>,
    frozen: bool,
    may_swap: bool,
    oom_kills: u64,
    commands_killed: BTreeMap<CommandGroup, u64>,
    refused_forks: u64,
    memory: u64,
    watchers: Vec<OwnedFd>,
}

impl Fake {
    /// Nothing made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Every change that was asked for, in order.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.lock().calls.clone()
    }

    /// As if a process had attached itself. False if the place is not there.
    pub fn enter(&self, place: &Place, leaf: Leaf, pid: i32) -> bool {
        let mut state = self.lock();
        let group = state.groups.get_mut(place);
        group.map(|group| group.leaf(leaf).insert(pid)).is_some()
    }

    /// As if a process had attached itself to a command's group. False if that is not there.
    pub fn enter_command(&self, place: &Place, command: &CommandGroup, pid: i32) -> bool {
        let mut state = self.lock();
        let group = state.groups.get_mut(place).and_then(|group| group.commands.get_mut(command));
        group.map(|group| group.insert(pid)).is_some()
    }

    /// As if a process had ended.
    pub fn exit(&self, pid: i32) {
        for group in self.lock().groups.values_mut() {
            group.init.remove(&pid);
            group.app.remove(&pid);
            for command in group.commands.values_mut() {
                command.remove(&pid);
            }
        }
    }

    /// As if the app used so much memory.
    pub fn set_memory(&self, place: &Place, bytes: u64) {
        if let Some(group) = self.lock().groups.get_mut(place) {
            group.memory = bytes;
        }
    }

    /// As if the kernel had killed this process at the memory limit, and only this one, as on a hybrid host.
    pub fn kill_for_memory(&self, place: &Place, pid: i32) {
        if let Some(group) = self.lock().groups.get_mut(place) {
            if group.app.remove(&pid) {
                group.oom_kills += 1;
            } else {
                for (command, pids) in &mut group.commands {
                    if pids.remove(&pid) {
                        *group.commands_killed.entry(command.clone()).or_default() += 1;
                    }
                }
            }
            for watcher in &group.watchers {
                // A counter that is full is still readable, which is all that a watcher needs.
                let _ = rustix::io::write(watcher, &1_u64.to_ne_bytes());
            }
        }
    }

    /// As if the kernel had refused the app a further process.
    pub fn refuse_fork(&self, place: &Place) {
        if let Some(group) = self.lock().groups.get_mut(place) {
            group.refused_forks += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, place: &Place, look: impl FnOnce(&mut Group) -> T) -> Result<T, CgroupError> {
        self.lock().groups.get_mut(place).map(look).ok_or_else(|| missing(place))
    }
}

impl Group {
    fn new(limits: Limits) -> Self {
        let (init, app, commands) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
        Self {
            limits,
            init,
            app,
            commands,
            frozen: false,
            may_swap: false,
            oom_kills: 0,
            commands_killed: BTreeMap::new(),
            refused_forks: 0,
            memory: 0,
            watchers: Vec::new(),
        }
    }

    fn all(&self, leaf: Leaf) -> BTreeSet<i32> {
        match leaf {
            Leaf::Init => self.init.clone(),
            Leaf::App => self.app.iter().chain(self.commands.values().flatten()).copied().collect(),
        }
    }

    fn kill_app(&mut self) {
        self.app.clear();
        self.commands.values_mut().for_each(BTreeSet::clear);
    }

    fn leaf(&mut self, leaf: Leaf) -> &mut BTreeSet<i32> {
        match leaf {
            Leaf::Init => &mut self.init,
            Leaf::App => &mut self.app,
        }
    }
}

fn missing(place: &Place) -> CgroupError {
    files::failed("open", &path(place))(io::ErrorKind::NotFound.into())
}

fn path(place: &Place) -> PathBuf {
    Path::new("/fake").join(place.folder())
}

impl Cgroups for Fake {
    fn layout(&self) -> Layout {
        Layout::Fake
    }

    fn create(&self, place: &Place, limits: &Limits) -> Result<Made, CgroupError> {
        let mut state = self.lock();
        state.calls.push(Call::Create(place.clone(), *limits));
        let is_new = !state.groups.contains_key(place);
        state.groups.entry(place.clone()).or_insert_with(|| Group::new(*limits)).limits = *limits;
        Ok(Made::new(is_new))
    }

    fn open_procs(&self, place: &Place, _leaf: Leaf) -> Result<Vec<OwnedFd>, CgroupError> {
        self.with(place, |_| ())?;
        let null = Path::new("/dev/null");
        Ok(vec![OpenOptions::new().write(true).open(null).map_err(files::failed("open", null))?.into()])
    }

    fn kill_app(&self, place: &Place) -> Result<(), CgroupError> {
        let mut state = self.lock();
        state.calls.push(Call::KillApp(place.clone()));
        if let Some(group) = state.groups.get_mut(place) {
            group.kill_app();
        }
        Ok(())
    }

    fn kill_all(&self, place: &Place) -> Result<(), CgroupError> {
        let mut state = self.lock();
        state.calls.push(Call::KillAll(place.clone()));
        if let Some(group) = state.groups.get_mut(place) {
            group.kill_app();
            group.init.clear();
        }
        Ok(())
    }

    fn processes(&self, place: &Place, leaf: Leaf) -> Result<Vec<i32>, CgroupError> {
        Ok(self.with(place, |group| group.all(leaf).into_iter().collect()).unwrap_or_default())
    }

    fn is_populated(&self, place: &Place, leaf: Leaf) -> Result<bool, CgroupError> {
        Ok(!self.processes(place, leaf)?.is_empty())
    }

    fn freeze(&self, place: &Place) -> Result<(), CgroupError> {
        self.lock().calls.push(Call::Freeze(place.clone()));
        self.with(place, |group| group.frozen = true)
    }

    fn thaw(&self, place: &Place) -> Result<(), CgroupError> {
        self.lock().calls.push(Call::Thaw(place.clone()));
        self.with(place, |group| group.frozen = false)
    }

    fn is_frozen(&self, place: &Place) -> Result<bool, CgroupError> {
        self.with(place, |group| group.frozen)
    }

    fn open_folder(&self, place: &Place, _leaf: Leaf) -> Result<OwnedFd, CgroupError> {
        self.with(place, |_| ())?;
        let root = Path::new("/");
        Ok(std::fs::File::open(root).map_err(files::failed("open", root))?.into())
    }

    fn drop_cache(&self, place: &Place) -> Result<(), CgroupError> {
        self.with(place, |_| ())
    }

    fn let_swap(&self, place: &Place, may: bool) -> Result<(), CgroupError> {
        self.with(place, |group| group.may_swap = may)
    }

    fn swapped(&self, place: &Place) -> Result<u64, CgroupError> {
        self.with(place, |_| 0)
    }

    fn oom_kills(&self, place: &Place) -> Result<u64, CgroupError> {
        self.with(place, |group| group.oom_kills)
    }

    fn watch_oom(&self, place: &Place) -> Result<OwnedFd, CgroupError> {
        let failed = |error: io::Error| files::failed("watch", &path(place))(error);
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|error| failed(error.into()))?;
        let copy = event.try_clone().map_err(failed)?;
        self.with(place, |group| group.watchers.push(event))?;
        Ok(copy)
    }

    fn usage(&self, place: &Place) -> Result<Usage, CgroupError> {
        self.with(place, |group| Usage {
            memory: group.memory,
            pids: Leaf::ALL.iter().map(|leaf| group.all(*leaf).len() as u64).sum(),
            ..Usage::default()
        })
    }

    fn refused_forks(&self, place: &Place) -> Result<u64, CgroupError> {
        self.with(place, |group| group.refused_forks)
    }

    fn limits(&self, place: &Place) -> Result<Limits, CgroupError> {
        self.with(place, |group| group.limits)
    }

    fn make_command(&self, place: &Place, command: &CommandGroup) -> Result<Vec<OwnedFd>, CgroupError> {
        self.with(place, |group| {
            group.commands.entry(command.clone()).or_default();
        })?;
        self.open_procs(place, Leaf::App)
    }

    fn command_processes(&self, place: &Place, command: &CommandGroup) -> Result<Vec<i32>, CgroupError> {
        let found = self.with(place, |group| group.commands.get(command).cloned().unwrap_or_default());
        Ok(found.unwrap_or_default().into_iter().collect())
    }

    fn kill_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError> {
        let mut state = self.lock();
        let group = state.groups.get_mut(place).and_then(|group| group.commands.get_mut(command));
        group.into_iter().for_each(BTreeSet::clear);
        Ok(())
    }

    fn oom_kills_with(&self, place: &Place, command: &CommandGroup) -> Result<u64, CgroupError> {
        self.with(place, |group| group.oom_kills + group.commands_killed.get(command).copied().unwrap_or_default())
    }

    fn remove_command(&self, place: &Place, command: &CommandGroup) -> Result<(), CgroupError> {
        let mut state = self.lock();
        let Some(group) = state.groups.get_mut(place) else { return Ok(()) };
        if group.commands.get(command).is_some_and(|pids| !pids.is_empty()) {
            return Err(files::failed("remove", &path(place))(io::Error::from_raw_os_error(libc::EBUSY)));
        }
        group.commands.remove(command);
        group.commands_killed.remove(command);
        Ok(())
    }

    fn commands(&self, place: &Place) -> Result<Vec<CommandGroup>, CgroupError> {
        Ok(self.with(place, |group| group.commands.keys().cloned().collect()).unwrap_or_default())
    }

    fn remove(&self, place: &Place) -> Result<(), CgroupError> {
        let mut state = self.lock();
        state.calls.push(Call::Remove(place.clone()));
        if state.groups.get(place).is_some_and(|group| Leaf::ALL.iter().any(|leaf| !group.all(*leaf).is_empty())) {
            return Err(files::failed("remove", &path(place))(io::Error::from_raw_os_error(libc::EBUSY)));
        }
        state.groups.remove(place);
        Ok(())
    }

    fn list(&self) -> Result<Vec<Place>, CgroupError> {
        Ok(self.lock().groups.keys().cloned().collect())
    }

    fn remove_root(&self) -> Result<(), CgroupError> {
        let mut state = self.lock();
        state.calls.push(Call::RemoveRoot);
        match state.groups.keys().next() {
            Some(place) => Err(files::failed("remove", &path(place))(io::Error::from_raw_os_error(libc::EBUSY))),
            None => Ok(()),
        }
    }
}
