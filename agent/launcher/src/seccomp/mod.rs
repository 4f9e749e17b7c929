//! The system call filter: a table of what is allowed, compiled to a tree of ranges.
use libc::sock_filter;
/// x
pub fn default_filter() -> Vec<sock_filter> {
    vec![sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }]
}
