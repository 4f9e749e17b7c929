//! The harness itself: what it promises to the other tests.

use drowse_tests::needs_a_world;
use drowse_tests::world::{Options, World};

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_world_comes_and_goes_without_a_trace() {
    needs_a_world!();
    let world = World::start().await;
    let base = world.base().to_owned();
    assert!(world.leftovers().iter().any(|line| line.contains("drowse-agent")), "{:?}", world.leftovers());
    drop(world);
    assert!(!base.exists(), "{} is still there", base.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_worlds_live_beside_each_other() {
    needs_a_world!();
    let (a, b) = tokio::join!(World::start(), World::start());
    assert_ne!(a.names().base, b.names().base);
    let found = b.leftovers();
    drop(a);
    let now = b.leftovers();
    let taken: Vec<_> = found.iter().filter(|line| !now.contains(line)).collect();
    assert!(taken.is_empty(), "the end of one world took something from another: {taken:?}");
    b.visitor().get("nobody", "/").await.expect("the other's router still answers");
}

#[test]
fn a_world_that_was_only_prepared_leaves_nothing() {
    needs_a_world!();
    let world = World::prepared(&Options::default());
    assert_eq!(world.leftovers(), Vec::<String>::new());
}
