//! What is seen of a sandbox from outside: what no program inside could find out about itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use drowse_launcher::Started;
use drowse_launcher::rules::Rule;
use rustix::fs::{Mode, OFlags, SealFlags, StatVfsMountFlags};

use super::Attempt;
use super::bench::{Bench, Running, Variant};

const NAMESPACES: [(&str, Rule); 7] = [
    ("pid", Rule::NamespacePid),
    ("mnt", Rule::NamespaceMount),
    ("net", Rule::NamespaceNetwork),
    ("ipc", Rule::NamespaceIpc),
    ("uts", Rule::NamespaceUts),
    ("time", Rule::NamespaceTime),
    ("cgroup", Rule::NamespaceCgroup),
];
/// What is mounted in a sandbox: our own file systems, and what is masked or read-only below them.
const OWN_MOUNTS: [&str; 4] = ["/proc", "/sys", "/dev", "/etc/hosts"];
/// Init's own and those it was handed: streams, logs, exits, socket, signals, events.
const INIT_DESCRIPTORS: usize = 9;

/// Its program, which every process of a sandbox runs until its exec. While it runs nobody can write
/// it, wherever it is; what counts is the mount that it is opened by.
pub(super) fn look_at_launcher(bench: &Bench, attempts: &mut Vec<Attempt>) {
    let program = format!("/proc/{}/exe", bench.launcher.pid());
    let is_read_only = rustix::fs::open(&program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .and_then(rustix::fs::fstatvfs)
        .is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    let name = "the launcher's program is on a read-only mount";
    attempts.push(Attempt::fine_if(name, Rule::LauncherReadOnly, is_read_only, ""));
}

/// What the launcher sees of the host.
pub(super) struct View {
    mounts: BTreeSet<String>,
    root: Option<(u64, u64)>,
}

impl View {
    /// As it is now.
    pub(super) fn of_launcher(bench: &Bench) -> Self {
        let pid = bench.launcher.pid();
        let root = fs::metadata(format!("/proc/{pid}/root/")).ok().map(|root| (root.dev(), root.ino()));
        Self { mounts: points(&format!("/proc/{pid}/mountinfo")), root }
    }
}

/// What is mounted for a sandbox must not be seen there, nor its root be the launcher's.
pub(super) fn compare_views(before: &View, after: &View, attempts: &mut Vec<Attempt>) {
    let more: Vec<&str> = after.mounts.difference(&before.mounts).map(String::as_str).collect();
    let name = "mounts of a sandbox in the launcher's namespace";
    attempts.push(Attempt::fine_if(name, Rule::PrivateMounts, more.is_empty(), more.join(" ")));
    let is_same = before.root.is_some() && before.root == after.root;
    attempts.push(Attempt::fine_if("the launcher keeps its root", Rule::NamespaceMount, is_same, ""));
}

fn points(file: &str) -> BTreeSet<String> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// A new sandbox in which nothing runs yet.
pub(super) fn look_at_init(bench: &Bench, variant: Variant, running: &Running, attempts: &mut Vec<Attempt>) {
    let pid = running.sandbox.pid;
    attempts.extend(own_namespaces(bench, pid, "init"));
    let is_apart = namespace_of(pid, "user") == namespace_of(bench.launcher.pid(), "user");
    let name = format!("init is in no user namespace of {variant:?}");
    attempts.push(Attempt::fine_if(name, Rule::RootSparesInit, is_apart, ""));
    let is_in = bench.group().has("init", pid);
    attempts.push(Attempt::fine_if("init is in its cgroup", Rule::OwnCgroup, is_in, ""));
    let program = format!("/proc/{pid}/exe");
    let link = fs::read_link(&program).unwrap_or_default();
    let is_sealed =
        rustix::fs::open(&program, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).is_ok_and(|file| is_sealed(&file));
    let is_copy = link.to_string_lossy().starts_with("/memfd:drowse-init");
    let found = link.display().to_string();
    attempts.push(Attempt::fine_if("init is a sealed copy", Rule::InitFromMemory, is_copy && is_sealed, found));
    let foreign: Vec<String> = points(&format!("/proc/{pid}/mountinfo"))
        .into_iter()
        .filter(|point| point != "/" && !OWN_MOUNTS.iter().any(|own| Path::new(point).starts_with(own)))
        .collect();
    let name = "what is mounted in a sandbox";
    attempts.push(Attempt::fine_if(name, Rule::OldRootGone, foreign.is_empty(), foreign.join(" ")));
    let open = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    let found = format!("{open} descriptors");
    // The user namespace, where root is inside; the pipes of a first process that it made.
    let most = INIT_DESCRIPTORS + usize::from(variant == Variant::Root) + if bench.is_ahead { 2 } else { 0 };
    attempts.push(Attempt::fine_if("descriptors of init", Rule::DescriptorsClosed, open <= most, found));
}

fn is_sealed(file: impl AsFd) -> bool {
    let wanted = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(wanted))
}

/// A process of the app.
pub(super) fn look_at_app(bench: &Bench, variant: Variant, started: &Started, attempts: &mut Vec<Attempt>) {
    if variant == Variant::Root {
        let is_own = namespace_of(started.pid, "user") != namespace_of(bench.launcher.pid(), "user");
        attempts.push(Attempt::fine_if("root inside is in a user namespace", Rule::RootMapped, is_own, ""));
    }
    attempts.extend(own_namespaces(bench, started.pid, "the app"));
    let is_in = bench.group().has("app", started.pid);
    attempts.push(Attempt::fine_if("the app is in its cgroup", Rule::OwnCgroup, is_in, ""));
}

fn namespace_of(pid: impl std::fmt::Display, kind: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()
}

fn own_namespaces<'a>(bench: &'a Bench, pid: i32, whose: &'a str) -> impl Iterator<Item = Attempt> + 'a {
    NAMESPACES.into_iter().map(move |(kind, rule)| {
        let (own, launcher) = (namespace_of(pid, kind), namespace_of(bench.launcher.pid(), kind));
        let found = format!("{own:?}, the launcher's {launcher:?}");
        Attempt::fine_if(format!("the {kind} namespace of {whose}"), rule, own.is_some() && own != launcher, found)
    })
}
