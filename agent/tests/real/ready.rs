//! Sandboxes that are made ahead: taken once, replaced, of no use when damaged, and gone with their agent.

use std::collections::BTreeSet;

use drowse_api::deployment::AppType;
use drowse_api::instance::{InstanceStatus, Workload};

use crate::SERVER;
use crate::support::{Agent, visit};

fn number_of_link(name: &str) -> u32 {
    let path = format!("/sys/class/net/{name}/ifindex");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().parse().unwrap()
}

fn namespace(status: &InstanceStatus, kind: &str) -> String {
    let pid = status.process.unwrap().pid;
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()
}

fn numbers(links: &[(String, u32)]) -> BTreeSet<u32> {
    links.iter().map(|(_, number)| *number).collect()
}

#[tokio::test]
async fn what_is_ready_is_taken_once_and_made_again_and_what_is_damaged_is_not_used() {
    let Some(agent) = Agent::start_with(17, |_| "ready_sandboxes = 2\n".to_owned()).await else { return };
    let image = agent.image("one", AppType::Bundle, SERVER).await.unwrap();
    let first = numbers(&agent.until_ready_ahead(2).await);
    for id in ["a", "b"] {
        agent.put(id, 1, &image, Workload::Web).await.unwrap();
    }
    let (a, b) = (agent.until_ready("a").await, agent.until_ready("b").await);
    assert_eq!((visit(&a).await.as_str(), visit(&b).await.as_str()), ("hello\n", "hello\n"));
    let (of_a, of_b) = (number_of_link("a17-a"), number_of_link("a17-b"));
    assert!(first.contains(&of_a) || first.contains(&of_b), "{of_a} and {of_b} were made ahead: {first:?}");
    assert_ne!(of_a, of_b);
    for kind in ["net", "ipc", "uts", "mnt", "pid"] {
        assert_ne!(namespace(&a, kind), namespace(&b, kind), "{kind}");
    }
    let second = agent.until_ready_ahead(2).await;
    assert!(numbers(&second).is_disjoint(&BTreeSet::from([of_a, of_b])), "{second:?}");

    for (name, _) in &second {
        let removed = std::process::Command::new("ip").args(["link", "del", name]).status().unwrap();
        assert!(removed.success());
    }
    agent.put("c", 1, &image, Workload::Web).await.unwrap();
    let c = agent.until_ready("c").await;
    assert_eq!(visit(&c).await, "hello\n");
    assert!(!numbers(&second).contains(&number_of_link("a17-c")), "its link is one that is there");
}

#[tokio::test]
async fn what_was_ready_is_gone_with_its_agent_and_the_next_has_as_many_as_it_is_told() {
    let Some(mut agent) = Agent::start_with(18, |_| "ready_sandboxes = 3\n".to_owned()).await else { return };
    let image = agent.image("one", AppType::Bundle, SERVER).await.unwrap();
    let before = numbers(&agent.until_ready_ahead(3).await);
    agent.kill();
    agent.restart().await;
    let after = numbers(&agent.until_ready_ahead(3).await);
    assert!(after.is_disjoint(&before), "{after:?} are other links than {before:?}");
    agent.put("a", 1, &image, Workload::Web).await.unwrap();
    let ready = agent.until_ready("a").await;

    let config = std::fs::read_to_string(agent.config()).unwrap();
    for size in [0, 1] {
        agent.kill();
        std::fs::write(agent.config(), config.replace("ready_sandboxes = 3", &format!("ready_sandboxes = {size}")))
            .unwrap();
        agent.restart().await;
        assert_eq!(agent.until_ready("a").await, ready, "what runs is none of it");
        agent.until_ready_ahead(size).await;
        let id = format!("with-{size}");
        agent.put(&id, 1, &image, Workload::Web).await.unwrap();
        assert_eq!(visit(&agent.until_ready(&id).await).await, "hello\n");
        agent.until_ready_ahead(size).await;
    }
}
