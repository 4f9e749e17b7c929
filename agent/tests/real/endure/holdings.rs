//! What an agent holds of its host, counted from outside: by the kernel's own lists.

use std::collections::BTreeMap;
use std::fs;

use crate::support::Agent;

/// Everything that a leak would add to, each thing by its name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Holdings(BTreeMap<&'static str, Vec<String>>);

impl Holdings {
    pub(super) fn of(agent: &Agent) -> Self {
        let pid = agent.pid();
        let children = children(pid);
        let launcher = children.iter().find(|child| child.name == "drowse-launcher").map(|child| child.pid);
        let of_launcher = launcher.map(self::children).unwrap_or_default();
        let zombies = children.iter().chain(&of_launcher).filter(|child| child.is_zombie);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let folder = agent.folder.path().display().to_string();
        // Those that are made ahead take turns: each counts as any other.
        let spare = agent.spare_links().into_iter().map(|_| "made ahead".to_owned());
        let mut holdings = BTreeMap::from([
            ("descriptors of the agent", descriptors(pid)),
            ("descriptors of the launcher", launcher.map(descriptors).unwrap_or_default()),
            ("namespaces", namespaces(agent, pid)),
            ("mounts", mounts.lines().filter(|line| line.contains(&folder)).map(ToOwned::to_owned).collect()),
            ("groups", agent.groups()),
            ("links", agent.links().into_iter().chain(spare).collect()),
            ("sets and rules", agent.table().lines().map(ToOwned::to_owned).collect()),
            ("processes", agent.inside().iter().map(|pid| format!("process {pid}")).collect()),
            ("zombies", zombies.map(|zombie| format!("{} {}", zombie.pid, zombie.name)).collect()),
            ("files", agent.files()),
        ]);
        for found in holdings.values_mut() {
            found.sort();
        }
        Self(holdings)
    }

    /// What is there now and was not at `baseline`. Less is no leak: a caller may have gone since.
    pub(super) fn beyond(&self, baseline: &Self) -> Vec<String> {
        let mut beyond = Vec::new();
        for (kind, found) in &self.0 {
            let mut before = baseline.0[kind].clone();
            for one in found {
                match before.iter().position(|other| other == one) {
                    Some(place) => drop(before.swap_remove(place)),
                    None => beyond.push(format!("{kind}: {one}")),
                }
            }
        }
        beyond
    }

    /// How many there are of each kind.
    pub(super) fn counts(&self) -> String {
        let counts: Vec<_> = self.0.iter().map(|(kind, found)| format!("{kind} {}", found.len())).collect();
        counts.join(", ")
    }
}

/// Proportional memory of the agent and of its launcher, in KiB.
pub(super) fn memory(agent: &Agent) -> [u64; 2] {
    let launcher = children(agent.pid()).into_iter().find(|child| child.name == "drowse-launcher");
    [Some(agent.pid()), launcher.map(|child| child.pid)].map(|pid| {
        let rollup =
            pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).unwrap_or_default()
    })
}

struct Child {
    pid: u32,
    name: String,
    is_zombie: bool,
}

fn children(parent: u32) -> Vec<Child> {
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let child = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let (state, of) = (fields.next()?, fields.next()?);
        (of == parent.to_string()).then(|| Child { pid, name: name.to_owned(), is_zombie: state == "Z" })
    };
    pids.filter_map(child).collect()
}

/// What the descriptors of a process are of, without the numbers that differ each time.
fn descriptors(pid: u32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let targets = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.map(|target| target.display().to_string().split(":[").next().unwrap_or_default().to_owned()).collect()
}

/// Network namespaces that something of this agent's is in or holds, besides the host's own. Those that it
/// holds are made ahead, and take turns.
fn namespaces(agent: &Agent, pid: u32) -> Vec<String> {
    let host = fs::read_link("/proc/self/ns/net").unwrap();
    let inside = agent.inside().into_iter().filter_map(|pid| fs::read_link(format!("/proc/{pid}/ns/net")).ok());
    let held = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let held = held.filter_map(|entry| fs::read_link(entry.path()).ok());
    let held = held.filter(|of| of.to_string_lossy().starts_with("net:[") && *of != host);
    let mut found: Vec<_> = inside.filter(|of| *of != host).map(|of| of.display().to_string()).collect();
    found.dedup();
    found.extend(held.map(|_| "made ahead".to_owned()));
    found
}
