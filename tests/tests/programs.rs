//! Real programs go to disk and come back as they were. All of them, with times, are `scripts/programs`.

use drowse_api::sleep::Depth;
use drowse_tests::database::{self, Database};
use drowse_tests::programs::{self, Deployed};
use drowse_tests::world::{Options, World};
use drowse_tests::{needs_a_world, skip};
use futures_util::future::join_all;

fn no_criu() -> bool {
    std::env::var_os("DROWSE_TEST_CRIU").is_none()
}

fn options() -> Options {
    Options { agent_lines: "router_patience_seconds = 0\n".to_owned(), ..Options::default() }
}

/// Deploys them, and wakes each twice from disk: the same process, with what it had in memory.
async fn come_back(world: &World, names: &[&str], variables: &[(&str, &str)]) {
    let deployed = join_all(names.iter().map(|name| async move {
        let program = programs::of(name).expect("known");
        Deployed::new(world, program, variables).await.unwrap_or_else(|error| panic!("{error:#}"))
    }));
    for mut program in deployed.await {
        let name = program.program.name;
        for _ in 0..2 {
            let slept = program.sleep(world, Depth::Snapshot).await.unwrap_or_else(|error| panic!("{error:#}"));
            slept.unwrap_or_else(|why| panic!("{name} cannot be put to disk: {why}"));
            program.wake(world, Depth::Snapshot).await.unwrap_or_else(|error| panic!("{error:#}"));
            for _ in 0..5 {
                program.visit(world).await.unwrap_or_else(|error| panic!("{name}, after a wake: {error:#}"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_with_children_200_threads_and_node_with_workers_come_back_from_disk() {
    needs_a_world!();
    if no_criu() {
        skip!("no CRIU that works on this kernel (scripts/find-criu), or DROWSE_TEST_CRIU is not set");
    }
    let world = World::with(options()).await;
    come_back(&world, &["bash", "threads", "node-workers"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fastapi_and_django_with_sqlite_come_back_from_disk_by_their_default_start_commands() {
    needs_a_world!();
    if no_criu() {
        skip!("no CRIU that works on this kernel (scripts/find-criu), or DROWSE_TEST_CRIU is not set");
    }
    let world = World::with(options()).await;
    come_back(&world, &["uvicorn", "django"], &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_of_database_connections_connects_again_after_a_wake_from_disk() {
    needs_a_world!();
    if no_criu() {
        skip!("no CRIU that works on this kernel (scripts/find-criu), or DROWSE_TEST_CRIU is not set");
    }
    if let Err(why) = database::is_possible() {
        skip!("{why}");
    }
    let world = World::with(options()).await;
    let database = Database::start(&world).await.unwrap_or_else(|error| panic!("{error:#}"));
    come_back(&world, &["postgres"], &[("DATABASE_URL", &database.url())]).await;
}
