//! What apps cannot do: to each other, to the host, to the platform.

use std::os::unix::fs::PermissionsExt;

use drowse_tests::apps::App;
use drowse_tests::needs_a_world;
use drowse_tests::world::{World, main_process};
use tokio::net::TcpListener;

#[tokio::test(flavor = "multi_thread")]
async fn an_app_has_no_capability_no_new_privileges_and_a_seccomp_filter() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let status = world.visitor().get("shop", "/status").await.expect("an answer").ok().expect("200");
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_start_matches(':').trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    let uids: Vec<u32> = field("Uid").split_whitespace().filter_map(|uid| uid.parse().ok()).collect();
    assert!(uids.iter().all(|uid| *uid >= world.names().first_host_id), "an id of the user's own range: {uids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_reaches_neither_its_neighbours_nor_the_host_but_the_public_door() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    world.deploy("other", &App::probe("one")).await;
    let neighbour = world.instance("other").await.address.expect("it has an address");
    let visitor = world.visitor();
    let tries = async |host: &str, port: u16| {
        let path = format!("/connect?host={host}&port={port}");
        visitor.get("shop", &path).await.expect("an answer").ok().expect("200")
    };
    assert_ne!(tries(&neighbour.ip().to_string(), neighbour.port()).await, "connected", "a neighbour");
    // A service of the host on every one of its addresses, such as a database left open.
    let service = TcpListener::bind("0.0.0.0:0").await.expect("a listener");
    let port = service.local_addr().expect("bound").port();
    assert_ne!(tries("169.254.1.1", port).await, "connected", "the host, by the gateway's address");
    for address in own_addresses() {
        assert_ne!(tries(&address, port).await, "connected", "the host at {address}");
    }
    assert_ne!(tries("169.254.169.254", 80).await, "connected", "link-local metadata");
    assert_eq!(tries("127.0.0.1", 8080).await, "connected", "its own loopback is its own");
}

/// The host's addresses besides loopback.
fn own_addresses() -> Vec<String> {
    let output = std::process::Command::new("hostname").arg("-I").output().expect("hostname runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.split_whitespace().filter(|address| !address.contains(':')).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_sees_its_own_processes_and_none_of_the_hosts_secrets() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    let read = async |file: &str| visitor.get("shop", &format!("/read?file={file}")).await.expect("an answer");
    for file in ["/proc/kcore", "/proc/sysrq-trigger", "/proc/timer_list", "/sys/firmware/acpi/tables/DSDT"] {
        let answer = read(file).await;
        assert!(answer.status == 404 || answer.text().is_empty(), "{file} can be read");
    }
    let init = read("/proc/1/cmdline").await.text();
    assert!(!init.contains("systemd") && !init.contains(world.base().to_str().expect("text")), "{init}");
    let mounts = read("/proc/self/mountinfo").await.text();
    let base = world.base().to_string_lossy().into_owned();
    for line in mounts.lines() {
        let point = line.split(' ').nth(4).unwrap_or_default();
        assert!(!point.starts_with(&base), "a folder of the host is mounted: {line}");
    }
    let written = visitor.get("shop", "/write?file=/proc/sys/kernel/hostname&text=x").await;
    assert!(written.is_err() || !written.is_ok_and(|answer| answer.status == 200), "/proc/sys is writable");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_are_in_cgroups_of_their_user_with_init_apart_from_the_app() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let instance = world.instance("shop").await;
    let process = main_process(&instance).expect("it runs");
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).expect("it runs");
    let inside = format!("/{}/user-{}/{}/app", world.names().cgroup_root, instance.user, instance.id);
    assert!(groups.lines().filter(|line| line.contains(&inside)).count() >= 1, "{groups}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_tenants_write_is_closed_to_other_users_of_the_host() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let data = world.base().join("agent");
    // As a folder is that somebody made for the agent.
    std::fs::set_permissions(&data, PermissionsExt::from_mode(0o755)).expect("opened");
    world.stop_agent();
    world.start_agent().await;
    let mode = std::fs::metadata(&data).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "only root enters {}", data.display());
    let sockets = std::fs::read_dir(world.names().run.join("agent")).expect("the agent's sockets").flatten();
    for entry in sockets.filter(|entry| entry.file_name().to_string_lossy().ends_with(".sock")) {
        let mode = entry.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o007, 0, "others reach {}", entry.path().display());
    }
}
