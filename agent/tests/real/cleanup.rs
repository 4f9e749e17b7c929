//! The disk: what deployments and instances need stays, also over the agent's death; all else goes.

use std::time::{Duration, Instant};

use drowse_api::deployment::AppType;
use drowse_api::instance::Workload;
use drowse_api::{Digest, ErrorCode};
use http::Method;

use crate::support::{Agent, LIMIT, visit};

const SERVER: &str = "echo hello > /www/index.html; exec busybox httpd -f -p $PORT -h /www";
const AT_ONCE: &str = "[images]\nkeep_uploads_seconds = 0\npause_seconds = 0\n";

fn has(agent: &Agent, image: &Digest) -> bool {
    agent.data("images/blobs/sha256").join(image.hex()).exists()
}

fn count(agent: &Agent, folder: &str) -> usize {
    std::fs::read_dir(agent.data(folder)).unwrap().count()
}

async fn until_gone(agent: &Agent, image: &Digest) {
    let began = Instant::now();
    while has(agent, image) {
        assert!(began.elapsed() < LIMIT, "{image} stays:\n{}", agent.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn forget(agent: &Agent, build: &str) {
    let path = format!("/v1/builds/{build}");
    let () = agent.client.call(Method::DELETE, &path, None::<&()>).await.unwrap();
}

#[tokio::test]
async fn images_live_as_long_as_their_deployments_and_instances() {
    let Some(mut agent) = Agent::start_with(13, |_| AT_ONCE.to_owned()).await else { return };
    // What is there for the node itself.
    let counts = |agent: &Agent| ["images/blobs/sha256", "images/layers", "images/tmp"].map(|of| count(agent, of));
    let own = counts(&agent);
    let kept = agent.image("kept", AppType::Bundle, SERVER).await.unwrap();
    let other = agent.image("other", AppType::Static, "other").await.unwrap();
    let served = agent.image("served", AppType::Bundle, &format!("true; {SERVER}")).await.unwrap();
    agent.put("web", 1, &served, Workload::Web).await.unwrap();
    agent.until_ready("web").await;

    forget(&agent, "other").await;
    until_gone(&agent, &other).await;
    assert!(has(&agent, &kept) && has(&agent, &served));

    // Its instance needs the image, now and after the agent's death; nobody knows the build any more.
    forget(&agent, "served").await;
    agent.kill();
    agent.restart().await;
    let third = agent.image("third", AppType::Static, "third").await.unwrap();
    forget(&agent, "third").await;
    until_gone(&agent, &third).await;
    assert!(has(&agent, &kept) && has(&agent, &served));
    agent.stop("web", 2).await.unwrap();
    agent.until("web", |status| status.state.is_over()).await;
    agent.put("web", 3, &served, Workload::Web).await.unwrap();
    assert_eq!(visit(&agent.until_ready("web").await).await, "hello\n");
    agent.put("later", 1, &kept, Workload::Web).await.unwrap();
    assert_eq!(visit(&agent.until_ready("later").await).await, "hello\n");

    agent.delete("web", 3).await.unwrap();
    agent.delete("later", 1).await.unwrap();
    forget(&agent, "kept").await;
    until_gone(&agent, &kept).await;
    until_gone(&agent, &served).await;
    let began = Instant::now();
    while counts(&agent) != own {
        assert!(began.elapsed() < LIMIT, "more is left than at first:\n{}", agent.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nothing_is_removed_while_a_record_is_damaged() {
    let Some(mut agent) = Agent::start_with(14, |_| AT_ONCE.to_owned()).await else { return };
    let first = agent.image("first", AppType::Static, "first").await.unwrap();
    let second = agent.image("second", AppType::Static, "second").await.unwrap();
    agent.kill();
    std::fs::write(agent.data("builds/first/record"), "nonsense").unwrap();
    agent.restart().await;
    forget(&agent, "second").await;
    let began = Instant::now();
    while !agent.log().contains("no images are removed: the record of build first is damaged") {
        assert!(began.elapsed() < LIMIT, "{}", agent.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(has(&agent, &first) && has(&agent, &second));
    forget(&agent, "first").await;
    until_gone(&agent, &first).await;
    until_gone(&agent, &second).await;
}

/// Deploys one after the other, each from the upload until its instance and its build are gone again.
async fn deploys(agent: &Agent, worker: usize, rounds: usize) {
    for round in 0..rounds {
        let id = format!("w{worker}r{round}");
        // What the workers make overlaps: one's leavings are another's parts.
        let (app_type, workload, content, shown) = match round % 2 {
            0 => (AppType::Bundle, Workload::Web, format!(": {}; {SERVER}", round % 3), "hello\n"),
            _ => (AppType::Static, Workload::Site, "a page".to_owned(), "a page"),
        };
        let began = Instant::now();
        let image = loop {
            match agent.image(&id, app_type, &content).await {
                Ok(image) => break image,
                // Only an upload that no build names yet may be gone, after its time of grace.
                Err(gone) if gone.code == ErrorCode::NotFound && began.elapsed() < LIMIT => forget(agent, &id).await,
                Err(other) => panic!("{id}: {other}\n{}", agent.log()),
            }
        };
        agent.put(&id, 1, &image, workload).await.unwrap();
        let ready = agent.until_ready(&id).await;
        assert!(ready.state.is_ready(), "{id}: {:?}\n{}", ready.state, agent.log());
        assert_eq!(visit(&ready).await, shown, "{id}");
        // The instance alone needs its image from here on; it is started from it once more.
        forget(agent, &id).await;
        agent.stop(&id, 2).await.unwrap();
        agent.until(&id, |status| status.state.is_over()).await;
        agent.put(&id, 3, &image, workload).await.unwrap();
        let ready = agent.until_ready(&id).await;
        assert!(ready.state.is_ready() && has(agent, &image), "{id}: {:?}\n{}", ready.state, agent.log());
        agent.delete(&id, 3).await.unwrap();
    }
}

#[tokio::test]
async fn deploys_at_once_with_cleaning_lose_nothing_and_end_at_what_is_needed() {
    const GRACE: &str = "[images]\nkeep_uploads_seconds = 1\npause_seconds = 0\n";
    let Some(mut agent) = Agent::start_with(15, |_| GRACE.to_owned()).await else { return };
    // What the first deploy of each kind makes is there to stay.
    deploys(&agent, 0, 2).await;
    agent.restart_with_images(AT_ONCE).await;
    let is_clean = |agent: &Agent| count(agent, "images/blobs/sha256") == 3 && count(agent, "images/tmp") == 0;
    agent.until_files("the node's own image alone", |_| is_clean(&agent)).await;
    let before = agent.files();
    agent.restart_with_images(GRACE).await;

    let workers = (1..=3).map(|worker| deploys(&agent, worker, 2));
    futures_util::future::join_all(workers).await;
    agent.restart_with_images(AT_ONCE).await;
    agent.until_files(&format!("before: {before:#?}"), |now| now == before).await;
}
