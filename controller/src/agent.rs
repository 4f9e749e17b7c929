//! Carrying out one call to an agent, and what its outcome teaches.

use drowse_api::agent::BuildStatus;
use drowse_api::client::Client;
use drowse_api::instance::InstanceStatus;
use drowse_api::{DeploymentId, ErrorCode, InstanceId, Problem};
use http::Method;
use serde::de::IgnoredAny;

use crate::picture::NodeView;
use crate::plan::Call;

/// What is known after a call that succeeded.
#[derive(Debug, Clone, PartialEq)]
pub enum Learnt {
    /// How an instance stands.
    Instance(Box<InstanceStatus>),
    /// The node does not have it any more.
    NoInstance(InstanceId),
    /// How a build stands; `None` if the node does not have it.
    Build(DeploymentId, Option<BuildStatus>),
    /// Nothing: the node's report shows what came of it.
    Nothing,
    /// A build was accepted: it must be asked about.
    BuildAccepted(DeploymentId),
}

/// Makes the call.
///
/// # Errors
/// The agent's problem, or that it cannot be reached.
pub async fn execute(client: &Client, call: &Call) -> Result<Learnt, Problem> {
    fail::fail_point!("agent-before-call");
    match call {
        Call::PutInstance(spec) => {
            let path = format!("/v1/instances/{}", spec.id);
            client.call(Method::PUT, &path, Some(spec.as_ref())).await.map(|status| Learnt::Instance(Box::new(status)))
        }
        Call::StopInstance(id, request) => {
            let answer = client.call(Method::POST, &format!("/v1/instances/{id}/stop"), Some(request)).await;
            let status = unless_gone::<InstanceStatus>(answer)?;
            Ok(status.map_or_else(|| Learnt::NoInstance(id.clone()), |status| Learnt::Instance(Box::new(status))))
        }
        Call::SleepInstance(id, request) => {
            let answer = client.call(Method::POST, &format!("/v1/instances/{id}/sleep"), Some(request)).await;
            unless_gone::<IgnoredAny>(answer).map(|_| Learnt::Nothing)
        }
        Call::WakeInstance(id, demand) => {
            let answer = client.call(Method::POST, &format!("/v1/instances/{id}/demand"), Some(demand)).await;
            unless_gone::<IgnoredAny>(answer).map(|_| Learnt::Nothing)
        }
        Call::DeleteInstance(id, epoch) => {
            let path = format!("/v1/instances/{id}?epoch={epoch}");
            unless_gone::<IgnoredAny>(client.call(Method::DELETE, &path, None::<&()>).await)?;
            Ok(Learnt::NoInstance(id.clone()))
        }
        Call::PutBuild(request) => {
            let path = format!("/v1/builds/{}", request.deployment);
            let _: IgnoredAny = client.call(Method::PUT, &path, Some(request.as_ref())).await?;
            Ok(Learnt::BuildAccepted(request.deployment.clone()))
        }
        Call::AskBuild(id) => {
            let status = unless_gone(client.get(&format!("/v1/builds/{id}")).await)?;
            Ok(Learnt::Build(id.clone(), status))
        }
        Call::DeleteBuild(id) => {
            let answer = client.call(Method::DELETE, &format!("/v1/builds/{id}"), None::<&()>).await;
            unless_gone::<IgnoredAny>(answer)?;
            Ok(Learnt::Build(id.clone(), None))
        }
    }
}

/// The value, or nothing if the node does not have it.
pub(crate) fn unless_gone<T>(answer: Result<T, Problem>) -> Result<Option<T>, Problem> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(problem) if problem.code == ErrorCode::NotFound => Ok(None),
        Err(problem) => Err(problem),
    }
}

/// Whether the same call may succeed later, without anyone changing anything.
#[must_use]
pub fn is_passing(problem: &Problem) -> bool {
    matches!(
        problem.code,
        ErrorCode::Unavailable
            | ErrorCode::Deadline
            | ErrorCode::Exhausted
            | ErrorCode::Conflict
            | ErrorCode::StaleEpoch
    )
}

impl NodeView {
    /// With what was learnt by a call.
    pub fn learn(&mut self, learnt: Learnt) {
        match learnt {
            Learnt::Instance(status) => {
                // The node's own stream may have told something newer already.
                let known = self.instances.get(&status.id);
                if known.is_none_or(|known| known.epoch < status.epoch) {
                    self.instances.insert(status.id.clone(), *status);
                }
            }
            Learnt::NoInstance(id) => drop(self.instances.remove(&id)),
            Learnt::Nothing => {}
            Learnt::Build(id, status) => {
                if status.is_none() {
                    self.kept_builds.remove(&id);
                }
                self.builds.insert(id, status);
            }
            Learnt::BuildAccepted(id) => drop(self.builds.remove(&id)),
        }
    }

    /// With what a call was refused for.
    pub fn refused(&mut self, call: &Call, problem: Problem) {
        if let Some(refused) = call.refused() {
            self.refusals.insert(refused, problem);
        }
    }

    /// Without what only calls that are not wanted any more were about.
    pub fn retain(&mut self, calls: &[Call]) {
        let about: std::collections::BTreeSet<_> = calls.iter().map(Call::subject).collect();
        self.builds.retain(|id, _| about.contains(&format!("build {id}")));
        self.refusals.retain(|refused, _| {
            about.contains(&match refused {
                crate::picture::Refused::Instance(id, _) => format!("instance {id}"),
                crate::picture::Refused::Build(id) => format!("build {id}"),
            })
        });
    }
}
