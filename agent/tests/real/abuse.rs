//! Callers who mean ill: silent, slow, endless, senseless, many, or not who they seem to be. Each is answered
//! or closed, and others are served meanwhile.

use std::process::Command;
use std::time::{Duration, Instant};

use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceStatus, Workload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::support::{Agent, LIMIT, visit};

const SERVER: &str = "echo hello > /www/index.html; exec busybox httpd -f -p $PORT -h /www";
/// How much more memory the agent may have at the worst, in KiB: far less than what is sent to it.
const SLACK: u64 = 48 << 10;
const LARGE: usize = 64 << 20;
/// More connections than the agent has room for.
const CROWD: usize = 1000;

async fn connect(agent: &Agent) -> UnixStream {
    UnixStream::connect(agent.folder.path().join("run/agent.sock")).await.unwrap()
}

/// Sends `request` as far as it is taken; the answer, up to the end of the connection.
async fn answer_to(agent: &Agent, request: &[u8]) -> String {
    let (mut from, mut to) = connect(agent).await.into_split();
    let sending = async {
        // What is refused need not be read to its end.
        let _ = to.write_all(request).await;
        to
    };
    let reading = async {
        let mut answer = Vec::new();
        // Where it did not want to read all of it, the end is no clean one.
        let _ = from.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    let both = async { tokio::join!(reading, sending).0 };
    tokio::time::timeout(LIMIT, both).await.expect("an answer or an end")
}

/// The agent's proportional memory in KiB.
fn memory(agent: &Agent) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", agent.pid())).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

async fn is_served(agent: &Agent, app: &InstanceStatus) {
    let known: Vec<InstanceStatus> = agent.client.get("/v1/instances").await.unwrap();
    assert_eq!(known.iter().collect::<Vec<_>>(), [app]);
    assert_eq!(visit(app).await, "hello\n");
}

/// The agent is started with as many descriptors as it takes in its unit.
fn raise_limit() {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
}

fn call(head: &str, body: &[u8]) -> Vec<u8> {
    [format!("{head}\r\nhost: x\r\nconnection: close\r\n").as_bytes(), body].concat()
}

#[tokio::test]
async fn abuse_is_answered_or_closed_and_others_are_served_meanwhile() {
    raise_limit();
    let Some(agent) = Agent::start(24).await else { return };
    let image = agent.image("one", AppType::Bundle, SERVER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let app = agent.until_ready("web").await;
    let before = memory(&agent);

    // Some say nothing, some never get to the end of what they say.
    let mut waiting = Vec::new();
    for number in 0..600 {
        let mut stream = connect(&agent).await;
        if number % 6 == 0 {
            stream.write_all(b"GET /v1/node HTTP/1.1\r\nx: ").await.unwrap();
        }
        waiting.push(stream);
    }
    is_served(&agent, &app).await;

    let json = |body: &str| format!("content-length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let put = "PUT /v1/instances/x HTTP/1.1";
    let cases = [
        ("an unknown method", call("BREW /v1/instances HTTP/1.1", b"\r\n"), "HTTP/1.1 400 ", "BREW"),
        ("an unknown call", call("GET /v1/../../etc/passwd HTTP/1.1", b"\r\n"), "HTTP/1.1 404 ", "no call"),
        ("a wrong method", call("DELETE /v1/node HTTP/1.1", b"\r\n"), "HTTP/1.1 400 ", "cannot be used on"),
        ("no JSON", call(put, &json("hello")), "HTTP/1.1 400 ", "cannot be used"),
        ("deep JSON", call(put, &json(&deep)), "HTTP/1.1 400 ", "cannot be used"),
        ("half of JSON", call(put, &json("{\"id\":")), "HTTP/1.1 400 ", "line 1, column 6"),
        ("an id that leads upwards", call("PUT /v1/instances/..%2f..%2fx HTTP/1.1", &json("{}")), "HTTP/1.1 400 ", ""),
        ("a body of two lengths", call(put, b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"), "HTTP/1.1 400 ", ""),
        ("a head that never ends", call("GET /v1/node HTTP/1.1", &vec![b'x'; 1 << 20]), "HTTP/1.1 431 ", ""),
        ("a thousand headers", call("GET /v1/node HTTP/1.1", &b"x: y\r\n".repeat(1000)), "HTTP/1.1 431 ", ""),
        ("garbage", vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, b'\r', b'\n', b'\r', b'\n'], "HTTP/1.1 400 ", ""),
        ("another protocol", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), "", ""),
    ];
    let mut wrong = Vec::new();
    for (what, request, status, text) in cases {
        let answer = answer_to(&agent, &request).await;
        if !answer.starts_with(status) || !answer.contains(text) {
            wrong.push(format!("{what}: {answer:?}"));
        }
    }
    let large = [format!("content-length: {LARGE}\r\n\r\n").as_bytes(), &vec![b' '; LARGE]].concat();
    let endless = [b"transfer-encoding: chunked\r\n\r\n".to_vec(), b"4000000\r\n".to_vec(), vec![b' '; LARGE]].concat();
    for (what, body) in [("a large body", large), ("a body without a length", endless)] {
        let answer = answer_to(&agent, &call(put, &body)).await;
        if !answer.starts_with("HTTP/1.1 413 ") || !answer.contains("too-large") {
            wrong.push(format!("{what}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // A blob with another digest, and one that breaks off: nothing is kept.
    let other = format!("PUT /v1/blobs/sha256:{} HTTP/1.1", "0".repeat(64));
    let answer = answer_to(&agent, &call(&other, &json("hello"))).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("hashes to"), "{answer:?}");
    let mut broken = connect(&agent).await;
    broken.write_all(&call("POST /v1/blobs HTTP/1.1", b"content-length: 5000\r\n\r\nand then")).await.unwrap();
    drop(broken);
    let began = Instant::now();
    while std::fs::read_dir(agent.data("images/tmp")).unwrap().count() > 0 {
        assert!(began.elapsed() < LIMIT, "half a blob stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    // Those who ask and never read.
    for _ in 0..50 {
        let mut stream = connect(&agent).await;
        stream.write_all(b"GET /v1/instances/watch HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        waiting.push(stream);
    }
    is_served(&agent, &app).await;

    // More than there is room for, at once: the last one is told so, and a router has room of its own.
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        crowd.push(connect(&agent).await);
    }
    let mut refused = String::new();
    let last = crowd.last_mut().expect("there is a crowd");
    tokio::time::timeout(LIMIT, last.read_to_string(&mut refused)).await.expect("an answer").expect("reads");
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("as many connections"), "{refused:?}");
    assert_eq!(status(&agent, &["setpriv", "--reuid=61991", "--regid=61990", "--clear-groups"], "/v1/node"), "200");
    drop(crowd);

    let most = memory(&agent);
    assert!(most <= before + SLACK, "{before} KiB, then {most} KiB");
    // Whoever says nothing, or nothing whole, is closed without a word or with a reason.
    for (number, mut stream) in waiting.into_iter().take(600).enumerate() {
        let mut answer = String::new();
        let ended = tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await;
        assert!(ended.is_ok() && !answer.starts_with("HTTP/1.1 2"), "{number}: {ended:?} {answer:?}");
    }
    is_served(&agent, &app).await;
}

/// The status that a call of a program started by `before` gets; 000 without one.
fn status(agent: &Agent, before: &[&str], path: &str) -> String {
    std::fs::set_permissions(agent.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(before[0]);
    command.args(&before[1..]).args(["curl", "-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"]);
    command.arg("--unix-socket").arg(agent.folder.path().join("run/agent.sock")).arg(format!("http://x{path}"));
    String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
}

#[tokio::test]
async fn whoever_is_in_another_user_namespace_is_nobody() {
    let Some(agent) = Agent::start(25).await else { return };
    let as_user =
        |uid| ["setpriv".to_owned(), format!("--reuid={uid}"), "--regid=61990".to_owned(), "--clear-groups".to_owned()];
    let in_namespace = |uid: u32, options: &str| {
        let user = as_user(uid);
        let command: Vec<_> = user.iter().map(String::as_str).chain(["unshare", options]).collect();
        status(&agent, &command, "/v1/node")
    };
    if in_namespace(61_990, "--user").is_empty() {
        eprintln!("SKIPPED: no user namespaces here");
        return;
    }
    for uid in [0, 61_990, 61_991] {
        let user = as_user(uid);
        let plain: Vec<_> = user.iter().map(String::as_str).collect();
        assert_eq!(status(&agent, &plain, "/v1/node"), "200", "{uid} itself");
        // As the user that it is outside, and as root inside.
        assert_eq!(in_namespace(uid, "--user"), "403", "{uid} in a namespace");
        assert_eq!(in_namespace(uid, "--map-root-user"), "403", "{uid} as root of a namespace");
    }
    assert_eq!(in_namespace(61_992, "--map-root-user"), "403");
}
