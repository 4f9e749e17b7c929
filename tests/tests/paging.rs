//! Apps whose memory is in swap while they sleep: nobody who visits them notices, and every view says so.

use drowse_api::instance::InstanceState;
use drowse_api::sleep::Depth;
use drowse_tests::apps::App;
use drowse_tests::swap::Swap;
use drowse_tests::world::{Options, PATIENCE, World};
use drowse_tests::{needs_a_world, skip, wait};

#[tokio::test(flavor = "multi_thread")]
async fn a_paged_app_is_told_as_such_everywhere_and_wakes_unnoticed() {
    needs_a_world!();
    let _swap = match Swap::on("256M") {
        Ok(swap) => swap,
        Err(why) => skip!("nothing can be paged out here: {why:#}"),
    };
    let options = Options { agent_lines: "router_patience_seconds = 0\n".to_owned(), ..Options::default() };
    let world = World::with(options).await;
    world.deploy("shop", &App::probe("one")).await;
    let visitor = world.visitor();
    assert_eq!(visitor.get("shop", "/count").await.expect("an answer").ok().expect("200"), "1");
    wait::until("it is paged", PATIENCE, async || {
        let told = world.drowse(&["sleep", "shop", "--depth", "paged"]);
        let status = world.instance("shop").await;
        matches!(status.state, InstanceState::Frozen { depth: Depth::Paged, .. }).then_some(told)
    })
    .await;
    assert!(world.instance("shop").await.in_swap.is_some_and(|size| size.0 > 1 << 20));
    let listed = world.drowse(&["ls"]).ok();
    assert!(listed.contains("FROZEN (paged) since "), "{listed}");
    assert!(world.drowse(&["info", "shop"]).ok().contains("(paged)"));
    let explained = world.drowse(&["explain", "shop"]).ok();
    assert!(explained.contains("asleep: paged since ") && explained.contains(" in swap: told to by"), "{explained}");
    assert!(explained.contains("sleeps deeper (paged): "), "{explained}");

    let answer = visitor.get("shop", "/count").await.expect("an answer");
    assert_eq!(answer.header("x-drowse-state"), "woken-paged");
    assert_eq!(answer.ok().expect("200"), "2", "it is the same process");
}
