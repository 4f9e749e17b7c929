//! Every rule that keeps an app in its sandbox, by name, in one list. The code that enforces a rule
//! asks the list whether it is in force, and the test suite of attempts names the rule that stopped
//! each of them.
//!
//! In every program but one the answer is a constant. The program `drowse-launcher-drop-rules`, made
//! with the feature `drop-rules`, leaves out the one rule that `DROWSE_DROP_RULE` names: so the tests
//! show that each rule is needed by an attempt that gets through without it. Release builds refuse
//! the feature.

#[cfg(all(feature = "drop-rules", not(debug_assertions)))]
compile_error!("the feature drop-rules takes protection away; it is for tests and never for a release");

/// The variable that names the rule to leave out, in builds with the feature `drop-rules`.
#[cfg(feature = "drop-rules")]
pub const VARIABLE: &str = "DROWSE_DROP_RULE";

macro_rules! rules {
    ($($part:literal { $($variant:ident $name:literal: $what:literal, $source:literal;)* })*) => {
        /// A rule. Its documentation is what [`Rule::what`] and [`Rule::source`] say.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "what() and source() say it")]
        pub enum Rule {
            $($($variant,)*)*
        }

        impl Rule {
            /// All of them, in the order of their parts.
            pub const ALL: &[Self] = &[$($(Self::$variant,)*)*];

            /// Its name, as `mask-keys`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($(Self::$variant => $name,)*)* }
            }

            /// Where it belongs.
            #[must_use]
            pub const fn part(self) -> &'static str {
                match self { $($(Self::$variant => $part,)*)* }
            }

            /// What it ensures.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self { $($(Self::$variant => $what,)*)* }
            }

            /// Where it comes from: an escape that became known, or a document.
            #[must_use]
            pub const fn source(self) -> &'static str {
                match self { $($(Self::$variant => $source,)*)* }
            }
        }
    };
}

