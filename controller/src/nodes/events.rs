//! Taking over a node's events, each exactly once: the event and how far we are stand in one
//! transaction.

use std::time::Duration;

use drowse_api::client::{Client, Lines};
use drowse_api::event::AgentEvent;
use drowse_api::{NodeName, Problem};

use crate::desired::{Desired, Fact, Step};
use crate::ledger::Ledger;
use crate::model::Cursor;

/// How many events are stored at once at most.
const BATCH: usize = 200;

/// How long the rest of a batch is waited for.
const LINGER: Duration = Duration::from_millis(20);

/// Follows the node's events for ever.
pub(super) async fn follow(node: NodeName, client: Client, ledger: Ledger) {
    let mut failures = 0;
    loop {
        match follow_once(&node, &client, &ledger).await {
            Ok(()) => failures = 0,
            Err(problem) => {
                failures += 1;
                tracing::debug!(%node, %problem, "its events broke off");
            }
        }
        tokio::time::sleep(super::pause(failures)).await;
    }
}

async fn follow_once(node: &NodeName, client: &Client, ledger: &Ledger) -> Result<(), Problem> {
    let after = cursor(&ledger.desired(), node);
    let mut lines = client.lines(&format!("/v1/events?after={after}")).await?;
    while let Some(batch) = next_batch(&mut lines).await? {
        let step = |desired: &Desired| Ok((taken_over(desired, node, &batch), ()));
        ledger.update(step).await?;
    }
    Ok(())
}

async fn next_batch(lines: &mut Lines<AgentEvent>) -> Result<Option<Vec<AgentEvent>>, Problem> {
    let Some(first) = lines.next().await? else { return Ok(None) };
    let mut batch = vec![first];
    while batch.len() < BATCH {
        match tokio::time::timeout(LINGER, lines.next()).await {
            Ok(Ok(Some(event))) => batch.push(event),
            // What broke or ended is found again at the next call.
            _ => break,
        }
    }
    Ok(Some(batch))
}

fn cursor(desired: &Desired, node: &NodeName) -> u64 {
    desired.cursors.get(node.as_str()).map_or(0, |cursor| cursor.sequence)
}

/// The step that stores what of `events` is not stored yet.
fn taken_over(desired: &Desired, node: &NodeName, events: &[AgentEvent]) -> Step {
    let mut sequence = cursor(desired, node);
    let mut step = Step::default();
    for event in events {
        if event.sequence <= sequence {
            continue;
        }
        sequence = event.sequence;
        step = step.told(Fact {
            kind: event.kind,
            at: Some(event.at),
            app: event.app.clone(),
            deployment: event.deployment.clone(),
            instance: event.instance.clone(),
            message: event.message.clone(),
        });
    }
    if step.facts.is_empty() { step } else { step.and(Cursor { node: node.clone(), sequence }) }
}
