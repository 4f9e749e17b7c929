//! Taking over a node's events, each exactly once: the event and how far we are stand in one
//! transaction.

use std::time::Duration;

use drowse_api::agent::Told;
use drowse_api::client::{Client, Lines};
use drowse_api::event::AgentEvent;
use drowse_api::{EventLogId, NodeName, Problem};

use crate::desired::{Desired, Fact, Step};
use crate::ledger::Ledger;
use crate::model::Cursor;

/// How many events are stored at once at most.
const BATCH: usize = 200;

/// How long the rest of a batch is waited for.
const LINGER: Duration = Duration::from_millis(3);

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
    let path = match cursor(&ledger.desired(), node) {
        (after, Some(log)) => format!("/v1/events?after={after}&log={log}"),
        (after, None) => format!("/v1/events?after={after}"),
    };
    let mut lines = client.lines(&path).await?;
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

fn cursor(desired: &Desired, node: &NodeName) -> (u64, Option<EventLogId>) {
    desired.cursors.get(node.as_str()).map_or((0, None), |cursor| (cursor.sequence, cursor.log.clone()))
}

/// Whether everything up to there is stored.
pub(super) fn has(desired: &Desired, node: &NodeName, told: &Told) -> bool {
    let (sequence, log) = cursor(desired, node);
    told.sequence == 0 || sequence >= told.sequence && log.is_none_or(|log| log == told.log)
}

/// The step that stores what of `events` is not stored yet.
fn taken_over(desired: &Desired, node: &NodeName, events: &[AgentEvent]) -> Step {
    let (mut sequence, mut log) = cursor(desired, node);
    let mut step = Step::default();
    for event in events {
        // The numbers of another log begin anew.
        let is_same = log.is_none() || event.log.is_none() || event.log == log;
        if is_same && event.sequence <= sequence {
            continue;
        }
        sequence = event.sequence;
        log = event.log.clone().or(log);
        step = step.told(Fact {
            kind: event.kind,
            at: Some(event.at),
            app: event.app.clone(),
            deployment: event.deployment.clone(),
            instance: event.instance.clone(),
            message: event.message.clone(),
        });
    }
    if step.facts.is_empty() { step } else { step.and(Cursor { node: node.clone(), sequence, log }) }
}
