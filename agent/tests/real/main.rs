//! The agent on the real kernel, asked as a controller asks it. Needs root, and a static busybox.
#![allow(clippy::print_stderr, clippy::unwrap_used, reason = "as in all tests")]

mod abuse;
mod bundles;
mod cleanup;
mod crashes;
mod disks;
mod endure;
mod hibernation;
mod hostile;
mod paging;
mod ready;
mod sleep;
mod snapshots;
mod support;
mod swap;

use drowse_api::ErrorCode;
use drowse_api::agent::EndpointsPicture;
use drowse_api::deployment::AppType;
use drowse_api::instance::{FailureReason, InstanceState, LogLine, LogStream, Workload};
use support::{Agent, visit};

/// Serves its own folder, and says so.
const SERVER: &str = "echo hello > /www/index.html; echo serving; echo careful >&2; \
                      exec busybox httpd -f -p $PORT -h /www";

fn kill(pid: i32) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn an_instance_lives_is_adopted_restarted_stopped_and_leaves_nothing() {
    let Some(mut agent) = Agent::start(1).await else { return };
    let image = agent.image("one", AppType::Bundle, SERVER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    assert_eq!(visit(&ready).await, "hello\n");

    agent.kill();
    assert_eq!(visit(&ready).await, "hello\n", "the app does not notice");
    agent.restart().await;
    let adopted = agent.until_ready("web").await;
    assert_eq!(adopted, ready);

    agent.kill();
    kill(ready.process.unwrap().pid);
    agent.restart().await;
    let restarted = agent.until("web", |status| status.state.is_ready() && status.restarts == 1).await;
    assert_eq!(restarted.address, ready.address);
    assert!(agent.messages().await.iter().any(|message| message.contains("was killed by SIGKILL; try 1 of 20")));

    let mut lines = agent.client.lines::<LogLine>("/v1/instances/web/logs").await.unwrap();
    let mut log = Vec::new();
    while let Some(line) = lines.next().await.unwrap() {
        log.push((line.stream, line.text));
    }
    for wanted in [(LogStream::Out, "serving"), (LogStream::Err, "careful")] {
        assert_eq!(log.iter().filter(|(stream, text)| (*stream, text.as_str()) == wanted).count(), 2, "{log:?}");
    }

    agent.stop("web", 2).await.unwrap();
    agent.until("web", |status| status.state == InstanceState::Stopped { reason: "told to".to_owned() }).await;
    assert_eq!(agent.delete("web", 1).await.map_err(|problem| problem.code), Err(ErrorCode::StaleEpoch));
    agent.delete("web", 2).await.unwrap();
    assert!(!agent.data("instances/web").exists());
}

#[tokio::test]
async fn an_init_that_is_killed_is_made_again_with_its_app() {
    let Some(agent) = Agent::start(2).await else { return };
    let image = agent.image("one", AppType::Bundle, SERVER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", ready.process.unwrap().pid)).unwrap();
    let init: i32 = stat.rsplit_once(')').unwrap().1.split_ascii_whitespace().nth(1).unwrap().parse().unwrap();
    kill(init);
    let again = agent.until("web", |status| status.state.is_ready() && status.restarts == 1).await;
    assert_eq!(visit(&again).await, "hello\n");
}

#[tokio::test]
async fn a_failed_boot_says_what_listens_instead_and_shows_the_log() {
    let Some(agent) = Agent::start(3).await else { return };
    let deaf = "echo starting; exec busybox httpd -f -p 127.0.0.1:8000";
    let image = agent.image("deaf", AppType::Bundle, deaf).await.unwrap();
    agent.put("deaf", 1, &image, Workload::Web).await.unwrap();
    let image = agent.image("short", AppType::Bundle, "seq 20000; echo oh no; exit 3").await.unwrap();
    agent.put("short", 1, &image, Workload::Web).await.unwrap();
    let InstanceState::Failed { failure } = agent.until_ready("short").await.state else { panic!("it did not fail") };
    assert_eq!((failure.reason, failure.detail.as_str()), (FailureReason::Exited, "it exited with status 3"));
    assert_eq!((failure.log.len(), failure.log.last().map(String::as_str)), (50, Some("oh no")));
    let InstanceState::Failed { failure } = agent.until_ready("deaf").await.state else { panic!("it did not fail") };
    assert_eq!(failure.reason, FailureReason::TimeoutError);
    assert!(failure.detail.contains("127.0.0.1:8000") && failure.detail.contains("$PORT"), "{}", failure.detail);
}

#[tokio::test]
async fn an_app_past_its_memory_is_killed_whole_and_told_so() {
    let Some(agent) = Agent::start(4).await else { return };
    // The greedy one is a child: on hybrid groups the kernel kills it alone.
    let script = "busybox httpd -f -p $PORT & while [ ! -e /www/go ]; do busybox usleep 20000; done; \
                  busybox tail -c 1000m /dev/zero & wait";
    let image = agent.image("greedy", AppType::Bundle, script).await.unwrap();
    agent.put("greedy", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("greedy").await;
    std::fs::write(format!("/proc/{}/root/www/go", ready.process.unwrap().pid), "").unwrap();
    agent.until("greedy", |status| status.state.is_ready() && status.restarts == 1).await;
    let messages = agent.messages().await;
    assert!(messages.iter().any(|message| message.contains("used up its 64 MiB of memory")), "{messages:?}");
}

#[tokio::test]
async fn a_site_is_served_at_its_own_address_also_after_its_server_fell() {
    let Some(mut agent) = Agent::start(5).await else { return };
    let one = agent.image("one", AppType::Static, "first site").await.unwrap();
    let two = agent.image("two", AppType::Static, "second site").await.unwrap();
    agent.put("one", 1, &one, Workload::Site).await.unwrap();
    agent.put("two", 1, &two, Workload::Site).await.unwrap();
    let (one, two) = (agent.until_ready("one").await, agent.until_ready("two").await);
    assert_eq!((visit(&one).await.as_str(), visit(&two).await.as_str()), ("first site", "second site"));
    agent.kill();
    assert_eq!(visit(&one).await, "first site");
    agent.restart().await;
    assert_eq!(agent.until_ready("one").await.address, one.address);
    agent.kill();
    let files = agent.data("sites").join(one.address.unwrap().ip().to_string());
    std::fs::remove_dir_all(&files).unwrap();
    agent.restart().await;
    agent.until_ready("one").await;
    assert_eq!(visit(&one).await, "first site", "published again");
    agent.delete("one", 1).await.unwrap();
    assert_eq!(visit(&two).await, "second site");
    assert_eq!(std::fs::read_dir(agent.data("sites")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_damaged_record_is_set_aside_and_what_it_owned_is_removed() {
    let Some(mut agent) = Agent::start(6).await else { return };
    let image = agent.image("one", AppType::Bundle, SERVER).await.unwrap();
    agent.put("good", 1, &image, Workload::Web).await.unwrap();
    agent.put("bad", 1, &image, Workload::Web).await.unwrap();
    let good = agent.until_ready("good").await;
    let bad = agent.until_ready("bad").await.process.unwrap();
    agent.kill();
    std::fs::write(agent.data("instances/bad/record"), "nonsense").unwrap();
    agent.restart().await;
    assert_eq!(agent.until_ready("good").await, good);
    assert!(!std::path::Path::new(&format!("/proc/{}", bad.pid)).exists());
    assert!(agent.data("quarantine/bad.0").is_dir());
    assert!(agent.messages().await.iter().any(|message| message.contains("instance bad is damaged")));
    agent.put("bad", 1, &image, Workload::Web).await.unwrap();
    agent.until("bad", |status| status.state.is_ready()).await;

    agent.kill();
    let record = agent.data("instances/good/record");
    let text = std::fs::read_to_string(&record).unwrap();
    let (magic, rest) = text.split_once(" v").unwrap();
    let (_, rest) = rest.split_once(' ').unwrap();
    std::fs::write(&record, format!("{magic} v999 {rest}")).unwrap();
    let refused = agent.command(&[]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("install the newer version"), "{message}");
    std::fs::write(&record, text).unwrap();
    agent.restart().await;
    assert_eq!(agent.until_ready("good").await, good);
}

#[tokio::test]
async fn what_a_killed_agent_was_just_starting_does_not_keep_the_next_one_away() {
    let Some(mut agent) = Agent::start(8).await else { return };
    let path = agent.folder.path().join("run/lock");
    agent.kill();
    // As a program that has the agent's descriptors still, since it did not execute yet.
    let lock = std::fs::File::options().write(true).open(&path).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    agent.spawn(None);
    let began = std::time::Instant::now();
    while !agent.has_open(&path) {
        assert!(began.elapsed() < support::LIMIT && !agent.has_died(), "{}", agent.log());
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    drop(lock);
    agent.answers().await;
}

#[tokio::test]
async fn only_one_agent_runs_in_a_folder_and_a_router_sees_endpoints_alone() {
    let Some(agent) = Agent::start(7).await else { return };
    let second = agent.command(&[]);
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && message.contains("another agent runs"), "{message}");

    let image = agent.image("one", AppType::Bundle, SERVER).await.unwrap();
    agent.put("web", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("web").await;
    let mut endpoints = agent.client.lines::<EndpointsPicture>("/v1/endpoints/watch").await.unwrap();
    let picture = endpoints.next().await.unwrap().unwrap();
    assert_eq!(picture.ready.get(&ready.id), ready.address.as_ref());

    std::fs::set_permissions(agent.folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let socket = agent.folder.path().join("run/agent.sock");
    let status = |uid: u32, path: &str| {
        let mut curl = std::process::Command::new("setpriv");
        curl.args([
            &format!("--reuid={uid}"),
            "--regid=61990",
            "--clear-groups",
            "curl",
            "-s",
            "-m",
            "5",
            "-o",
            "/dev/null",
        ]);
        curl.args(["-w", "%{http_code}", "--unix-socket"]).arg(&socket).arg(format!("http://x{path}"));
        String::from_utf8_lossy(&curl.output().unwrap().stdout).into_owned()
    };
    assert_eq!(status(61990, "/v1/instances"), "200");
    assert_eq!((status(61991, "/v1/node").as_str(), status(61991, "/v1/instances").as_str()), ("200", "403"));
    assert_eq!(status(61992, "/v1/node"), "403");
}
