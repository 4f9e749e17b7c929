//! The exits that init records.

use crate::support::{Bench, process, wait_until};

#[test]
fn exit_codes_and_signals_are_recorded() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    for (script, wanted) in [("exit 7", 7 << 8), ("kill -9 $$", 9), ("exit 0", 0), ("kill -TERM $$", 15)] {
        let app = bench.start(&sandbox, &process(&["/bin/sh", "-c", script])).unwrap();
        let record = sandbox.exit_of(app.pid_inside);
        assert_eq!(record.status, wanted, "{script}");
        assert!(record.at > 1_700_000_000_000_000_000);
    }
    assert_eq!(sandbox.init.state().unwrap().exits, 4);
}

#[test]
fn strays_cannot_push_the_apps_exit_out() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let app = bench.start(&sandbox, &process(&["/bin/sleep", "1000"])).unwrap();
    rustix::process::pidfd_send_signal(&app.pidfd, rustix::process::Signal::KILL).unwrap();
    sandbox.exit_of(app.pid_inside);
    // Each inner shell's child outlives it and becomes init's.
    let script = "i=0; while [ $i -lt 1200 ]; do (true &); i=$((i+1)); done";
    let stray = bench.start(&sandbox, &process(&["/bin/sh", "-c", script])).unwrap();
    assert_eq!(sandbox.exit_of(stray.pid_inside).status, 0);
    wait_until("the strays are reaped", || sandbox.init.state().unwrap().exits > 1200);
    assert_eq!(sandbox.exit_of(app.pid_inside).status, 9);
    assert!(sandbox.exits().len() <= 64 + 1024);
    let init = sandbox.sandbox.pid;
    wait_until("no child of init is left, dead or alive", || {
        std::fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap().is_empty()
    });
}
