//! Which system call gets which answer.

use std::os::raw::c_long;

use crate::rules::Rule;

/// What a system call is answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The kernel handles it.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// `clone`: allowed unless it asks for a namespace.
    CloneWithoutNamespaces,
    /// `unshare`: allowed for mounts and names, and for what is no namespace.
    UnshareMounts,
    /// `personality`: only what is harmless, as in Docker's profile.
    HarmlessPersonality,
    /// `socket`: only local, internet and netlink sockets. Other families are a rich source of
    /// kernel bugs and of no use without capabilities.
    CommonFamilies,
}

/// The newest system call that was judged for this table. A newer one does not exist as far as apps
/// can see, so that their libraries fall back on older ones; with EPERM they would fail.
pub const NEWEST: u32 = 469;

/// Refused by rules with names. `clone3` hides its flags in memory, where a filter cannot look, and
/// io_uring is a second way into the kernel past all filters (and past CRIU): neither exists as far as
/// apps can see, so that their libraries do without. The others fail with EPERM.
#[rustfmt::skip]
const REFUSED: &[(Rule, &[c_long])] = &[
    (Rule::FilterMounts, &[
        libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot, libc::SYS_fsopen,
        libc::SYS_fsconfig, libc::SYS_fsmount, libc::SYS_fspick, libc::SYS_open_tree, libc::SYS_move_mount,
        libc::SYS_mount_setattr, 457, 458, 467, // statmount, listmount, open_tree_attr
    ]),
    (Rule::FilterNamespaces, &[libc::SYS_unshare, libc::SYS_setns, libc::SYS_clone3]),
    (Rule::FilterKeys, &[libc::SYS_keyctl, libc::SYS_add_key, libc::SYS_request_key]),
    (Rule::FilterTracing, &[libc::SYS_bpf, libc::SYS_perf_event_open, libc::SYS_userfaultfd]),
    (Rule::FilterUring, &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register]),
    (Rule::FilterHandles, &[libc::SYS_open_by_handle_at, libc::SYS_fanotify_init]),
    (Rule::FilterPeeking, &[
        libc::SYS_pidfd_getfd, libc::SYS_kcmp, libc::SYS_process_madvise, libc::SYS_move_pages,
        libc::SYS_migrate_pages, libc::SYS_lookup_dcookie,
    ]),
    (Rule::FilterMachinery, &[
        libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_delete_module, libc::SYS_kexec_load,
        libc::SYS_kexec_file_load, libc::SYS_reboot, libc::SYS_swapon, libc::SYS_swapoff, libc::SYS_iopl,
        libc::SYS_ioperm, libc::SYS_settimeofday, libc::SYS_clock_settime, libc::SYS_syslog, libc::SYS_acct,
        libc::SYS_quotactl, libc::SYS_quotactl_fd, libc::SYS_vhangup, libc::SYS_sethostname,
        libc::SYS_setdomainname,
    ]),
];
/// Of these, the ones that do not exist.
const UNSEEN: &[c_long] =
    &[libc::SYS_clone3, libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register];

