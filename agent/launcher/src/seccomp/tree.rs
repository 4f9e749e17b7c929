//! Compiles ranges of system calls to classic BPF, as a binary tree over the call's number.

use libc::sock_filter;

use super::table::Verdict;
use crate::rules::Rule;

/// `AUDIT_ARCH_X86_64`: machine 62, 64 bits, little endian.
const ARCHITECTURE: u32 = 0xc000_003e;
// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
/// The low half of the first argument. The calls judged by it take 32 bits.
const FIRST_ARGUMENT: u32 = 16;

/// Every flag of `clone` that makes a namespace. (The time namespace's bit is none of `clone`'s.)
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWCGROUP)
    .cast_unsigned();
/// What `unshare` may be asked for by a builder: mounts, names, and what is no namespace.
const MOUNTS_AND_NAMES: u32 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWUTS | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SYSVSEM).cast_unsigned();
/// Linux, with or without the old version number and with or without short inode numbers; or only
/// the question which one it is.
const PERSONALITIES: [u32; 4] = [0x0, 0x8, 0x2_0000, 0x2_0008];
const ASK_PERSONALITY: u32 = u32::MAX;
const FAMILIES: [libc::c_int; 4] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
const JUMP: u32 = libc::BPF_JMP | libc::BPF_JA;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_AT_LEAST: u32 = libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;

/// A filter that answers each call by the range it is in. `ranges` are ascending and begin with 0.
/// A call of another machine's table (32 bits) ends the process.
#[must_use]
pub fn compile(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    let foreign = if Rule::FilterMachine.in_force() { libc::SECCOMP_RET_KILL_PROCESS } else { libc::SECCOMP_RET_ALLOW };
    let mut program =
        vec![plain(LOAD, MACHINE), branch(IF_EQUAL, ARCHITECTURE, 1, 0), plain(RETURN, foreign), plain(LOAD, NUMBER)];
    program.extend(tree(ranges));
    program
}

/// All jumps are relative and forward, so trees can be put behind one another as they are.
fn tree(ranges: &[(u32, Verdict)]) -> Vec<sock_filter> {
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let Some((first_high, verdict)) = high.first() else { return answer(Verdict::Errno(libc::EPERM as u16)) };
    if low.is_empty() {
        return answer(*verdict);
    }
    let low = tree(low);
    let mut program = match u8::try_from(low.len()) {
        Ok(distance) => vec![branch(IF_AT_LEAST, *first_high, distance, 0)],
        // A conditional jump has 8 bits for its distance, the other kind 32.
        Err(_) => vec![branch(IF_AT_LEAST, *first_high, 0, 1), plain(JUMP, low.len() as u32)],
    };
    program.extend(low);
    program.extend(tree(high));
    program
}

fn answer(verdict: Verdict) -> Vec<sock_filter> {
    let allow = plain(RETURN, libc::SECCOMP_RET_ALLOW);
    let refuse = |errno: i32| plain(RETURN, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned());
    match verdict {
        Verdict::Allow => vec![allow],
        Verdict::Errno(errno) => vec![refuse(errno.into())],
        Verdict::CloneWithoutNamespaces => {
            vec![plain(LOAD, FIRST_ARGUMENT), branch(IF_ANY_BIT, NAMESPACES, 0, 1), refuse(libc::EPERM), allow]
        }
        Verdict::UnshareMounts => {
            vec![plain(LOAD, FIRST_ARGUMENT), branch(IF_ANY_BIT, !MOUNTS_AND_NAMES, 0, 1), refuse(libc::EPERM), allow]
        }
        Verdict::HarmlessPersonality => one_of(PERSONALITIES.into_iter().chain([ASK_PERSONALITY]), libc::EPERM),
        Verdict::CommonFamilies => one_of(FAMILIES.map(i32::cast_unsigned).into_iter(), libc::EAFNOSUPPORT),
    }
}

