//! Who we are, and what the host has of disk, swap and time.

use caps::{CapSet, Capability};
use drowse_api::MemoryBytes;
use drowse_api::agent::Check;
use rustix::fs::statvfs;

use super::mount::existing;
use super::{failure, ok, warning};
use crate::config::Config;
use crate::disk;

/// Below this, images cannot be unpacked.
const DISK_NEEDED: MemoryBytes = MemoryBytes::mib(512);
/// Below this, a few deploys fill the disk.
const DISK_WANTED: MemoryBytes = MemoryBytes::gib(4);

pub(super) fn user() -> Check {
    let uid = nix::unistd::geteuid();
    if uid.is_root() {
        return ok("root", "the agent runs as root");
    }
    failure("root", format!("the agent runs as user {uid}"), "run it as root: it makes namespaces and mounts")
}

/// What the agent and its launcher need of root's powers; a container may have taken some away.
pub(super) fn capabilities() -> Check {
    let needed = [
        Capability::CAP_SYS_ADMIN,
        Capability::CAP_NET_ADMIN,
        Capability::CAP_SYS_CHROOT,
        Capability::CAP_SYS_PTRACE,
        Capability::CAP_SETUID,
        Capability::CAP_SETGID,
        Capability::CAP_SETPCAP,
        Capability::CAP_CHOWN,
        Capability::CAP_DAC_OVERRIDE,
        Capability::CAP_FOWNER,
        Capability::CAP_KILL,
        Capability::CAP_MKNOD,
    ];
    let lacks = |capability: &Capability| !caps::has_cap(None, CapSet::Effective, *capability).unwrap_or(false);
    let missing: Vec<String> = needed.iter().filter(|one| lacks(one)).map(ToString::to_string).collect();
    if !missing.is_empty() {
        return failure(
            "capabilities",
            format!("missing: {}", missing.join(", ")),
            "run the agent as root on the host, not in a container, and without CapabilityBoundingSet in its unit",
        );
    }
    if lacks(&Capability::CAP_SYS_RESOURCE) {
        return warning(
            "capabilities",
            "CAP_SYS_RESOURCE is missing: hard limits cannot be raised, and pid 1 of a sandbox cannot be spared by the kernel's choice under memory pressure",
            "grant it where the host allows",
        );
    }
    ok("capabilities", "all that are needed")
}

pub(super) fn disk(config: &Config) -> Check {
    let folder = existing(&config.data_dir);
    let shown = config.data_dir.display();
    let stat = match statvfs(&folder) {
        Ok(stat) => stat,
        Err(error) => return failure("disk", format!("cannot look at {shown}: {error}"), "mend the file system"),
    };
    let free = MemoryBytes(stat.f_bavail.saturating_mul(stat.f_frsize));
    let found = format!("{free} free for {shown}");
    // A file system without a fixed number of inodes shows none at all.
    if stat.f_files > 0 && stat.f_favail < 10_000 {
        let found = format!("{} files can still be made for {shown}", stat.f_favail);
        return failure("disk", found, "remove files, or put data_dir on a file system with more inodes");
    }
    const ADVICE: &str = "free some, or put data_dir on a larger disk";
    if free < DISK_NEEDED {
        return failure("disk", found, ADVICE);
    }
    if free < DISK_WANTED {
        return warning("disk", found, ADVICE);
    }
    ok("disk", found)
}

/// Tried where disks will be, and nothing is left of it.
pub(super) fn disk_limits(config: &Config) -> Check {
    const NAME: &str = "disk limits";
    if config.disk.limit == disk::Mode::Off {
        let advice = "set limit = \"auto\" below [disk] in the agent's configuration";
        return warning(NAME, "switched off: one app can fill the disk of all", advice);
    }
    let tried = super::mount::scratch(config)
        .map_err(|source| disk::DiskError::Io { action: "write in", path: config.data_dir.clone(), source })
        .and_then(|folder| disk::probe(folder.path()));
    match tried {
        Ok(()) => ok(NAME, "apps and builds write to images of a fixed size"),
        Err(error) => warning(
            NAME,
            format!("one app can fill the disk of all: {}", crate::host::error::chain(&error)),
            "install e2fsprogs, and use a kernel with loop devices and ext4",
        ),
    }
}

/// Running instances never swap; those that stand still may be paged out.
pub(super) fn swap() -> Check {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let devices: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split_ascii_whitespace().next()).collect();
    if devices.is_empty() {
        return warning(
            "swap",
            "none: apps that sleep paused keep all their memory, none is paged out",
            "for some that is compressed and stays in memory: modprobe zram, zramctl --find --size 4G, mkswap and \
             swapon of the device that it names; or a file of this size: fallocate, chmod 600, mkswap, swapon",
        );
    }
    ok("swap", format!("on {}, for apps that stand still; running ones do not use it", devices.join(", ")))
}

/// Where pages of apps that stand still can be kept, compressed.
pub(super) fn zram() -> Check {
    let devices = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let is_zram = |name: &String| name.strip_prefix("zram").is_some_and(|number| number.parse::<u32>().is_ok());
    let mut names: Vec<String> =
        devices.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(is_zram).collect();
    names.sort();
    let sized = names.iter().filter_map(|name| {
        let size = std::fs::read_to_string(format!("/sys/block/{name}/disksize")).ok()?.trim().parse().ok()?;
        (size > 0).then(|| format!("{name} of {}", MemoryBytes(size)))
    });
    let sized: Vec<String> = sized.collect();
    if !sized.is_empty() {
        return ok("zram", sized.join(", "));
    }
    if !names.is_empty() || std::path::Path::new("/sys/class/zram-control").exists() {
        return ok("zram", "the kernel has it, and none is set up");
    }
    warning(
        "zram",
        "the kernel has none loaded: memory of apps that stand still cannot be kept compressed",
        "modprobe zram; a kernel built without it (CONFIG_ZRAM) has to do without",
    )
}