/// Allowed without conditions. By subject; what is not here is refused with EPERM.
#[rustfmt::skip]
const ALLOWED: &[c_long] = &[
    // Files by descriptor.
    libc::SYS_read, libc::SYS_write, libc::SYS_close, libc::SYS_lseek, libc::SYS_pread64, libc::SYS_pwrite64,
    libc::SYS_readv, libc::SYS_writev, libc::SYS_preadv, libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2,
    libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_flock, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fadvise64, libc::SYS_readahead,
    libc::SYS_sync_file_range, libc::SYS_copy_file_range, libc::SYS_sendfile, libc::SYS_splice, libc::SYS_tee,
    libc::SYS_vmsplice, libc::SYS_ioctl, libc::SYS_close_range, libc::SYS_sync, libc::SYS_syncfs, 451, // cachestat
    // Files by path.
    libc::SYS_open, libc::SYS_openat, libc::SYS_openat2, libc::SYS_creat, libc::SYS_stat, libc::SYS_fstat,
    libc::SYS_lstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_access, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_truncate, libc::SYS_getdents, libc::SYS_getdents64, libc::SYS_getcwd,
    libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_mkdir,
    libc::SYS_mkdirat, libc::SYS_rmdir, libc::SYS_link, libc::SYS_linkat, libc::SYS_unlink, libc::SYS_unlinkat,
    libc::SYS_symlink, libc::SYS_symlinkat, libc::SYS_readlink, libc::SYS_readlinkat, libc::SYS_chmod,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_chown, libc::SYS_fchown, libc::SYS_lchown,
    libc::SYS_fchownat, libc::SYS_umask, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat,
    libc::SYS_utimensat, libc::SYS_mknod, libc::SYS_mknodat, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_name_to_handle_at,
    // Extended attributes; the last four by a folder's descriptor.
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_getxattr, libc::SYS_lgetxattr,
    libc::SYS_fgetxattr, libc::SYS_listxattr, libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_removexattr,
    libc::SYS_lremovexattr, libc::SYS_fremovexattr, 463, 464, 465, 466,
    // Watching files.
    libc::SYS_inotify_init, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    libc::SYS_fanotify_mark,
    // Memory.
    libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_msync, libc::SYS_mincore,
    libc::SYS_madvise, libc::SYS_brk, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mlockall,
    libc::SYS_munlockall, libc::SYS_remap_file_pages, libc::SYS_memfd_create, libc::SYS_memfd_secret,
    libc::SYS_pkey_mprotect, libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_membarrier, libc::SYS_mseal,
    453, // map_shadow_stack
    // Processes and threads.
    libc::SYS_fork, libc::SYS_vfork, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_wait4, libc::SYS_waitid, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getpgid,
    libc::SYS_getpgrp, libc::SYS_setpgid, libc::SYS_getsid, libc::SYS_setsid, libc::SYS_prctl,
    libc::SYS_arch_prctl, libc::SYS_set_tid_address, libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    libc::SYS_set_thread_area, libc::SYS_get_thread_area, libc::SYS_modify_ldt, libc::SYS_rseq,
    libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal, libc::SYS_process_mrelease, libc::SYS_restart_syscall,
    // Looking into processes of the same user: safe with filters since kernel 4.8, and what
    // debuggers and crash reporters need.
    libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev,
    // Further locking up of oneself.
    libc::SYS_seccomp, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule,
    libc::SYS_landlock_restrict_self,
    // Users, groups and capabilities; there is nothing to gain without the last.
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_getresuid,
    libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid,
    libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid,
    libc::SYS_setfsgid, libc::SYS_capget, libc::SYS_capset,
    // Scheduling and limits.
    libc::SYS_sched_yield, libc::SYS_sched_setparam, libc::SYS_sched_getparam, libc::SYS_sched_setscheduler,
    libc::SYS_sched_getscheduler, libc::SYS_sched_get_priority_max, libc::SYS_sched_get_priority_min,
    libc::SYS_sched_rr_get_interval, libc::SYS_sched_setaffinity, libc::SYS_sched_getaffinity,
    libc::SYS_sched_setattr, libc::SYS_sched_getattr, libc::SYS_getpriority, libc::SYS_setpriority,
    libc::SYS_ioprio_set, libc::SYS_ioprio_get, libc::SYS_getcpu, libc::SYS_getrlimit, libc::SYS_setrlimit,
    libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_times, libc::SYS_sysinfo, libc::SYS_uname,
    // Signals.
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending,
    libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo, libc::SYS_rt_sigsuspend,
    libc::SYS_sigaltstack, libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_pause,
    libc::SYS_signalfd, libc::SYS_signalfd4,
    // Time. Setting the clock needs a capability, reading it with adjtimex none.
    libc::SYS_gettimeofday, libc::SYS_time, libc::SYS_clock_gettime, libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep, libc::SYS_nanosleep, libc::SYS_adjtimex, libc::SYS_clock_adjtime,
    libc::SYS_getitimer, libc::SYS_setitimer, libc::SYS_alarm, libc::SYS_timer_create, libc::SYS_timer_settime,
    libc::SYS_timer_gettime, libc::SYS_timer_getoverrun, libc::SYS_timer_delete, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime,
    // Waiting.
    libc::SYS_poll, libc::SYS_ppoll, libc::SYS_select, libc::SYS_pselect6, libc::SYS_epoll_create,
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_ctl_old, libc::SYS_epoll_wait,
    libc::SYS_epoll_wait_old, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd, libc::SYS_eventfd2,
    libc::SYS_futex, libc::SYS_futex_waitv, 454, 455, 456, // futex_wake, futex_wait, futex_requeue
    libc::SYS_io_setup, libc::SYS_io_destroy, libc::SYS_io_getevents, libc::SYS_io_submit, libc::SYS_io_cancel,
    // Talking.
    libc::SYS_pipe, libc::SYS_pipe2, libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept,
    libc::SYS_accept4, libc::SYS_connect, libc::SYS_shutdown, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg,
    libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_recvmmsg,
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_semget, libc::SYS_semop,
    libc::SYS_semctl, libc::SYS_semtimedop, libc::SYS_msgget, libc::SYS_msgsnd, libc::SYS_msgrcv,
    libc::SYS_msgctl, libc::SYS_mq_open, libc::SYS_mq_unlink, libc::SYS_mq_timedsend,
    libc::SYS_mq_timedreceive, libc::SYS_mq_notify, libc::SYS_mq_getsetattr,
    libc::SYS_getrandom,
];