rules! {
    "namespaces" {
        NamespacePid "namespace-pid": "an app sees and signals its own processes only", "pid_namespaces(7)";
        NamespaceMount "namespace-mount": "mounts of a sandbox are its own", "mount_namespaces(7)";
        NamespaceNetwork "namespace-network": "links, ports and abstract sockets are its own", "network_namespaces(7), CVE-2020-15257";
        NamespaceIpc "namespace-ipc": "System V objects and message queues are its own", "ipc_namespaces(7)";
        NamespaceUts "namespace-uts": "the host name is its own", "uts_namespaces(7)";
        NamespaceTime "namespace-time": "monotonic clocks are its own", "time_namespaces(7)";
        NamespaceCgroup "namespace-cgroup": "the path of its cgroup is hidden", "cgroup_namespaces(7)";
        PrivateMounts "private-mounts": "no mount made for a sandbox reaches the host", "mount_namespaces(7), shared subtrees";
    }
    "root" {
        OldRootGone "old-root-gone": "after pivot_root nothing of the old root is left", "pivot_root(2)";
        TargetsInRoot "targets-in-root": "mount targets are resolved once, as if the image were /", "CVE-2021-30465, CVE-2024-45310, CVE-2026-41579";
        OwnFoldersNotLinks "own-folders-not-links": "proc, sysfs and /dev are never mounted by way of a link", "CVE-2019-19921, CVE-2023-27561";
        NullVerified "null-verified": "files are masked with the real null device", "CVE-2025-31133";
        IdsMapped "ids-mapped": "files of the image belong to the user's own range of ids", "mount_setattr(2), idmapped mounts";
        MountsNosuid "mounts-nosuid": "no mount honours setuid bits and file capabilities", "mount(2)";
        MountsNodev "mounts-nodev": "device nodes in an image or made by an app do not work", "mount(2)";
        MountsNoexec "mounts-noexec": "nothing is executed from proc, sysfs, /dev and injected files", "mount(2)";
        SysReadOnly "sys-read-only": "sysfs, which is the whole host's, cannot be written", "runc's default";
        DevReadOnly "dev-read-only": "/dev has all the nodes that it will ever have", "mount(2)";
        DeviceList "device-list": "/dev has the six harmless devices and terminals of its own", "OCI runtime specification, default devices";
        InjectedReadOnly "injected-read-only": "files of the host that appear inside cannot be written", "mount(2)";
    }
    "proc and sys" {
        MaskKeys "mask-keys": "/proc/keys and key-users, which tell of other tenants, are masked", "runc's default; proc(5): uids are the host's";
        MaskKernel "mask-kernel": "kcore, kallsyms, timers and scheduler statistics are masked", "runc's default, KASLR leaks";
        MaskHardware "mask-hardware": "ACPI, SCSI, sound and interrupts are masked", "runc's default, CVE-2018-10892";
        MaskSys "mask-sys": "firmware, power and heat below /sys are masked", "CVE-2020-8694, GHSA-jq35-85cj-fj4p";
        ProcReadOnly "proc-read-only": "/proc/sys, irq, bus, fs and sysrq-trigger cannot be written", "CVE-2022-0811, runc's default";
    }
    "configuration" {
        NoHooks "no-hooks": "a configuration's hooks are refused", "CVE-2025-23266: hooks run as root";
        NoForeignDevices "no-foreign-devices": "devices of a configuration are refused", "OCI runtime specification";
        NoForeignNamespaces "no-foreign-namespaces": "a configuration joins no namespace by its path", "OCI runtime specification";
        NoIdMappings "no-id-mappings": "a configuration does not decide whose ids it gets", "user_namespaces(7)";
        NoHostMounts "no-host-mounts": "of a configuration's mounts only tmpfs is made", "CVE-2022-23648, CVE-2026-53488";
        PlainMountPaths "plain-mount-paths": "mounts of a configuration are not below /proc, /sys and /dev", "CVE-2019-16884";
        OwnParameters "own-parameters": "kernel parameters must belong to a namespace of the sandbox", "CVE-2022-0811, CVE-2025-52881";
        UserInRange "user-in-range": "a process is a user of the sandbox's range, never the host's root", "user_namespaces(7)";
    }
    "process" {
        OwnCgroup "own-cgroup": "a process starts inside the instance's cgroup", "cgroups(7)";
        OwnSession "own-session": "a process has no terminal and session of the launcher's", "CVE-2005-4890: TIOCSTI";
        OwnTerminal "own-terminal": "a terminal is of the sandbox's own devpts, and controls nothing outside", "TIOCSTI, CVE-2016-2568";
        TerminalsBounded "terminals-bounded": "a sandbox has a bounded number of terminals", "kernel.pty.max, which all tenants share";
        AppUser "app-user": "an app runs as its own unprivileged user and group", "credentials(7)";
        AppGroups "app-groups": "an app has no supplementary group of the launcher's", "CVE-2022-2995";
        CapabilitiesBounding "capabilities-bounding": "the bounding set is empty", "capabilities(7)";
        CapabilitiesInheritable "capabilities-inheritable": "the inheritable set is empty", "CVE-2022-24769, CVE-2022-29162";
        CapabilitiesAmbient "capabilities-ambient": "the ambient set is empty, and with it permitted and effective at the exec", "capabilities(7)";
        CapabilitiesReadBack "capabilities-read-back": "sets that are not as asked for stop the start", "CVE-2022-29162";
        NoNewPrivileges "no-new-privileges": "no exec gives privileges", "prctl(2), PR_SET_NO_NEW_PRIVS";
        ResourceLimits "resource-limits": "the process has the limits of its configuration", "getrlimit(2)";
        WorkingFolderInside "working-folder-inside": "the working folder is entered as the app and is inside", "CVE-2024-21626";
        StartingHidden "starting-hidden": "before its exec a process cannot be traced or looked into by the app", "CVE-2016-9962";
        DescriptorsClosed "descriptors-closed": "a program gets its three streams and no other descriptor", "CVE-2024-21626, CVE-2016-9962";
    }
    "launcher and init" {
        LauncherReadOnly "launcher-read-only": "the launcher's program cannot be written by way of /proc, not even by root", "CVE-2019-5736";
        InitFromMemory "init-from-memory": "pid 1 is a sealed copy in memory, no file of the host", "CVE-2019-5736";
        InitUser "init-user": "pid 1 is nobody that an app or its files could be", "credentials(7)";
        InitCapabilities "init-capabilities": "pid 1 has no capability in any set", "capabilities(7)";
        InitFilter "init-filter": "pid 1 has no_new_privs and the app's filter", "seccomp(2)";
    }
    "root inside" {
        RootMapped "root-mapped": "root inside is root over its user's ids alone, and over no namespace", "user_namespaces(7)";
        RootSparesInit "root-spares-init": "root inside cannot become the user of pid 1", "user_namespaces(7)";
        RootCapabilities "root-capabilities": "root inside has what servers need of it, whatever was asked for", "Docker's default profile, capabilities(7)";
    }
    "system calls" {
        Filter "filter": "every app has a filter of system calls", "seccomp(2)";
        FilterMachine "filter-machine": "calls by another machine's table end the process", "seccomp(2), audit_arch";
        FilterMounts "filter-mounts": "no mounts, roots or lists of mounts", "CVE-2022-0185";
        FilterNamespaces "filter-namespaces": "no new namespaces and no joining of others", "CVE-2022-0492, CVE-2022-0185";
        FilterKeys "filter-keys": "no kernel keys, which no namespace separates", "CVE-2016-0728";
        FilterTracing "filter-tracing": "no bpf, perf events and userfaultfd", "CVE-2021-3490, CVE-2013-2094";
        FilterUring "filter-uring": "io_uring does not exist: it is a way past every filter", "CVE-2022-29582, CVE-2023-2598";
        FilterHandles "filter-handles": "no opening of files by handle, no watching of whole file systems", "the \"shocker\" exploit of 2014";
        FilterPeeking "filter-peeking": "no taking of descriptors or pages of others", "pidfd_getfd(2), kcmp(2)";
        FilterMachinery "filter-machinery": "no modules, kexec, swap, clocks, logs, ports or quotas", "Docker's default profile";
        FilterFamilies "filter-families": "local, internet and netlink sockets only", "CVE-2017-7308, CVE-2021-26708";
        FilterPersonality "filter-personality": "address randomisation cannot be switched off", "personality(2)";
        FilterBuilder "filter-builder": "a builder of images makes mount namespaces and no other", "CVE-2022-0185, CVE-2023-32233: root of a network namespace";
        FilterRest "filter-rest": "what nobody needs is refused, and what is newer than the list does not exist", "Docker's default profile";
    }
    "limits" {
        LimitMemory "limit-memory": "the memory of an instance is bounded", "cgroups(7)";
        LimitDisk "limit-disk": "what an instance writes to disk is bounded", "multi-tenancy";
        LimitFiles "limit-files": "the files that an instance makes are bounded", "multi-tenancy";
        LimitProcesses "limit-processes": "the processes of an instance are bounded", "cgroups(7)";
    }
    "network" {
        NetOwnSource "net-own-source": "packets come from the instance's own address", "RFC 2827";
        NetIpv4Only "net-ipv4-only": "nothing but IPv4 passes a link", "CVE-2020-10749: rogue router advertisements";
        NetHostServices "net-host-services": "of the host apps reach the router and name servers only", "multi-tenancy";
        NetTenants "net-tenants": "no instance reaches another", "multi-tenancy";
        NetLinkLocal "net-link-local": "link-local services, as metadata of clouds, are out of reach", "RFC 3927, SSRF on metadata";
        NetPublished "net-published": "what the host publishes by translation is out of reach", "multi-tenancy";
        NetFromOutside "net-from-outside": "nobody outside opens a connection to an instance", "CVE-2020-8558";
        NetConnections "net-connections": "the connections that an instance has open are bounded", "nf_conntrack: one table for all of the host";
        NetConnectionRate "net-connection-rate": "the connections that an instance opens in a second are bounded", "nf_conntrack: a closed one keeps its place for two minutes";
        NetHostUsers "net-host-users": "of the host only root, control plane and router reach instances", "multi-tenancy";
    }
}

impl Rule {
    /// Whether it is to be enforced, which it is.
    #[cfg(not(feature = "drop-rules"))]
    #[must_use]
    #[inline]
    pub const fn in_force(self) -> bool {
        true
    }

    /// Whether it is to be enforced: unless it is the one to leave out.
    #[cfg(feature = "drop-rules")]
    #[must_use]
    pub fn in_force(self) -> bool {
        static DROPPED: std::sync::OnceLock<Option<Rule>> = std::sync::OnceLock::new();
        *DROPPED.get_or_init(|| Self::named(&std::env::var(VARIABLE).ok()?)) != Some(self)
    }

    /// The rule of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|rule| rule.name() == name)
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_lead_back() {
        for rule in Rule::ALL {
            assert_eq!(Rule::named(rule.name()), Some(*rule), "{rule}");
            assert!(rule.name().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{rule}");
            assert!(!rule.what().is_empty() && !rule.source().is_empty() && !rule.part().is_empty());
        }
        assert_eq!(Rule::named("nothing"), None);
    }
}
