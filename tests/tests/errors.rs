//! Bad input and unfit hosts: one clear error that says what to do, and nothing lost or left behind.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use drowse_tests::apps::App;
use drowse_tests::world::{Options, World};
use drowse_tests::{needs_a_world, wait};

/// The error is one sentence or two, not a stack of them.
fn is_clear(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.to_lowercase().contains(&word.to_lowercase()), "{word:?} is missing in: {message}");
    }
    assert!(message.lines().count() <= 12, "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_users_get_wrong_is_told_with_what_to_do() {
    needs_a_world!();
    let world = World::start().await;
    let unknown = world.drowse(&["logs", "nowhere"]).fails_with(3);
    is_clear(&unknown, &["nowhere"]);
    let app = App::probe("one");
    let folder = app.path().to_string_lossy().into_owned();
    is_clear(&world.drowse(&["deploy", &folder, "--name", "My_Shop"]).fails_with(2), &["a-z, 0-9 and hyphen"]);
    is_clear(&world.drowse(&["deploy", &folder, "--name", "api"]).fails_with(2), &["reserved"]);
    let empty = App::empty(drowse_api::deployment::AppType::Static);
    let told = world.drowse(&["deploy", &empty.path().to_string_lossy(), "--name", "shop"]).fails_with(2);
    is_clear(&told, &["package.json", "requirements.txt", "index.html"]);
    is_clear(&world.drowse(&["deploy", "/no/such/folder", "--name", "shop"]).fails_with(2), &["/no/such/folder"]);
    is_clear(&world.drowse(&["env", "set", "shop", "NOT A NAME=x"]).fails_with(2), &["NOT A NAME"]);
    let broken = App::probe("one").file("requirements.txt", "./no-such-package\n");
    let told = world.drowse(&["deploy", &broken.path().to_string_lossy(), "--name", "shop"]).fails_with(10);
    assert!(told.contains("no-such-package"), "{told}");
    let listed = world.instances().await.expect("the agent answers");
    assert_eq!(listed, [], "nothing of all this runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_controller_the_command_line_says_where_it_looked() {
    needs_a_world!();
    let mut world = World::start().await;
    world.kill_controller();
    let told = world.drowse(&["ls"]).fails_with(7);
    is_clear(&told, &["controller.sock"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_named() {
    needs_a_world!();
    let mut world = World::prepared(&Options::default());
    let taken = TcpListener::bind(world.names().visitors).expect("a free port");
    let port = world.names().visitors.port().to_string();
    is_clear(&world.router_refuses(), &[&port, "in use"]);
    drop(taken);
    let taken = TcpListener::bind(world.names().api).expect("a free port");
    let port = world.names().api.port().to_string();
    world.start_agent().await;
    is_clear(&world.controller_refuses(), &[&port, "in use"]);
    drop(taken);
    world.start_controller().await;
    world.start_router().await;
}

#[test]
fn without_root_the_agent_says_that_it_needs_it() {
    needs_a_world!();
    let world = World::prepared(&Options::default());
    let told = world.agent_refuses_when(|program| program.ids = Some((65_534, 65_534)));
    is_clear(&told, &["root"]);
}

#[test]
fn an_unusable_cgroup_layout_is_named() {
    needs_a_world!();
    let world = World::prepared(&Options::default());
    let told = world.agent_refuses_when(|program| {
        program.after_mounting("mount -t tmpfs none /sys/fs/cgroup", &[]);
    });
    is_clear(&told, &["cgroup"]);
}

#[test]
fn a_wrong_configuration_is_told_with_file_and_key() {
    needs_a_world!();
    let world = World::prepared(&Options { agent_lines: "nodde = \"x\"\n".to_owned(), ..Options::default() });
    is_clear(&world.agent_refuses(), &["agent.toml", "nodde"]);
    // Cleaning up needs it to be right again.
    let config = fs::read_to_string(world.names().agent_config()).expect("written");
    fs::write(world.names().agent_config(), config.replace("nodde = \"x\"\n", "")).expect("written");
    let world = World::prepared(&Options { limits: "no_such_limit = 1".to_owned(), ..Options::default() });
    is_clear(&world.controller_refuses(), &["controller.toml", "no_such_limit"]);
    is_clear(&world.router_refuses(), &["controller.toml", "no_such_limit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_criu_is_a_warning_of_doctor_and_nothing_else() {
    needs_a_world!();
    let mut world = World::prepared(&Options::default());
    let config = fs::read_to_string(world.names().agent_config()).expect("written");
    let without: String =
        config.lines().filter(|line| !line.starts_with("criu")).map(|line| format!("{line}\n")).collect();
    fs::write(world.names().agent_config(), format!("{without}criu = \"/no/such/criu\"\n")).expect("written");
    world.start_agent().await;
    world.start_controller().await;
    world.start_router().await;
    world.deploy("shop", &App::page("a page")).await;
    world.serves("shop", "/", "a page").await;
    let report = world.drowse(&["doctor"]);
    assert_eq!(report.code, Some(0), "it is no failure: {}{}", report.stdout, report.stderr);
    is_clear(&report.stdout.lines().filter(|line| line.to_lowercase().contains("criu")).collect::<String>(), &["criu"]);
}

/// Every file below a folder, with its size.
fn files_below(folder: &Path) -> Vec<(std::path::PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        match entry.metadata() {
            Ok(meta) if meta.is_dir() => found.extend(files_below(&entry.path())),
            Ok(meta) if meta.is_file() => found.push((entry.path(), meta.len())),
            _ => {}
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupted_database_is_refused_and_not_overwritten() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::page("a page")).await;
    world.stop_controller();
    let database = world.base().join("controller/drowse.db");
    for beside in ["drowse.db-wal", "drowse.db-shm"] {
        let _ = fs::remove_file(world.base().join("controller").join(beside));
    }
    let good = fs::read(&database).expect("the database");
    let mut bad = good.clone();
    bad.iter_mut().skip(16).take(4096).for_each(|byte| *byte ^= 0x5a);
    fs::write(&database, &bad).expect("written");
    is_clear(&world.controller_refuses(), &["drowse.db"]);
    assert_eq!(fs::read(&database).expect("still there").len(), bad.len(), "evidence is kept");
    // Visitors are served all the while, and the mended database is taken up.
    world.serves("shop", "/", "a page").await;
    fs::write(&database, &good).expect("written");
    world.start_controller().await;
    assert_eq!(world.drowse(&["ls", "--output", "json"]).json().as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupted_state_of_the_agent_is_told_and_kept_and_costs_no_other_app() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    world.deploy("other", &App::probe("one")).await;
    let (shop, other) = (world.instance("shop").await, world.instance("other").await);
    world.kill_agent();
    let record = world.base().join("agent/instances").join(shop.id.as_str()).join("record");
    let mut bytes = fs::read(&record).expect("the record");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&record, &bytes).expect("written");
    world.start_agent().await;
    let kept = world.instance_becomes(&other.id, "is adopted", |status| status.state.is_ready()).await;
    assert_eq!(kept.process, other.process, "the other app was not touched");
    assert!(world.logs().contains(shop.id.as_str()), "the log names the record");
    // The controller wants it running, so it comes back, in one copy.
    world.serves("shop", "/", "one ").await;
    wait::until("one copy of it runs", Duration::from_secs(30), async || {
        let all = world.instances().await.ok()?;
        (all.iter().filter(|status| status.app.as_str() == "shop" && status.process.is_some()).count() == 1)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_newer_version_wrote_is_refused_and_what_runs_goes_on() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let shop = world.instance("shop").await;
    world.stop_controller();
    world.stop_agent();

    let database = world.base().join("controller/drowse.db");
    let good = fs::read(&database).expect("the database");
    let mut newer = good.clone();
    // `user_version` in SQLite's file header: four bytes, big-endian, at 60.
    newer[60..64].copy_from_slice(&99_u32.to_be_bytes());
    fs::write(&database, &newer).expect("written");
    is_clear(&world.controller_refuses(), &["drowse.db", "99", "newer"]);
    fs::write(&database, &good).expect("written");

    let record = world.base().join("agent/instances").join(shop.id.as_str()).join("record");
    let good = fs::read_to_string(&record).expect("the record");
    let (magic, rest) = good.split_once(" v").expect("a version");
    let (_, rest) = rest.split_once(' ').expect("a checksum");
    fs::write(&record, format!("{magic} v99 {rest}")).expect("written");
    is_clear(&world.agent_refuses(), &["record", "99", "newer"]);
    world.serves("shop", "/", "one ").await;
    fs::write(&record, &good).expect("written");

    world.start_agent().await;
    world.start_controller().await;
    let adopted = world.instance_becomes(&shop.id, "is adopted", |status| status.state.is_ready()).await;
    assert_eq!(adopted.process, shop.process, "it ran all the while");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_fails_the_deploy_alone_and_room_mends_it() {
    needs_a_world!();
    let images = drowse_tests::machine::stacks_dir().join("images");
    let needed: u64 = files_below(&images).iter().map(|(_, size)| size.next_multiple_of(4096)).sum();
    let mib = u32::try_from((needed >> 20) + 220).expect("base images are small");
    let world = World::with(Options { agent_disk: Some(mib), ..Options::default() }).await;
    world.deploy("page", &App::page("a page")).await;
    let filler = world.base().join("agent/filler");
    let big = App::page("big").file("random", noise(40 << 20));
    fs::write(&filler, noise(185 << 20)).expect("it fits");
    let told = world.drowse(&["deploy", &big.path().to_string_lossy(), "--name", "big"]).fails_with(6);
    is_clear(&told, &["disk"]);
    world.serves("page", "/", "a page").await;
    fs::remove_file(&filler).expect("it was there");
    let _ = world.drowse(&["deploy", &big.path().to_string_lossy(), "--name", "big"]).ok();
    world.serves("big", "/", "big").await;
}

/// Bytes that no compression makes smaller.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}
