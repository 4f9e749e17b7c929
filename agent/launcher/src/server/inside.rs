//! Makes a sandbox from inside of its new namespaces and becomes its init. The order matters, and
//! is the order of this file: sources are opened, the root is made, everything is mounted onto it,
//! the old root goes, privileges go, init runs.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountAttrFlags, UnmountFlags, unmount};
use rustix::process::{Signal, fchdir, pivot_root, set_parent_process_death_signal};

use super::capabilities::Sets;
use super::channel::{self, Channel, Word};
use super::mounts::{self, attach};
use super::process::Lines;
use super::root::{Root, Shape, shape_of};
use super::sandbox::Blueprint;
use super::{devices, groups, mask, overlay};
use crate::failure::{Failure, OrFail, Step};
use crate::rules::Rule;
use crate::sys::{self, MountChange, Strings, change_mount};

/// Where init finds its descriptors; see its own documentation.
const LOGS: [i32; 2] = [3, 4];
const EXITS: i32 = 5;
const LISTENER: i32 = 6;
/// Ours until the exec closes them.
const PROGRAM: i32 = 7;
const REPORT: i32 = 8;
/// The user namespace of a sandbox with root inside: init is not in it, and holds it open for all
/// that are started later, by whichever launcher.
pub(super) const OWN_IDS: i32 = 9;
/// The reading ends of the first app's pipes, which are its first incarnation's.
const PIPES: [i32; 2] = [10, 11];
const FIRST: u64 = 1;

/// Parameters of every sandbox. Apps have no capability, so any may have port 80; CRIU cannot dump
/// sockets of MPTCP, which Go listens with by default (a kernel may be built without it).
const PARAMETERS: [(&str, &str, bool); 2] =
    [("net/ipv4/ip_unprivileged_port_start", "0", true), ("net/mptcp/enabled", "0", false)];

/// A file or folder of the host that will appear inside, as a mount that is attached nowhere yet.
struct Source {
    mount: OwnedFd,
    shape: Shape,
}

/// Everything between the clone and init.
pub(super) fn become_init(
    blueprint: &mut Blueprint<'_>,
    lines: Option<Lines>,
    channel: &Channel,
) -> Result<Infallible, Failure> {
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    groups::enter(&blueprint.given.cgroups)?;
    rustix::process::setsid().or_fail(Step::Session, "init")?;
    make_private()?;
    let root = make_root(blueprint)?;
    mask::hide(&root, &blueprint.plan)?;
    if blueprint.given.ready.is_empty() {
        set_up_network()?;
    }
    set_parameters(blueprint)?;
    set_names(blueprint)?;
    if blueprint.plan.root_is_read_only {
        let change = MountChange { set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), ..MountChange::default() };
        change_mount(root.folder(), &change).or_fail(Step::ReadOnly, "/")?;
    }
    let null = devices::own_null(root.folder())?;
    change_root(&root)?;
    // Both go on at once from here: this one to its program, the other until it is let go.
    if let Some((first, lines)) = blueprint.first.as_mut().zip(lines) {
        first.make(&lines)?;
    }
    give_up_privileges(blueprint)?;
    execute_init(blueprint, &null, channel)
}

fn make_private() -> Result<(), Failure> {
    if !Rule::PrivateMounts.in_force() {
        return Ok(());
    }
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .or_fail(Step::Propagation, "/")?;
    let change = MountChange { make_private: true, recursive: true, ..MountChange::default() };
    change_mount(&root, &change).or_fail(Step::Propagation, "/")
}

/// The root with devices, tmpfs, binds and injected files. What the image has at those paths has
/// had no chance to run, and no path of it is followed outside.
fn make_root(blueprint: &Blueprint<'_>) -> Result<Root, Failure> {
    let request = blueprint.request;
    let ids = request.overlay.ids;
    let parts = overlay::Parts::open(&request.overlay, &blueprint.maps, blueprint.disk.as_ref())?;
    let files = open_files(blueprint)?;
    let binds = open_binds(blueprint)?;
    let root = Root::new(parts.mount()?, ids);
    let proc = mounts::new_mount("proc", &[], mounts::data())?;
    attach(proc, root.own_folder("proc")?).or_fail(Step::Mount, "/proc")?;
    let read_only = mounts::by(Rule::SysReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY);
    let sys = mounts::new_mount("sysfs", &[], mounts::data() | read_only)?;
    attach(sys, root.own_folder("sys")?).or_fail(Step::Mount, "/sys")?;
    devices::mount(&root.own_folder("dev")?, ids, &blueprint.plan.shm)?;
    for tmpfs in &blueprint.plan.tmpfs {
        let mut attributes = mounts::plain();
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, tmpfs.is_read_only);
        attributes.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !tmpfs.may_execute);
        let mut settings = vec!["mode=1777"];
        settings.extend(tmpfs.settings.iter().map(String::as_str));
        let target = root.folder_at(&tmpfs.target)?;
        attach(mounts::new_mount("tmpfs", &settings, attributes)?, target).or_fail(Step::Mount, &tmpfs.target)?;
    }
    for (bind, source) in request.binds.iter().zip(&binds) {
        let target = match source.shape {
            Shape::Folder => root.folder_at(&bind.target)?,
            Shape::File => root.file_at(&bind.target)?,
        };
        attach(&source.mount, target).or_fail(Step::Bind, &bind.target)?;
    }
    for (file, source) in request.files.iter().zip(&files) {
        attach(&source.mount, root.file_at(&file.path)?).or_fail(Step::Inject, &file.path)?;
    }
    Ok(root)
}

