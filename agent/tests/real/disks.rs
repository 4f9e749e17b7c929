//! What an app writes is on a disk of its own: it ends at its size, outlives the agent and the sandbox,
//! and goes with the instance.

use std::process::Command;
use std::time::{Duration, Instant};

use drowse_api::MemoryBytes;
use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceState, Limits, Workload};

use crate::support::{Agent, LIMIT, visit};

/// Writes a line at each start, then more than its disk holds, and serves what came of it from memory.
const GREEDY: &str = "echo started >> /www/starts; busybox dd if=/dev/zero of=/www/big bs=1M count=64 2> /dev/shm/said; \
                      busybox cat /www/starts /dev/shm/said > /dev/shm/index.html; \
                      exec busybox httpd -f -p $PORT -h /dev/shm";

/// The loop devices with a file of this agent.
fn devices(agent: &Agent) -> String {
    let listed = Command::new("losetup").arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let own = agent.data("");
    listed.lines().filter(|line| line.contains(own.to_str().unwrap())).map(|line| format!("{line}\n")).collect()
}

async fn until_told(agent: &Agent, text: &str) {
    let began = Instant::now();
    while !agent.messages().await.iter().any(|message| message.contains(text)) {
        assert!(began.elapsed() < LIMIT, "{text:?} was never told:\n{:?}", agent.messages().await);
    }
}

#[tokio::test]
async fn what_an_app_writes_ends_at_its_disk_outlives_agent_and_sandbox_and_goes_with_it() {
    let Some(mut agent) = Agent::start(16).await else { return };
    let image = agent.image("one", AppType::Bundle, GREEDY).await.unwrap();
    let limits = Limits { disk: MemoryBytes::mib(24), files: 100, ..agent.usual_limits() };
    agent.put_within("web", 1, &image, Workload::Web, limits).await.unwrap();
    let ready = agent.until_ready("web").await;
    let said = visit(&ready).await;
    assert!(said.starts_with("started\n") && said.contains("No space left on device"), "{said}");
    assert!(devices(&agent).contains("/instances/web/disk"), "{}", devices(&agent));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(agent.data("").to_str().unwrap()), "no mount of the host shows it: {mounts}");
    until_told(&agent, "filled its disk of").await;

    agent.kill();
    assert_eq!(visit(&ready).await, said, "the app does not notice");
    agent.restart().await;
    assert_eq!(agent.until_ready("web").await, ready);

    // Also a disk without any room can be mounted again.
    agent.stop("web", 2).await.unwrap();
    agent.until("web", |status| matches!(status.state, InstanceState::Stopped { .. })).await;
    agent.put_within("web", 3, &image, Workload::Web, limits).await.unwrap();
    let again = visit(&agent.until_ready("web").await).await;
    assert!(again.starts_with("started\n"), "what was written is there again: {again}");

    agent.stop("web", 4).await.unwrap();
    agent.until("web", |status| matches!(status.state, InstanceState::Stopped { .. })).await;
    agent.delete("web", 4).await.unwrap();
    let began = Instant::now();
    while agent.data("instances/web").exists() || devices(&agent).contains("/instances/web/") {
        assert!(began.elapsed() < LIMIT, "left: {}", devices(&agent));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn without_disks_doctor_says_so_and_apps_run_all_the_same() {
    let Some(agent) = Agent::start_with(17, |_| "[disk]\nlimit = \"off\"\n".to_owned()).await else { return };
    let image = agent.image("one", AppType::Bundle, GREEDY).await.unwrap();
    let limits = Limits { disk: MemoryBytes::mib(24), ..agent.usual_limits() };
    agent.put_within("web", 1, &image, Workload::Web, limits).await.unwrap();
    let said = visit(&agent.until_ready("web").await).await;
    assert!(!said.contains("No space left"), "{said}");
    assert!(agent.data("instances/web/upper/www/big").exists());
    assert_eq!(devices(&agent), "");
    let doctor = agent.command(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("disk limits: switched off"), "{doctor:?}");
}