/// Allows the call if its first argument is one of `values`.
fn one_of(values: impl Iterator<Item = u32>, errno: i32) -> Vec<sock_filter> {
    let values: Vec<u32> = values.collect();
    let mut program = vec![plain(LOAD, FIRST_ARGUMENT)];
    for (at, value) in values.iter().enumerate() {
        // Over the remaining comparisons and the refusal.
        program.push(branch(IF_EQUAL, *value, (values.len() - at) as u8, 0));
    }
    program.push(plain(RETURN, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()));
    program.push(plain(RETURN, libc::SECCOMP_RET_ALLOW));
    program
}

fn plain(code: u32, value: u32) -> sock_filter {
    branch(code, value, 0, 0)
}

fn branch(code: u32, value: u32, if_true: u8, if_false: u8) -> sock_filter {
    sock_filter { code: code as u16, jt: if_true, jf: if_false, k: value }
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::{Call, evaluate, expected};
    use super::super::table::{NEWEST, builder_verdict, default_verdict, ranges};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_number_gets_what_the_table_says() {
        let filter = super::super::default_filter();
        for number in 0..1024 {
            for argument in [0, 2, 40, 0x8, 0x3d0f00, u64::from(NAMESPACES), 0x1_0000_0002] {
                let call = Call { number, machine: ARCHITECTURE, argument };
                assert_eq!(evaluate(&filter, call), expected(default_verdict(number), argument), "{call:x?}");
            }
        }
    }

    #[test]
    fn a_builder_mounts_and_makes_no_network() {
        let filter = super::super::builder_filter();
        for number in 0..1024 {
            for argument in [0, 0x2_0000, 0x402_0000, 0x1000_0000, 0x4000_0000, 0x80, 0x600] {
                let call = Call { number, machine: ARCHITECTURE, argument };
                assert_eq!(evaluate(&filter, call), expected(builder_verdict(number), argument), "{call:x?}");
            }
        }
        let unshare =
            |argument| evaluate(&filter, Call { number: libc::SYS_unshare as u32, machine: ARCHITECTURE, argument });
        assert_eq!(unshare(0x402_0000), libc::SECCOMP_RET_ALLOW, "mounts and names");
        for namespace in [0x1000_0000, 0x4000_0000, 0x2000_0000, 0x800_0000, 0x200_0000, 0x80] {
            assert_eq!(unshare(namespace | 0x2_0000), libc::SECCOMP_RET_ERRNO | libc::EPERM as u32, "{namespace:x}");
        }
    }

    #[test]
    fn foreign_machines_are_killed_and_x32_does_not_exist() {
        let filter = super::super::default_filter();
        let foreign = Call { number: 0, machine: 0x4000_0003, argument: 0 };
        assert_eq!(evaluate(&filter, foreign), libc::SECCOMP_RET_KILL_PROCESS);
        let x32 = Call { number: 0x4000_0000, machine: ARCHITECTURE, argument: 0 };
        assert_eq!(evaluate(&filter, x32), libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    }

    #[test]
    fn the_filter_is_small() {
        let filter = super::super::default_filter();
        assert!(filter.len() < 400, "{} instructions", filter.len());
    }

    fn verdicts() -> impl Strategy<Value = Verdict> {
        prop_oneof![
            Just(Verdict::Allow),
            (1..200u16).prop_map(Verdict::Errno),
            Just(Verdict::CloneWithoutNamespaces),
            Just(Verdict::UnshareMounts),
            Just(Verdict::HarmlessPersonality),
            Just(Verdict::CommonFamilies),
        ]
    }

    proptest! {
        #[test]
        fn any_table_is_compiled_to_what_it_says(
            table in proptest::collection::vec(verdicts(), NEWEST as usize + 2),
            calls in proptest::collection::vec((0..NEWEST + 100, any::<u64>()), 100),
        ) {
            let verdict = |number: u32| table[(number as usize).min(table.len() - 1)];
            let filter = compile(&ranges(verdict));
            for (number, argument) in calls {
                let call = Call { number, machine: ARCHITECTURE, argument };
                prop_assert_eq!(evaluate(&filter, call), expected(verdict(number), argument));
            }
        }
    }
}
