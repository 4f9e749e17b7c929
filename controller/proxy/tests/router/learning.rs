//! How the router learns its table and addresses, and what it does without those who tell it.

use drowse_api::InstanceId;
use drowse_proxy::RouterConfig;

use crate::support::*;

#[tokio::test]
async fn a_router_starts_and_serves_with_controller_and_agent_gone() {
    let (instance, _) = scripted(|_| ok("x")).await;
    let mut world = World::new(&[instance]).await;
    world.controller = None;
    world.agent = None;
    assert_eq!(world.get("/").await.status, 200, "both gone under a running router");
    world.router = None;
    world.start_router();
    assert_eq!(world.get("/").await.status, 200, "both gone at its start");
}

#[tokio::test]
async fn a_router_without_any_table_says_so() {
    let mut world = World::new(&[]).await;
    world.controller = None;
    world.router = None;
    std::fs::remove_dir_all(&world.config.data_dir).unwrap();
    world.start_router();
    assert_eq!(world.get("/").await.code(), "router-starting");
}

#[tokio::test]
async fn a_damaged_file_is_left_aside_and_replaced_by_what_the_streams_bring() {
    let (instance, _) = scripted(|_| ok("x")).await;
    let mut world = World::new(&[instance]).await;
    world.router = None;
    for name in ["routes.json", "endpoints.json"] {
        let path = world.config.data_dir.join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    }
    world.start_router();
    for _ in 0..200 {
        if world.get("/").await.status == 200 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it does not serve");
}

#[tokio::test]
async fn a_controller_that_was_restarted_is_told_again_and_its_new_table_is_taken() {
    let (instance, _) = scripted(|_| ok("x")).await;
    let mut world = World::new(&[instance]).await;
    world.controller = None;
    world.reports.lock().unwrap().clear();
    world.start_controller();
    until("the same revision is reported again", || world.reports.lock().unwrap().iter().any(|r| r.applied == 1)).await;
    world.controller = None;
    let revision = world.change_table(|table| drop(table.hosts.remove(&host("shop"))));
    world.start_controller();
    world.settled(revision).await;
    assert_eq!(world.get("/").await.code(), "unknown-host");
}

#[tokio::test]
async fn an_instance_that_moved_is_dialled_at_its_new_address() {
    let (before, _) = scripted(|_| ok("before")).await;
    let (after, _) = scripted(|_| ok("after")).await;
    let world = World::new(&[before]).await;
    assert_eq!(world.get("/").await.text(), "before");
    world.endpoints.send_modify(|e| {
        e.ready.insert(InstanceId::parse("i0").unwrap(), after);
    });
    for _ in 0..500 {
        let text = world.get("/").await.text();
        if text == "after" {
            return;
        }
        assert_eq!(text, "before");
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    panic!("it still goes to the old address");
}

#[test]
fn unknown_keys_in_the_configuration_are_refused() {
    let good = serde_json::json!({
        "listen": ["127.0.0.1:8080"], "public_port": 8080, "data_dir": "/x", "node": "node-1",
        "agent_socket": "/a", "controller_socket": "/c", "api_address": "127.0.0.1:9480",
        "limits": { "queued": 10 }
    });
    assert_eq!(serde_json::from_value::<RouterConfig>(good.clone()).unwrap().limits.queued, 10);
    let mut bad = good.clone();
    bad["lisen"] = 1.into();
    assert!(serde_json::from_value::<RouterConfig>(bad).unwrap_err().to_string().contains("unknown field `lisen`"));
    let mut bad = good;
    bad["limits"]["queue"] = 1.into();
    assert!(serde_json::from_value::<RouterConfig>(bad).is_err());
}
