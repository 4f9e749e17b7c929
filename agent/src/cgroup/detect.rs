//! Finds out by trying what the host's control groups can do, never by the kernel's version.

use std::path::{Path, PathBuf};

use super::hybrid::{Hybrid, Mounts};
use super::{CgroupError, Cgroups, Layout, V2, files};

/// Opens the host's tree under the folder `root` of every hierarchy, which is made.
///
/// # Errors
/// [`CgroupError::Unusable`] says what is missing and what to do.
pub fn detect(root: &str) -> Result<Box<dyn Cgroups>, CgroupError> {
    let (cgroups, unified): (Box<dyn Cgroups>, PathBuf) = match find_here()? {
        Found::V2(mount) => (Box::new(V2::open(&mount, root).map_err(not_ours)?), mount),
        Found::Hybrid(mounts) => (Box::new(Hybrid::open(&mounts, root).map_err(not_ours)?), mounts.unified),
    };
    // The root of a hierarchy does not have these files, so they are looked for in our own folder.
    for file in ["cgroup.freeze", "cgroup.kill"] {
        if !unified.join(root).join(file).exists() {
            return Err(unusable(
                format!("the kernel has no {file}"),
                "use Linux 5.14 or newer, as Debian 12 and 13 have",
            ));
        }
    }
    Ok(cgroups)
}

/// What the host has, without making anything.
///
/// # Errors
/// As [`detect`].
pub fn probe() -> Result<Layout, CgroupError> {
    Ok(match find_here()? {
        Found::V2(_) => Layout::V2,
        Found::Hybrid(_) => Layout::Hybrid,
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    V2(PathBuf),
    Hybrid(Mounts),
}

fn find_here() -> Result<Found, CgroupError> {
    let mounts = files::read(Path::new("/proc/self/mountinfo"))?;
    find(&mounts, |mount| std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default())
}

/// Decides by the mounts and by the controllers that a version 2 mount offers.
fn find(mountinfo: &str, controllers: impl Fn(&Path) -> String) -> Result<Found, CgroupError> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
    let unified = mounts.iter().find(|mount| mount.kind == "cgroup2").map(|mount| mount.at.clone());
    let first = |name: &str| {
        let of = |mount: &&Mount| mount.kind == "cgroup" && mount.options.split(',').any(|option| option == name);
        mounts.iter().find(of).map(|mount| mount.at.clone())
    };
    let Some(unified) = unified else {
        let found = "no version 2 hierarchy is mounted".to_owned();
        let advice = if first("memory").is_some() {
            "mount one: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
        } else {
            "mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup"
        };
        return Err(unusable(found, advice));
    };
    let offered = controllers(&unified);
    let wanted = ["memory", "pids", "cpu"];
    let missing: Vec<&str> =
        wanted.into_iter().filter(|name| !offered.split_ascii_whitespace().any(|there| there == *name)).collect();
    if missing.is_empty() {
        return Ok(Found::V2(unified));
    }
    if let (Some(memory), Some(pids), Some(cpu)) = (first("memory"), first("pids"), first("cpu")) {
        return Ok(Found::Hybrid(Mounts { unified, memory, pids, cpu }));
    }
    let found = format!("{} offers {:?}, without {}", unified.display(), offered.trim(), missing.join(", "));
    let elsewhere: Vec<&str> = missing.iter().copied().filter(|name| first(name).is_some()).collect();
    Err(if elsewhere.is_empty() {
        unusable(
            found,
            "boot with cgroup_enable=memory on the kernel's command line, or use a kernel with these controllers",
        )
    } else {
        unusable(
            format!("{found}; version 1 has only {}", elsewhere.join(", ")),
            "boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line",
        )
    })
}

fn unusable(found: String, advice: &str) -> CgroupError {
    CgroupError::Unusable { found, advice: advice.to_owned() }
}

/// What goes wrong in making the root has to do with who we are or where.
fn not_ours(error: CgroupError) -> CgroupError {
    let detail = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    unusable(
        format!("{error}{detail}"),
        "run the agent as root and on the host, not in a container whose control groups are read-only",
    )
}

struct Mount {
    at: PathBuf,
    kind: String,
    options: String,
}

impl Mount {
    /// One line of proc(5)'s mountinfo: the mount point is the fifth word; the kind, source and the
    /// superblock's options follow a lone hyphen.
    fn parse(line: &str) -> Option<Self> {
        let (before, after) = line.split_once(" - ")?;
        let at = before.split(' ').nth(4)?.replace("\\040", " ").into();
        let mut after = after.split(' ');
        let kind = after.next()?.to_owned();
        let options = after.nth(1)?.to_owned();
        Some(Self { at, kind, options })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";
    const UNIFIED: &str = "31 30 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    fn advice(mountinfo: &str, offered: &str) -> String {
        find(mountinfo, |_| offered.to_owned()).expect_err("not usable").to_string()
    }

    #[test]
    fn a_version_2_host_is_recognised() {
        let found = find(UNIFIED, |_| "cpuset cpu io memory pids\n".to_owned()).expect("usable");
        assert_eq!(found, Found::V2("/sys/fs/cgroup".into()));
    }

    #[test]
    fn a_hybrid_host_is_recognised_also_with_controllers_mounted_together() {
        let Found::Hybrid(mounts) = find(HYBRID, |_| "hugetlb\n".to_owned()).expect("usable") else {
            panic!("not hybrid");
        };
        assert_eq!(mounts.cpu, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(mounts.unified, Path::new("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn each_unusable_layout_says_what_to_do() {
        assert!(advice("", "").contains("mount -t cgroup2 cgroup2 /sys/fs/cgroup"));
        let version_1: String = HYBRID.lines().filter(|line| !line.contains("cgroup2")).collect::<Vec<_>>().join("\n");
        assert!(advice(&version_1, "").contains("/sys/fs/cgroup/unified"));
        assert!(advice(UNIFIED, "cpu io pids").contains("cgroup_enable=memory"));
        let split: String = HYBRID.lines().filter(|line| !line.contains("pids")).collect::<Vec<_>>().join("\n");
        assert!(advice(&split, "").contains("systemd.unified_cgroup_hierarchy=1"));
    }
}