fn open_files(blueprint: &Blueprint<'_>) -> Result<Vec<Source>, Failure> {
    let open = |path: &Path| -> Result<Source, Failure> {
        let mount = mounts::copy_of_path(path, false).or_fail(Step::Inject, path)?;
        if shape_of(&mount).or_fail(Step::Inject, path)? != Shape::File {
            return Err(Failure::refused(Step::Inject, path, "it is a folder"));
        }
        let read_only = mounts::by(Rule::InjectedReadOnly, MountAttrFlags::MOUNT_ATTR_RDONLY);
        let change = MountChange { set: (mounts::data() | read_only).bits().into(), ..MountChange::default() };
        change_mount(&mount, &change).or_fail(Step::Inject, path)?;
        Ok(Source { mount, shape: Shape::File })
    };
    blueprint.request.files.iter().map(|file| open(&file.host_path)).collect()
}

fn open_binds(blueprint: &Blueprint<'_>) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    let mut disks = blueprint.bound.iter();
    for bind in &blueprint.request.binds {
        let disk = if bind.is_disk { disks.next() } else { None };
        let mount = match disk {
            Some(disk) => disk.as_fd().try_clone_to_owned(),
            None => mounts::copy_of_path(&bind.source, false),
        }
        .or_fail(Step::Bind, &bind.source)?;
        let mut attributes = mounts::plain();
        attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, bind.read_only);
        let change = MountChange {
            set: attributes.bits().into(),
            id_map: bind.idmap.and_then(|ids| blueprint.maps.get(ids)),
            ..MountChange::default()
        };
        change_mount(&mount, &change).or_fail(Step::Bind, &bind.source)?;
        let shape = shape_of(&mount).or_fail(Step::Bind, &bind.source)?;
        sources.push(Source { mount, shape });
    }
    Ok(sources)
}

/// The parameters of every sandbox, and its loopback. Through a proc of our own that nothing is mounted
/// over: writes reach what they name.
pub(super) fn set_up_network() -> Result<(), Failure> {
    let proc = mounts::new_mount("proc", &[], mounts::data())?;
    for (name, value, is_needed) in PARAMETERS {
        match set_parameter(&proc, Path::new(name), value) {
            Err(error) if is_needed || error.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::os(Step::Sysctl, name, error));
            }
            _ => {}
        }
    }
    switch_on_loopback()
}

/// Those of the configuration, in the same way.
fn set_parameters(blueprint: &Blueprint<'_>) -> Result<(), Failure> {
    if blueprint.plan.parameters.is_empty() {
        return Ok(());
    }
    let proc = mounts::new_mount("proc", &[], mounts::data())?;
    for (name, value) in &blueprint.plan.parameters {
        set_parameter(&proc, name, value).or_fail(Step::Sysctl, name)?;
    }
    Ok(())
}

fn set_parameter(proc: &OwnedFd, name: &Path, value: &str) -> io::Result<()> {
    let file = rustix::fs::openat2(
        proc,
        Path::new("sys").join(name),
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV,
    )?;
    rustix::io::write(file, value.as_bytes())?;
    Ok(())
}

fn switch_on_loopback() -> Result<(), Failure> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .or_fail(Step::Loopback, "lo")?;
    sys::loopback_up(socket).or_fail(Step::Loopback, "lo")
}

fn set_names(blueprint: &Blueprint<'_>) -> Result<(), Failure> {
    if let Some(name) = &blueprint.plan.host_name {
        nix::unistd::sethostname(name).or_fail(Step::HostName, name)?;
    }
    if let Some(name) = &blueprint.plan.domain_name {
        rustix::system::setdomainname(name.as_bytes()).or_fail(Step::HostName, name)?;
    }
    Ok(())
}

