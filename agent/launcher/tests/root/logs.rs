//! The log that init keeps.

use std::fs;

use crate::support::{Bench, process, wait_until};

#[test]
fn every_line_is_a_record_with_time_and_stream() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    let script = "echo out; echo err >&2; printf 'no end'; printf '\\n\\n'; head -c 5000 /dev/zero | tr '\\0' x";
    let app = bench.start(&sandbox, &process(&["/bin/sh", "-c", script])).unwrap();
    sandbox.exit_of(app.pid_inside);
    wait_until("the pipes are drained", || sandbox.init.state().unwrap().open_pipes == 0);
    let log = sandbox.log();
    let mut texts = Vec::new();
    for line in log.lines() {
        let mut parts = line.splitn(3, ' ');
        let (time, stream, text) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert!(time.len() == 19 && time.bytes().all(|byte| byte.is_ascii_digit()), "{line}");
        texts.push((stream.to_owned(), text.to_owned()));
    }
    assert!(texts.contains(&("o".to_owned(), "out".to_owned())), "{log}");
    assert!(texts.contains(&("e".to_owned(), "err".to_owned())), "{log}");
    assert!(texts.contains(&("o".to_owned(), "no end".to_owned())), "{log}");
    assert!(texts.contains(&("o".to_owned(), String::new())), "{log}");
    let long: usize = texts.iter().filter(|(_, text)| text.starts_with('x')).map(|(_, text)| text.len()).sum();
    assert_eq!(long, 5000, "a long line is cut, not lost");
}

#[test]
fn a_line_without_end_is_written_after_a_while() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    bench.start(&sandbox, &process(&["/bin/sh", "-c", "printf waiting; sleep 1000"])).unwrap();
    wait_until("the part of the line is in the log", || sandbox.log().contains("waiting"));
}

#[test]
fn the_log_is_capped_and_never_blocks_the_app_with_the_agent_gone() {
    let Some(bench) = Bench::new() else { return };
    let mut request = bench.request("one");
    request.log_limit = 64 << 10;
    let sandbox = bench.build(&request, "one").unwrap();
    let script =
        "sleep 0.2; i=0; while [ $i -lt 40 ]; do yes 'a line of the log' | head -c 100000; i=$((i+1)); done; echo last";
    let app = bench.start(&sandbox, &process(&["/bin/sh", "-c", script])).unwrap();
    // Nobody is connected any more, and the launcher is gone too.
    let folder = sandbox.folder.clone();
    let Bench { launcher, folder: _kept } = bench;
    drop(launcher);
    let record = sandbox.exit_of(app.pid_inside);
    assert_eq!(record.status, 0);
    wait_until("the last line is there", || sandbox.log().contains(" last"));
    for name in ["log.0", "log.1"] {
        let size = fs::metadata(folder.join(name)).unwrap().len();
        assert!(size > 0 && size <= 64 << 10, "{name} has {size}");
    }
}

#[test]
fn a_second_incarnation_is_drained_while_the_first_ones_children_live() {
    let Some(bench) = Bench::new() else { return };
    let sandbox = bench.sandbox("one");
    for at in 0..12 {
        let script = format!("echo incarnation {at}; sleep 1000 & exit 0");
        let app = bench.start(&sandbox, &process(&["/bin/sh", "-c", &script])).unwrap();
        sandbox.exit_of(app.pid_inside);
    }
    wait_until("the last one's line is there", || sandbox.log().contains("incarnation 11"));
    assert!(sandbox.init.state().unwrap().open_pipes <= 16);
}
