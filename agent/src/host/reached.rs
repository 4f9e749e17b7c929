//! Limits that an app reached and that do not end it: a full disk, no more files, processes or
//! connections. Whoever sees it fail should not have to guess, so each is told once as an event.
//!
//! The kernel has no notice for a full disk, so it is looked. A look is two short files of memory and no
//! thread, and all apps are looked at in one wake of the agent: hundreds of idle apps must cost nothing.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use drowse_api::MemoryBytes;
use drowse_api::event::EventKind;
use drowse_api::instance::InstanceSpec;
use rustix::fs::statvfs;
use tokio::time::Instant;

use super::home::Home;
use super::node::Node;
use super::sandbox::blocking;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);
/// Less than this is nothing for an app that writes: the last blocks are for what leads to data.
const NO_ROOM: u64 = 1 << 20;

/// A limit of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Disk,
    Files,
    Processes,
    Connections,
}

/// What is seen of an app at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    disk: Option<Disk>,
    refused_forks: u64,
    is_crowded: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    size: u64,
    free: u64,
    files: u64,
    free_files: u64,
}

/// Tells what the app of `spec` reaches, for as long as it is polled.
pub(super) async fn tell(node: &Node, spec: &InstanceSpec, home: &Home) -> Infallible {
    let mut watch = Watch { refused_forks: forks(node, home), told: BTreeSet::new() };
    // The sandbox outlives the app, and so what leads to its disk.
    let (sandboxes, owned) = (node.sandboxes.clone(), home.clone());
    let root = blocking(move || Ok(sandboxes.root_of(&owned).filter(|_| owned.disk().exists()))).await.ok().flatten();
    loop {
        tokio::time::sleep_until(next_look()).await;
        let seen = look(node, home, root.as_deref()).await;
        for limit in watch.news(&seen) {
            node.events.about(spec, EventKind::Instance, sentence(limit, spec, &seen));
        }
    }
}

/// The same moment for all apps.
fn next_look() -> Instant {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let looks = BEGAN.elapsed().as_secs() / EVERY.as_secs() + 1;
    *BEGAN + EVERY.saturating_mul(u32::try_from(looks).unwrap_or(u32::MAX))
}

// Files of the kernel's memory, and numbers of a mounted disk: none of them waits for a device.
fn forks(node: &Node, home: &Home) -> u64 {
    node.sandboxes.cgroups.refused_forks(&home.place).unwrap_or(0)
}

async fn look(node: &Node, home: &Home, root: Option<&Path>) -> Seen {
    let is_crowded = node.sandboxes.network.is_crowded(&home.owner).await.unwrap_or(false);
    Seen { disk: root.and_then(disk), refused_forks: forks(node, home), is_crowded }
}

fn disk(root: &Path) -> Option<Disk> {
    let stat = statvfs(root).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Some(Disk {
        size: bytes(stat.f_blocks),
        free: bytes(stat.f_bavail),
        files: stat.f_files,
        free_files: stat.f_favail,
    })
}

/// What was told of one life of an app.
struct Watch {
    /// Counted before this app.
    refused_forks: u64,
    told: BTreeSet<Limit>,
}

impl Watch {
    /// The limits to be told of now. One that was told is told again only after there was room meanwhile.
    fn news(&mut self, seen: &Seen) -> Vec<Limit> {
        let disk = seen.disk;
        let states = [
            (Limit::Disk, disk.is_some_and(|d| d.free < NO_ROOM), disk.is_some_and(|d| d.free > d.size / 10)),
            (Limit::Files, disk.is_some_and(|d| d.free_files == 0), disk.is_some_and(|d| d.free_files > d.files / 10)),
            (Limit::Processes, seen.refused_forks > self.refused_forks, false),
            (Limit::Connections, seen.is_crowded, false),
        ];
        let mut news = Vec::new();
        for (limit, is_reached, has_room) in states {
            if is_reached && self.told.insert(limit) {
                news.push(limit);
            } else if has_room {
                self.told.remove(&limit);
            }
        }
        news
    }
}

fn sentence(limit: Limit, spec: &InstanceSpec, seen: &Seen) -> String {
    let app = &spec.app;
    match limit {
        Limit::Disk => {
            let size = MemoryBytes(seen.disk.map_or(0, |disk| disk.size));
            format!("{app} has filled its disk of {size}: what it writes now fails (limit disk)")
        }
        Limit::Files => {
            let files = seen.disk.map_or(0, |disk| disk.files);
            format!("{app} has as many files on its disk as it may, {files}: it cannot make more (limit files)")
        }
        Limit::Processes => {
            let pids = spec.limits.pids;
            format!("{app} has as many processes and threads as it may, {pids}: it cannot start more (limit pids)")
        }
        Limit::Connections => {
            format!(
                "{app} has or opens too many connections: further ones are refused (limits connections, connection_rate)"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(free: u64, free_files: u64, refused_forks: u64) -> Seen {
        let disk = Some(Disk { size: 100 << 20, free, files: 1000, free_files });
        Seen { disk, refused_forks, is_crowded: false }
    }

    #[test]
    fn each_limit_is_told_once_and_again_after_there_was_room() {
        let mut watch = Watch { refused_forks: 7, told: BTreeSet::new() };
        let fine = seen(50 << 20, 500, 7);
        assert_eq!(watch.news(&fine), []);
        assert_eq!(watch.news(&seen(0, 500, 7)), [Limit::Disk]);
        assert_eq!(watch.news(&seen(0, 0, 8)), [Limit::Files, Limit::Processes]);
        assert_eq!(watch.news(&seen(1 << 20, 3, 900)), [], "hardly any room is no room");
        assert_eq!(watch.news(&fine), []);
        assert_eq!(watch.news(&seen(0, 500, 900)), [Limit::Disk], "processes are told once in a life");
        assert_eq!(watch.news(&Seen { is_crowded: true, ..fine }), [Limit::Connections]);
        assert_eq!(watch.news(&Seen { is_crowded: true, ..fine }), []);
    }

    #[test]
    fn an_app_without_a_disk_of_its_own_never_fills_it() {
        let mut watch = Watch { refused_forks: 0, told: BTreeSet::new() };
        assert_eq!(watch.news(&Seen::default()), []);
    }
}
