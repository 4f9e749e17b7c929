//! What a process sees of its sandbox.

use crate::support::Bench;

#[test]
fn a_process_runs_as_its_user_in_its_own_root() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let (status, text) = bench
        .run(&sandbox, "id; ls -ln /; ls -l /dev /dev/; cat /proc/mounts; hostname; ip a; ls -l /proc/self/fd; ps");
    eprintln!("{text}");
    assert_eq!(status, 0);
}
