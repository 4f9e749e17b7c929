//! The limits, set through cgroups-rs and read back by ourselves: it drops errors of some writes.

use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{MaxValue, error::Error};
use drowse_launcher::rules::Rule;

use super::{CgroupError, files};
use crate::rules;

/// Which of the kernel's two interfaces a group has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// In `cpu.shares`, what a weight of 100 is: the kernel's own default for both.
const SHARES_AT_100: u64 = 1024;

fn refused(file: &'static str, group: &Path, value: impl ToString) -> impl FnOnce(Error) -> CgroupError {
    let (path, value) = (group.join(file), value.to_string());
    move |source| CgroupError::Limit { path, value, source }
}

/// The largest page of any kernel that we may meet.
const LARGEST_PAGE: u64 = 64 << 10;

/// Memory in bytes; the kernel rounds it down to whole pages.
pub(super) fn set_memory(group: &Path, version: Version, bytes: u64) -> Result<(), CgroupError> {
    if !rules::in_force(Rule::LimitMemory) {
        return Ok(());
    }
    let file = memory_file(version);
    let limit = i64::try_from(bytes).unwrap_or(i64::MAX);
    MemController::new(group.to_owned(), group.to_owned(), version == Version::V2)
        .set_limit(limit)
        .map_err(refused(file, group, bytes))?;
    let found = memory(group, version)?;
    if found <= bytes && bytes - found < LARGEST_PAGE {
        return Ok(());
    }
    let (path, wanted) = (group.join(file), bytes.to_string());
    Err(CgroupError::NotTaken { path, wanted, found: found.to_string() })
}

pub(super) fn memory(group: &Path, version: Version) -> Result<u64, CgroupError> {
    files::read_number(&group.join(memory_file(version)))
}

fn memory_file(version: Version) -> &'static str {
    match version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    }
}

pub(super) fn set_pids(group: &Path, version: Version, most: u32) -> Result<(), CgroupError> {
    if !rules::in_force(Rule::LimitProcesses) {
        return Ok(());
    }
    PidController::new(group.to_owned(), group.to_owned(), version == Version::V2)
        .set_pid_max(MaxValue::Value(i64::from(most)))
        .map_err(refused("pids.max", group, most))?;
    files::check(&group.join("pids.max"), &most.to_string())
}

pub(super) fn pids(group: &Path) -> Result<u32, CgroupError> {
    Ok(u32::try_from(files::read_number(&group.join("pids.max"))?).unwrap_or(u32::MAX))
}

pub(super) fn set_cpu_weight(group: &Path, version: Version, weight: u32) -> Result<(), CgroupError> {
    let (file, value) = match version {
        Version::V1 => ("cpu.shares", shares_of_weight(weight)),
        Version::V2 => ("cpu.weight", u64::from(weight)),
    };
    CpuController::new(group.to_owned(), group.to_owned(), version == Version::V2)
        .set_shares(value)
        .map_err(refused(file, group, value))?;
    files::check(&group.join(file), &value.to_string())
}

pub(super) fn cpu_weight(group: &Path, version: Version) -> Result<u32, CgroupError> {
    let weight = match version {
        Version::V1 => weight_of_shares(files::read_number(&group.join("cpu.shares"))?),
        Version::V2 => files::read_number(&group.join("cpu.weight"))?,
    };
    Ok(u32::try_from(weight).unwrap_or(u32::MAX))
}

/// As the kernel scales a version 2 weight (`sched_weight_from_cgroup`), so that the same numbers give
/// the same shares on both layouts.
fn shares_of_weight(weight: u32) -> u64 {
    (u64::from(weight) * SHARES_AT_100 + 50) / 100
}

fn weight_of_shares(shares: u64) -> u64 {
    (shares * 100 + SHARES_AT_100 / 2) / SHARES_AT_100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_survives_the_way_through_shares() {
        assert_eq!(shares_of_weight(100), 1024);
        for weight in 1..=10_000 {
            let shares = shares_of_weight(weight);
            assert!((2..=262_144).contains(&shares), "the kernel's range: {shares}");
            assert_eq!(weight_of_shares(shares), u64::from(weight));
        }
    }
}