/// The verdict on a system call, by its number.
#[must_use]
pub fn default_verdict(number: u32) -> Verdict {
    let call = c_long::from(number);
    let (rule, verdict) = match call {
        _ if ALLOWED.contains(&call) => return Verdict::Allow,
        libc::SYS_clone => (Rule::FilterNamespaces, Verdict::CloneWithoutNamespaces),
        libc::SYS_personality => (Rule::FilterPersonality, Verdict::HarmlessPersonality),
        libc::SYS_socket => (Rule::FilterFamilies, Verdict::CommonFamilies),
        _ => {
            let named = REFUSED.iter().find(|(_, calls)| calls.contains(&call)).map(|(rule, _)| *rule);
            let is_unseen = UNSEEN.contains(&call) || !exists(number);
            let errno = if is_unseen { libc::ENOSYS } else { libc::EPERM };
            (named.unwrap_or(Rule::FilterRest), Verdict::Errno(errno as u16))
        }
    };
    if rule.in_force() { verdict } else { Verdict::Allow }
}

/// The verdict for a builder of images: it mounts as it did before there were calls by descriptor, and in
/// namespaces of mounts and names alone. A network of its own would let it at all of the packet filters.
#[must_use]
pub fn builder_verdict(number: u32) -> Verdict {
    match c_long::from(number) {
        libc::SYS_mount | libc::SYS_umount2 | libc::SYS_chroot | libc::SYS_pivot_root | libc::SYS_sethostname => {
            Verdict::Allow
        }
        libc::SYS_unshare if Rule::FilterBuilder.in_force() => Verdict::UnshareMounts,
        libc::SYS_unshare => Verdict::Allow,
        _ => default_verdict(number),
    }
}

/// Whether x86-64 has a call of this number; there is a gap where other machines have theirs.
fn exists(number: u32) -> bool {
    number <= 334 || (424..=NEWEST).contains(&number)
}

/// The first number of each run of calls with the same verdict, from 0, ascending. The last run has no
/// end: numbers of the x32 machine, which have bit 30 set, are in it.
#[must_use]
pub fn ranges(verdict: impl Fn(u32) -> Verdict) -> Vec<(u32, Verdict)> {
    let mut ranges: Vec<(u32, Verdict)> = Vec::new();
    for number in 0..=NEWEST + 1 {
        let verdict = verdict(number);
        if ranges.last().is_none_or(|(_, last)| *last != verdict) {
            ranges.push((number, verdict));
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_escapes_are_made_of_is_refused() {
        #[rustfmt::skip]
        let refused = [
            libc::SYS_bpf, libc::SYS_userfaultfd, libc::SYS_perf_event_open, libc::SYS_keyctl, libc::SYS_add_key,
            libc::SYS_request_key, libc::SYS_mount, libc::SYS_umount2, libc::SYS_pivot_root, libc::SYS_chroot,
            libc::SYS_fsopen, libc::SYS_fsmount, libc::SYS_fsconfig, libc::SYS_fspick, libc::SYS_open_tree,
            libc::SYS_move_mount, libc::SYS_mount_setattr, libc::SYS_unshare, libc::SYS_setns,
            libc::SYS_open_by_handle_at, libc::SYS_init_module, libc::SYS_finit_module, libc::SYS_kexec_load,
            libc::SYS_reboot, libc::SYS_swapon, libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_settimeofday,
            libc::SYS_clock_settime, libc::SYS_syslog, libc::SYS_acct, libc::SYS_quotactl, libc::SYS_kcmp,
            libc::SYS_pidfd_getfd, libc::SYS_process_madvise, libc::SYS_fanotify_init, libc::SYS_uselib,
            libc::SYS_move_pages, libc::SYS_vhangup, 457, 458, 467,
        ];
        for call in refused {
            assert_eq!(default_verdict(call as u32), Verdict::Errno(libc::EPERM as u16), "{call}");
        }
        for call in UNSEEN {
            assert_eq!(default_verdict(*call as u32), Verdict::Errno(libc::ENOSYS as u16), "{call}");
        }
    }

    #[test]
    fn no_call_is_listed_twice() {
        let mut seen = std::collections::HashSet::new();
        for call in ALLOWED.iter().chain(REFUSED.iter().flat_map(|(_, calls)| *calls)) {
            assert!(seen.insert(call), "{call}");
        }
    }
}
