//! The loop: look, decide, write down, tell the nodes. It takes no input: it is woken by changes
//! and by time, and looks again. It never retries inside; what failed is looked at next time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use drowse_api::NodeName;
use drowse_store::StoreError;
use jiff::Timestamp;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::ledger::Ledger;
use crate::nodes::Node;
use crate::picture::Picture;
use crate::plan::{Call, plan};
use crate::routers::Routers;
use crate::routes::Publisher;
use crate::sleep::SleepDefaults;
use crate::vault::Vault;

/// Decisions that follow from decisions are made at once, up to this depth.
const ROUNDS: usize = 16;

const TICK: Duration = Duration::from_secs(1);

/// The nodes by name.
pub type Nodes = BTreeMap<NodeName, Node>;

/// The loop's own.
#[derive(Debug)]
pub struct Reconciler {
    /// The records.
    pub ledger: Ledger,
    /// The nodes.
    pub nodes: Arc<Nodes>,
    /// The routers.
    pub routers: Arc<Routers>,
    /// The table.
    pub publisher: Publisher,
    /// What has a number.
    pub settings: Arc<Settings>,
    /// The key to the secrets.
    pub vault: Arc<Vault>,
    /// How apps sleep where their users set nothing.
    pub sleep: SleepDefaults,
    /// Woken by this.
    pub wake: Arc<Notify>,
}

impl Reconciler {
    /// Goes on until it is told to end.
    pub async fn run(mut self, end: CancellationToken) {
        let mut desired = self.ledger.subscribe();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return,
                () = self.wake.notified() => {}
                Ok(()) = desired.changed() => {}
                _ = tick.tick() => {}
            }
            desired.borrow_and_update();
            if let Err(error) = self.turn().await {
                tracing::error!(error = %crate::ledger::problem(&error), "decisions could not be stored");
                tokio::time::sleep(TICK).await;
            }
        }
    }

    /// Everything that can be decided now, and what the nodes are to be told.
    async fn turn(&mut self) -> Result<(), StoreError> {
        for round in 1..=ROUNDS {
            let picture = self.picture();
            let next = plan(&picture, Timestamp::now());
            let has_decisions = !next.steps.is_empty();
            let committed = self.ledger.commit(&picture.desired, next.steps).await;
            if !has_decisions || committed.is_err() {
                self.want(next.calls);
                return committed.map(drop);
            }
            if round == ROUNDS {
                // They follow from what was decided before, and nodes must not wait for a plan that
                // goes on deciding.
                self.want(next.calls);
            }
        }
        // More follows from what was decided: look again at once.
        self.wake.notify_one();
        Ok(())
    }

    fn want(&self, mut calls: BTreeMap<NodeName, Vec<Call>>) {
        for (name, node) in self.nodes.iter() {
            node.want(calls.remove(name).unwrap_or_default());
        }
    }

    fn picture(&mut self) -> Picture {
        let desired = self.ledger.desired();
        Picture {
            nodes: self.nodes.iter().map(|(name, node)| (name.clone(), node.view())).collect(),
            routers: self.routers.all(),
            published: self.publisher.publish(&desired),
            settings: Arc::clone(&self.settings),
            vault: Arc::clone(&self.vault),
            sleep: self.sleep,
            desired,
        }
    }
}
