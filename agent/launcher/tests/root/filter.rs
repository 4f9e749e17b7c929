//! The system call filter, tried by a program that makes the calls.

use std::path::PathBuf;
use std::process::Command;

use crate::support::Bench;

/// Makes each call it is given, in a child of its own where that may matter, and prints the result.
const PROBE: &str = r#"
use std::arch::asm;
fn call(number: i64, a: [i64; 5]) -> i64 {
    let result: i64;
    // SAFETY: the caller asks for calls that fail, or change nothing but this process.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a[0], in("rsi") a[1], in("rdx") a[2],
            in("r10") a[3], in("r8") a[4], lateout("rcx") _, lateout("r11") _);
    }
    result
}
fn main() {
    for line in std::env::args().skip(1) {
        let numbers: Vec<i64> = line.split(',').map(|number| number.parse().unwrap()).collect();
        let mut arguments = [0; 5];
        arguments[..numbers.len() - 1].copy_from_slice(&numbers[1..]);
        println!("{}", call(numbers[0], arguments));
    }
}
"#;

fn probe() -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let source = folder.join(format!("probe-{}.rs", std::process::id()));
    let program = source.with_extension("bin");
    std::fs::write(&source, PROBE).unwrap();
    let built = Command::new("rustc")
        .args(["--edition=2021", "-Ctarget-feature=+crt-static", "-o"])
        .args([&program, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    std::fs::remove_file(source).unwrap();
    program
}

#[test]
fn denied_calls_fail_as_the_table_says() {
    let Some(bench) = Bench::new() else { return };
    let program = probe();
    std::fs::rename(&program, bench.layer().join("bin/probe"))
        .or_else(|_| std::fs::copy(&program, bench.layer().join("bin/probe")).map(drop))
        .unwrap();
    let _ = std::fs::remove_file(program);
    let sandbox = bench.sandbox("one");
    let (perm, nosys, family) = (-libc::EPERM, -libc::ENOSYS, -libc::EAFNOSUPPORT);
    let namespaces = i64::from(libc::CLONE_NEWUSER | libc::SIGCHLD);
    let calls: Vec<(String, i32)> = vec![
        (format!("{}", libc::SYS_unshare), perm),
        (format!("{},{}", libc::SYS_unshare, libc::CLONE_NEWUSER), perm),
        (format!("{},{namespaces}", libc::SYS_clone), perm),
        (format!("{}", libc::SYS_clone3), nosys),
        (format!("{},1", libc::SYS_io_uring_setup), nosys),
        (format!("{}", libc::SYS_userfaultfd), perm),
        (format!("{}", libc::SYS_bpf), perm),
        (format!("{}", libc::SYS_perf_event_open), perm),
        (format!("{}", libc::SYS_keyctl), perm),
        (format!("{}", libc::SYS_mount), perm),
        (format!("{}", libc::SYS_umount2), perm),
        (format!("{}", libc::SYS_fsopen), perm),
        (format!("{}", libc::SYS_open_tree), perm),
        (format!("{}", libc::SYS_setns), perm),
        (format!("{}", libc::SYS_chroot), perm),
        (format!("{},{}", libc::SYS_socket, libc::AF_VSOCK), family),
        (format!("{},{}", libc::SYS_socket, libc::AF_ALG), family),
        (format!("{},{}", libc::SYS_personality, 0x004_0000), perm),
        ("400".to_owned(), nosys),
        ("1000".to_owned(), nosys),
        (format!("{}", 0x4000_0000 + libc::SYS_getpid), nosys),
    ];
    let script = format!("/bin/probe {}", calls.iter().map(|(call, _)| call.as_str()).collect::<Vec<_>>().join(" "));
    let (status, text) = bench.run(&sandbox, &script);
    assert_eq!(status, 0, "{text}");
    let results: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
    for ((call, wanted), result) in calls.iter().zip(&results) {
        assert_eq!(result, wanted, "{call}");
    }
    assert_eq!(results.len(), calls.len());
    let allowed = format!("/bin/probe {} {},2,1 {},1,1", libc::SYS_getpid, libc::SYS_socket, libc::SYS_socket);
    let (_, text) = bench.run(&sandbox, &allowed);
    assert!(text.lines().all(|line| line.parse::<i32>().unwrap() > 0), "{text}");
}
