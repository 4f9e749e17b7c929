//! Runs a filter as the kernel would, for the few instructions that ours have, and says what a
//! verdict means without looking at one.

use libc::sock_filter;

use super::table::Verdict;

/// What a filter is asked about.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: u32,
    pub machine: u32,
    /// The first argument.
    pub argument: u64,
}

/// The answer of a filter. Panics on what the kernel would refuse to load.
pub fn evaluate(filter: &[sock_filter], call: Call) -> u32 {
    let mut accumulator = 0;
    let mut at = 0;
    loop {
        let instruction = filter[at];
        let jump = |holds: bool| usize::from(if holds { instruction.jt } else { instruction.jf });
        at += 1;
        match u32::from(instruction.code) {
            0x20 => {
                accumulator = match instruction.k {
                    0 => call.number,
                    4 => call.machine,
                    16 => call.argument as u32,
                    offset => panic!("load from {offset}"),
                }
            }
            0x06 => return instruction.k,
            0x05 => at += instruction.k as usize,
            0x15 => at += jump(accumulator == instruction.k),
            0x35 => at += jump(accumulator >= instruction.k),
            0x45 => at += jump(accumulator & instruction.k != 0),
            code => panic!("instruction {code:x}"),
        }
    }
}

/// What a verdict means.
pub fn expected(verdict: Verdict, argument: u64) -> u32 {
    let allow_if = |holds: bool, errno: i32| {
        if holds { libc::SECCOMP_RET_ALLOW } else { libc::SECCOMP_RET_ERRNO | errno as u32 }
    };
    let low = argument as u32;
    match verdict {
        Verdict::Allow => libc::SECCOMP_RET_ALLOW,
        Verdict::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
        Verdict::CloneWithoutNamespaces => allow_if(low & 0x7e02_0000 == 0, libc::EPERM),
        Verdict::UnshareMounts => allow_if(low & !0x0406_0600 == 0, libc::EPERM),
        Verdict::HarmlessPersonality => allow_if(matches!(low, 0 | 8 | 0x2_0000 | 0x2_0008 | 0xffff_ffff), libc::EPERM),
        Verdict::CommonFamilies => allow_if(matches!(low, 1 | 2 | 10 | 16), libc::EAFNOSUPPORT),
    }
}
