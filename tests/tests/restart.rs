//! Instances that end: started again under the same id, with a budget that nothing forgets.

use std::time::Duration;

use drowse_api::event::EventKind;
use drowse_api::instance::{FailureReason, InstanceState, InstanceStatus};
use drowse_tests::apps::App;
use drowse_tests::needs_a_world;
use drowse_tests::wait;
use drowse_tests::world::{World, failure, main_process};

/// Ends the app by asking it to, and waits until the next start of it is ready.
async fn falls_and_returns(world: &World, app: &str, how: &str) -> InstanceStatus {
    let before = world.instance(app).await;
    // It dies with the request: whatever the visitor gets is not what is tested here.
    let _ = world.visitor().post(app, how, "").await;
    let after = world.ready_again(&before.id, main_process(&before)).await;
    assert_eq!(after.restarts, before.restarts + 1, "one more start: {after:?}");
    world.serves(app, "/", "one ").await;
    after
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_app_ends_with_it_is_started_again_under_the_same_id() {
    needs_a_world!();
    let world = World::start().await;
    let probe = App::probe("one");
    world.deploy("codes", &probe).await;
    world.deploy("signals", &probe).await;
    // Side by side, since the delay doubles with each of them.
    tokio::join!(
        async {
            for code in [0, 1, 42, 255] {
                falls_and_returns(&world, "codes", &format!("/exit?code={code}")).await;
            }
        },
        async {
            for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT] {
                falls_and_returns(&world, "signals", &format!("/signal?number={signal}")).await;
            }
        },
    );
    let restarts = |app: &'static str| {
        let world = &world;
        async move {
            wait::until("every try is an event", Duration::from_secs(10), async || {
                let events = world.events(app).await;
                let told: Vec<_> = events.into_iter().filter(|event| event.kind == EventKind::Restart).collect();
                (told.len() >= 4).then_some(told)
            })
            .await
        }
    };
    let told = restarts("codes").await;
    assert!(told.iter().any(|event| event.message.contains("42")), "{told:?}");
    let told = restarts("signals").await;
    assert!(told.iter().any(|event| event.message.contains("SIGSEGV")), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_count_and_the_delay_survive_agent_and_controller_and_a_deploy_resets_them() {
    needs_a_world!();
    let mut world = World::start().await;
    // Once it has the mark, it ends at each start.
    let app = App::probe("one").file(".profile", "if [ -e mark ]; then export PROBE_EXIT=7; fi\n");
    world.deploy("faller", &app).await;
    world.visitor().post("faller", "/write?file=mark&text=x", "").await.expect("an answer").ok().expect("written");
    let id = world.instance("faller").await.id;
    let _ = world.visitor().post("faller", "/exit?code=7", "").await;
    let in_backoff = |least: u32| move |status: &InstanceStatus| matches!(status.state, InstanceState::Backoff { attempt, .. } if attempt >= least);
    let before = world.instance_becomes(&id, "waits for its fifth try", in_backoff(5)).await;
    let InstanceState::Backoff { attempt, retry_at, .. } = before.state else { unreachable!("waited for it") };

    world.kill_agent();
    world.kill_controller();
    world.start_agent().await;
    world.start_controller().await;
    let after = world.instance_becomes(&id, "is known again", |status| !status.state.is_over()).await;
    match after.state {
        InstanceState::Backoff { attempt: a, retry_at: r, .. } if a == attempt => assert_eq!(r, retry_at),
        // The next try may have come meanwhile.
        _ => assert!(after.restarts >= attempt, "the count was forgotten: {after:?}"),
    }
    let later = world.instance_becomes(&id, "goes on counting", in_backoff(attempt + 1)).await;
    assert!(failure(&later.state).expect("a cause").detail.contains('7'), "{later:?}");

    world.deploy("faller", &App::probe("two")).await;
    world.serves("faller", "/", "two ").await;
    assert_eq!(world.instance("faller").await.restarts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_past_its_memory_limit_is_killed_alone_and_told_why() {
    needs_a_world!();
    let world = World::start().await;
    let probe = App::probe("one");
    world.deploy("greedy", &probe).await;
    world.deploy("sibling", &probe).await;
    let (greedy, sibling) = (world.instance("greedy").await, world.instance("sibling").await);
    // The limit is real but not reached: nothing happens.
    world.visitor().post("greedy", "/allocate?mib=200", "").await.expect("an answer").ok().expect("it fits");
    let resident = main_process(&greedy).expect("it runs").resident();
    assert!(resident > 200 << 20, "the app itself holds the memory: {resident}");

    let answer = world.visitor().post("greedy", "/allocate?mib=600", "").await;
    assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status.is_server_error()), "512 MiB are its limit");
    let after = world.ready_again(&greedy.id, main_process(&greedy)).await;
    assert_eq!(after.restarts, 1);
    wait::until("an event names the memory limit", Duration::from_secs(10), async || {
        let events = world.events("greedy").await;
        events.iter().any(|event| event.message.to_lowercase().contains("memory")).then_some(())
    })
    .await;
    assert_eq!(world.instance("sibling").await.process, sibling.process, "the sibling was not touched");
    world.serves("sibling", "/", "one ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_eats_memory_at_its_first_start_fails_as_out_of_memory() {
    needs_a_world!();
    let world = World::start().await;
    let eater =
        App::probe("one").file("Procfile", "web: exec python3 -c 'x = bytes([120]) * (1 << 30); print(len(x))'\n");
    let mut pictures = world.watch_instances().await.expect("the agent answers");
    let (failed, reason) = tokio::join!(world.try_deploy("eater", &eater), async {
        loop {
            let picture = pictures.next().await.expect("pictures").expect("the stream goes on");
            let failures = picture.instances.iter().filter_map(|status| failure(&status.state));
            if let Some(found) = failures.map(|failure| failure.reason).next() {
                return found;
            }
        }
    });
    assert_eq!(reason, FailureReason::OutOfMemory);
    let problem = failed.expect("accepted").deployment.problem.expect("a reason");
    assert!(problem.to_string().to_lowercase().contains("memory"), "{problem}");
}