/// Makes the new root the only one. The old one, with the stage and all the host's mounts, goes.
fn change_root(root: &Root) -> Result<(), Failure> {
    fchdir(root.folder()).or_fail(Step::PivotRoot, "the new one")?;
    pivot_root(".", ".").or_fail(Step::PivotRoot, "the new one")?;
    // The old root lies on top of the new one now.
    if Rule::OldRootGone.in_force() {
        unmount(".", UnmountFlags::DETACH).or_fail(Step::PivotRoot, "the new one without the old")?;
    }
    rustix::process::chdir("/").or_fail(Step::PivotRoot, "the new one")
}

/// Init runs as the last id of the range, which is nobody in any image: the app cannot signal or
/// trace it, and it owns no file.
fn give_up_privileges(blueprint: &Blueprint<'_>) -> Result<(), Failure> {
    let ids = blueprint.request.overlay.ids;
    let id = ids.count.checked_sub(1).and_then(|last| ids.to_host(last)).unwrap_or(ids.first);
    if id == 0 {
        return Err(Failure::refused(Step::Identity, "init", "its id would be the host's root"));
    }
    let nothing = Sets::default();
    if Rule::InitCapabilities.in_force() {
        nothing.limit_bounding()?;
    }
    if Rule::InitUser.in_force() {
        setgroups(&[]).or_fail(Step::Identity, "init")?;
        setresgid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id)).or_fail(Step::Identity, "init")?;
        setresuid(Uid::from_raw(id), Uid::from_raw(id), Uid::from_raw(id)).or_fail(Step::Identity, "init")?;
    }
    if Rule::InitCapabilities.in_force() {
        nothing.apply()?;
    }
    if !Rule::InitFilter.in_force() {
        return Ok(());
    }
    rustix::thread::set_no_new_privs(true).or_fail(Step::NoNewPrivileges, "init")?;
    sys::load_filter(&blueprint.filter).or_fail(Step::Seccomp, "init")
}

/// Arranges the descriptors that init expects, closes all others, and runs it.
fn execute_init(blueprint: &Blueprint<'_>, null: &OwnedFd, channel: &Channel) -> Result<Infallible, Failure> {
    let given = &blueprint.given;
    let mut wanted = vec![
        (null, 0, false),
        (null, 1, false),
        (null, 2, false),
        (&given.log[0], LOGS[0], false),
        (&given.log[1], LOGS[1], false),
        (&given.exits, EXITS, false),
        (&given.socket, LISTENER, false),
        (blueprint.init, PROGRAM, true),
        (channel.descriptor(), REPORT, true),
    ];
    wanted.extend(blueprint.own_ids.as_ref().map(|ids| (ids, OWN_IDS, false)));
    let mut arguments = vec![c"drowse-init".to_owned(), number(blueprint.request.log_limit)];
    if let Some(pipes) = &given.pipes {
        wanted.extend(pipes.iter().zip(PIPES).map(|(pipe, at)| (pipe, at, false)));
        arguments.push(number(FIRST));
    }
    arrange(&wanted)?;
    // Children do not inherit it, an exec would keep it: the builder is about to end.
    let _ = set_parent_process_death_signal(None);
    sys::reset_signals();
    // The channel has moved.
    let report = sys::placed(REPORT);
    channel::say(report, &Word::Ready);
    let executed = sys::execute_open(sys::placed(PROGRAM), &Strings::new(arguments), &Strings::new(vec![]));
    let Err(error) = executed;
    let failure = Failure::os(Step::Exec, "init", error);
    channel::say(report, &Word::Failed(failure));
    sys::exit_now(1)
}

fn number(number: u64) -> CString {
    CString::new(number.to_string()).unwrap_or_default()
}

/// Puts descriptors under the numbers that the next program expects and closes everything else;
/// twice, by the call and as each of them is closed on exec.
/// All this process's descriptors have other numbers afterwards.
pub(super) fn arrange(wanted: &[(&OwnedFd, i32, bool)]) -> Result<(), Failure> {
    let above = wanted.iter().map(|(_, number, _)| number + 1).max().unwrap_or(0);
    let mut copies = Vec::new();
    let closes = Rule::DescriptorsClosed.in_force();
    for (descriptor, number, close_on_exec) in wanted {
        let copy =
            sys::copy_above(descriptor, above, closes || *close_on_exec).or_fail(Step::Descriptors, "the program")?;
        copies.push((copy, *number, *close_on_exec));
    }
    for (copy, number, close_on_exec) in &copies {
        sys::place(copy.as_fd(), *number, *close_on_exec).or_fail(Step::Descriptors, "the program")?;
    }
    // The copies are closed by the call, not by their owners.
    copies.into_iter().for_each(std::mem::forget);
    if !closes {
        return Ok(());
    }
    sys::close_from(above).or_fail(Step::Descriptors, "the program")
}
