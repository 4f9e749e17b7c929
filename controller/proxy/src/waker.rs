//! Asks the agent: for instances that requests wait for, and by telling it what was let go of.
//!
//! It goes to the agent's own socket, so that sleepers wake with the controller dead. There is one
//! demand at a time for an instance, however many wait; it is given up when nobody waits any more.

use std::sync::Arc;
use std::time::Duration;

use drowse_api::client::Client;
use drowse_api::sleep::{Demand, Quiet};
use drowse_api::{ErrorCode, InstanceId, Problem};
use http::Method;
use tokio::sync::{Semaphore, mpsc};

use crate::instance::Instance;
use crate::shared::Shared;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a demand that was taken may take to show before it is made again.
const SHOWN: Duration = Duration::from_secs(2);

/// What the agent is to be told.
#[derive(Debug)]
pub(crate) enum Order {
    /// Requests wait for this one, the first of them this one.
    Wake(Arc<Instance>, String),
    /// This one is needed: its sleep is called off.
    Keep(InstanceId, String),
    /// Nothing of this one is in flight any more.
    LetGo(InstanceId, Quiet),
}

/// The task.
pub(crate) struct Waker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) agent: Client,
}

impl Waker {
    /// Carries out orders until the router ends.
    pub(crate) async fn run(self, mut orders: mpsc::UnboundedReceiver<Order>) {
        let this = Arc::new(self);
        let room = Arc::new(Semaphore::new(this.shared.limits.wakes.max(1)));
        while let Some(order) = orders.recv().await {
            let (this, room) = (Arc::clone(&this), Arc::clone(&room));
            tokio::spawn(async move {
                match order {
                    Order::Wake(instance, cause) => this.wake(&instance, cause, &room).await,
                    Order::Keep(id, cause) => this.tell(&id, "demand", &Demand { cause }).await,
                    Order::LetGo(id, quiet) => this.tell(&id, "quiet", &quiet).await,
                }
            });
        }
    }

    async fn wake(&self, instance: &Instance, cause: String, room: &Semaphore) {
        let Some(id) = &instance.id else { return };
        // A start costs the node something: not all at once.
        let _place = if instance.nap.depth().wakes_unnoticed() { None } else { room.acquire().await.ok() };
        let demand = Demand { cause };
        let mut pause = FIRST_PAUSE;
        while instance.gate.is_shut() && instance.nap.is_waited_for() {
            let over = instance.nap.over();
            let wait = match self.post(id, "demand", &demand).await {
                Ok(()) => SHOWN,
                Err(problem) => {
                    tracing::debug!(instance = %id, %problem, "a demand was not taken");
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    // What is not there is in no picture soon: who waits looks again.
                    if problem.code == ErrorCode::NotFound {
                        instance.nap.tell();
                    }
                    pause
                }
            };
            if instance.gate.is_shut() {
                let _ = tokio::time::timeout(wait, over).await;
            }
        }
        instance.nap.end_demand();
        // One who came after the last look and before the line above is not forgotten.
        if instance.gate.is_shut() && instance.nap.is_waited_for() {
            instance.nap.tell();
        }
    }

    /// Told once: the agent's next picture shows whether that was heard, and it is told again then.
    async fn tell(&self, id: &InstanceId, what: &str, body: &impl serde::Serialize) {
        if let Err(problem) = self.post(id, what, body).await {
            tracing::debug!(instance = %id, what, %problem, "the agent was not told");
        }
    }

    async fn post(&self, id: &InstanceId, what: &str, body: &impl serde::Serialize) -> Result<(), Problem> {
        self.agent.call(Method::POST, &format!("/v1/instances/{id}/{what}"), Some(body)).await
    }
}
