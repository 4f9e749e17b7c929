//! What of a bundle is done without: said to its owner, since it asks for no more than it gets
//! safely, or for what Drowse decides.

use std::collections::BTreeSet;

use oci_spec::runtime::{Linux, Process, Spec};

use super::AllowList;
use super::check::most_of;

/// Fields that have no effect, each with what happens instead.
#[must_use]
pub fn notes(spec: &Spec, allow: &AllowList) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(process) = spec.process() {
        of_process(process, allow, &mut notes);
    }
    if let Some(linux) = spec.linux() {
        of_linux(linux, &mut notes);
    }
    notes
}

fn of_process(process: &Process, allow: &AllowList, notes: &mut Vec<String>) {
    if process.terminal() == Some(true) {
        notes.push("process.terminal: apps have no terminal; what it writes is in the log".to_owned());
    }
    if process.no_new_privileges() != Some(true) {
        notes.push("process.noNewPrivileges: it is always set".to_owned());
    }
    if let Some(sets) = process.capabilities() {
        let all = [sets.bounding(), sets.effective(), sets.inheritable(), sets.permitted(), sets.ambient()];
        let dropped: BTreeSet<String> = all
            .into_iter()
            .flatten()
            .flatten()
            .filter(|capability| !allow.keeps(process.user().uid(), capability))
            .filter_map(|capability| serde_json::to_value(capability).ok()?.as_str().map(str::to_owned))
            .collect();
        if !dropped.is_empty() {
            let names: Vec<_> = dropped.into_iter().collect();
            let whose = if process.user().uid() == 0 { "root inside has few" } else { "apps have none" };
            notes.push(format!("process.capabilities: {whose}; dropped {}", names.join(", ")));
        }
    }
    for limit in process.rlimits().iter().flatten() {
        let most = most_of(limit.typ());
        if limit.hard() > most {
            notes.push(format!("process.rlimits: {} is lowered to {most}", limit.typ()));
        }
    }
    for (field, is_set) in [
        ("process.apparmorProfile", process.apparmor_profile().is_some()),
        ("process.selinuxLabel", process.selinux_label().is_some()),
        ("process.ioPriority", process.io_priority().is_some()),
        ("process.scheduler", process.scheduler().is_some()),
        ("process.execCPUAffinity", process.exec_cpu_affinity().is_some()),
    ] {
        if is_set {
            notes.push(format!("{field}: it is not used"));
        }
    }
}

fn of_linux(linux: &Linux, notes: &mut Vec<String>) {
    if linux.seccomp().is_some() {
        notes.push("linux.seccomp: Drowse's own filter is used".to_owned());
    }
    if linux.mount_label().is_some() {
        notes.push("linux.mountLabel: it is not used".to_owned());
    }
    if linux.cgroups_path().is_some() {
        notes.push("linux.cgroupsPath: Drowse decides on the place".to_owned());
    }
    let Some(resources) = linux.resources() else { return };
    let others = [
        ("devices", resources.devices().is_some()),
        ("cpu", resources.cpu().is_some()),
        ("blockIO", resources.block_io().is_some()),
        ("hugepageLimits", resources.hugepage_limits().is_some()),
        ("network", resources.network().is_some()),
        ("rdma", resources.rdma().is_some()),
        ("unified", resources.unified().is_some()),
    ];
    let unused: Vec<&str> = others.iter().filter(|(_, is_set)| *is_set).map(|(field, _)| *field).collect();
    if !unused.is_empty() {
        let unused = unused.join(", ");
        notes.push(format!(
            "linux.resources: {unused}: not used; memory.limit and pids.limit are, where they are lower than Drowse's"
        ));
    }
}
