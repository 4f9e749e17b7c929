//! Hostile archives through the agent's own doors: uploaded, built, refused, and nothing of them is left.

use std::collections::BTreeSet;

use drowse_api::ErrorCode;
use drowse_api::deployment::AppType;
use drowse_rootfs::hostile::{Case, Door, bombs, corpus, make_canary, picture};
use futures_util::StreamExt;
use http::Method;

use crate::support::Agent;

const AT_ONCE: &str = "[images]\nkeep_uploads_seconds = 0\npause_seconds = 0\n";
/// Builds that go on at once.
const SIDE_BY_SIDE: usize = 4;

/// The first case of each kind of refusal; the tests of the store take all of them.
fn one_of_each(cases: Vec<Case>) -> Vec<(AppType, Case)> {
    let mut seen = BTreeSet::new();
    let mut chosen = Vec::new();
    for case in cases {
        for door in case.doors {
            let app_type = match door {
                Door::Upload => AppType::Static,
                Door::Bundle => AppType::Bundle,
                Door::Layer => continue,
            };
            let reason = case.error.rsplit_once(" is refused: ").map_or(case.error.clone(), |(_, why)| why.to_owned());
            if seen.insert((app_type.to_string(), reason)) {
                chosen.push((app_type, case.clone()));
            }
        }
    }
    chosen
}

async fn refused(agent: &Agent, number: usize, app_type: AppType, case: Case) -> Option<String> {
    let id = format!("b{number}");
    let answer = agent.build_of(&id, app_type, case.archive).await;
    let path = format!("/v1/builds/{id}");
    let () = agent.client.call(Method::DELETE, &path, None::<&()>).await.expect("deleted");
    match answer {
        Err(told) if told.code == ErrorCode::BadImage && told.detail.contains(&case.error) => None,
        other => Some(format!("{app_type}: {other:?} instead of {:?}", case.error)),
    }
}

#[tokio::test]
async fn hostile_uploads_are_refused_in_words_and_leave_nothing() {
    let Some(mut agent) = Agent::start_with(23, |_| AT_ONCE.to_owned()).await else { return };
    let outside = agent.folder.path().join("outside");
    make_canary(&outside);
    let swept = |files: &[String]| files.iter().any(|file| file == "data/images/sweep.lock");
    agent.until_files("not swept", swept).await;
    let (mut before, canary) = (agent.files(), picture(&outside));
    // What any build makes, and what stays.
    before.extend(["data/builds", "data/users.json"].map(ToOwned::to_owned));
    before.sort();
    agent.restart_with_images("[images]\n").await;

    let cases = one_of_each(corpus(&outside)).into_iter().chain(one_of_each(bombs()));
    let answers = cases.enumerate().map(|(number, (app_type, case))| refused(&agent, number, app_type, case));
    let answers: Vec<_> = futures_util::stream::iter(answers).buffer_unordered(SIDE_BY_SIDE).collect().await;
    assert!(answers.len() > 60, "{}", answers.len());
    let wrong: Vec<_> = answers.into_iter().flatten().collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    for folder in ["images/tmp", "builds"] {
        let left: Vec<_> = std::fs::read_dir(agent.data(folder)).expect("reads").collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(picture(&outside), canary, "something outside changed");
    agent.restart_with_images(AT_ONCE).await;
    agent.until_files(&format!("before: {before:#?}"), |now| now == before).await;
}
