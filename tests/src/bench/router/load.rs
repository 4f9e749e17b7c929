//! Visitors: wrk for load, own sockets for idleness, strace for counting.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::sides::HOST;
use crate::bench::process::Program;

/// How long connections are idle before their memory is looked at.
const SETTLE: Duration = Duration::from_secs(5);

/// Loads a side for a while; returns how many requests were answered.
pub fn run(address: SocketAddr, connections: usize, time: Duration) -> anyhow::Result<u64> {
    let output = Command::new("wrk")
        .args(["-t1", &format!("-c{connections}"), &format!("-d{}s", time.as_secs().max(1))])
        .args(["-H", &format!("Host: {HOST}"), "-H", "User-Agent: bench", "-H", "Accept: */*"])
        .arg(format!("http://{address}/"))
        .output()
        .context("cannot run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    anyhow::ensure!(!text.contains("Non-2xx"), "{address} answered with errors:\n{text}");
    anyhow::ensure!(!text.contains("Socket errors"), "{address} lost connections:\n{text}");
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    requests.with_context(|| format!("wrk says nothing useful:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
}

/// Counts the system calls of a side under load, by strace.
pub fn system_calls(side: &Program, address: SocketAddr, connections: usize, folder: &Path) -> anyhow::Result<f64> {
    let counts = folder.join(format!("strace-{}", side.pid()));
    let mut strace = Command::new("strace");
    strace.args(["-c", "-f", "-o"]).arg(&counts);
    for pid in side.pids() {
        strace.args(["-p", &pid.to_string()]);
    }
    let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot run strace")?;
    // It is attached once the kernel names it as the tracer of every thread.
    let tracer = format!("TracerPid:\t{}", strace.id());
    let is_attached = |pid: i32| {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        tasks.into_iter().all(|task| {
            std::fs::read_to_string(task.path().join("status")).is_ok_and(|status| status.contains(&tracer))
        })
    };
    while !side.pids().into_iter().all(is_attached) {
        anyhow::ensure!(strace.try_wait()?.is_none(), "strace ended at once: may this user trace?");
        std::thread::sleep(Duration::from_millis(10));
    }
    let requests = run(address, connections, Duration::from_secs(3));
    kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT)?;
    strace.wait()?;
    let text = std::fs::read_to_string(&counts)?;
    let total = text.lines().rev().find(|line| line.trim_end().ends_with("total")).context("strace counted nothing")?;
    let calls = total.split_whitespace().find_map(|word| word.parse::<u64>().ok().filter(|n| *n > 100 || *n == 0));
    let calls = calls.with_context(|| format!("strace's total is not understood: {total}"))?;
    Ok(calls as f64 / requests? as f64)
}

/// Opens connections that ask once and then stay, and returns what each of them holds.
pub fn bytes_per_idle_connection(side: &Program, address: SocketAddr, count: usize) -> anyhow::Result<f64> {
    let open = || -> anyhow::Result<TcpStream> {
        let mut stream = TcpStream::connect(address)?;
        let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = [0; 4096];
        let read = stream.read(&mut answer)?;
        anyhow::ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "{address} answered something else");
        Ok(stream)
    };
    // What the first ones make it allocate is not the connections' own.
    let warm: Vec<TcpStream> = (0..100).map(|_| open()).collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_millis(300));
    let before = side.anonymous();
    let opened: Vec<TcpStream> = (0..count).map(|_| open()).collect::<Result<_, _>>()?;
    std::thread::sleep(SETTLE);
    let after = side.anonymous();
    drop((warm, opened));
    Ok(after.saturating_sub(before) as f64 / count as f64)
}
