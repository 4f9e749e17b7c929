//! The life of a deployment. Each state has only the transitions of the diagram: what is not in it
//! cannot be written.
//!
//! ```text
//! DEPLOYING ─► BOOTED ─► BUILDING ─┬─► BUILD_ERROR
//!     │ (static, bundle)           │
//!     └────────────────────────────┴─► starting ─► READY ⇄ DEPLOYMENT_ERROR
//! ```
//! `starting` (the image is there, its first instance boots) is shown as the state before it.
//! An unfinished one may be superseded, which is a DEPLOYMENT_ERROR, since no build failed.

use drowse_api::deployment::{AppType, DeploymentState, StateSince};
use drowse_api::{Digest, ErrorCode, Problem};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a deployment stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    /// Accepted.
    Deploying(Deploying),
    /// Its build sandbox runs.
    Booted(Booted),
    /// Its build commands run.
    Building(Building),
    /// It has an image, and no instance of it was ready yet.
    Starting(Starting),
    /// It is, or was, able to serve.
    Ready(Ready),
    /// Its build failed.
    BuildError(BuildError),
    /// It did not become ready, crashed again and again, or was superseded.
    DeploymentError(DeploymentError),
}

/// See [`Phase::Deploying`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deploying {
    since: Timestamp,
}

/// See [`Phase::Booted`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Booted {
    since: Timestamp,
}

/// See [`Phase::Building`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Building {
    since: Timestamp,
}

/// See [`Phase::Starting`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Starting {
    since: Timestamp,
    image: Digest,
}

/// See [`Phase::Ready`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    since: Timestamp,
    image: Digest,
}

/// See [`Phase::BuildError`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BuildError {
    since: Timestamp,
    problem: Problem,
}

/// See [`Phase::DeploymentError`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentError {
    since: Timestamp,
    image: Option<Digest>,
    problem: Problem,
}

impl Deploying {
    /// A deployment that was accepted.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { since: now }
    }

    /// Its build sandbox runs.
    #[must_use]
    pub fn booted(self, now: Timestamp) -> Booted {
        Booted { since: now }
    }

    /// Its files became an image without a build.
    #[must_use]
    pub fn imported(self, image: Digest, now: Timestamp) -> Starting {
        Starting { since: now, image }
    }

    /// Its files could not become an image, or were not wanted any more.
    #[must_use]
    pub fn refused(self, problem: Problem, now: Timestamp) -> DeploymentError {
        DeploymentError { since: now, image: None, problem }
    }
}

impl Booted {
    /// Its first build command runs.
    #[must_use]
    pub fn building(self, now: Timestamp) -> Building {
        Building { since: now }
    }

    /// It was not wanted any more.
    #[must_use]
    pub fn superseded(self, problem: Problem, now: Timestamp) -> DeploymentError {
        DeploymentError { since: now, image: None, problem }
    }
}

impl Building {
    /// The build ended in an image.
    #[must_use]
    pub fn built(self, image: Digest, now: Timestamp) -> Starting {
        Starting { since: now, image }
    }

    /// The build failed.
    #[must_use]
    pub fn failed(self, problem: Problem, now: Timestamp) -> BuildError {
        BuildError { since: now, problem }
    }

    /// It was not wanted any more.
    #[must_use]
    pub fn superseded(self, problem: Problem, now: Timestamp) -> DeploymentError {
        DeploymentError { since: now, image: None, problem }
    }
}

impl Starting {
    /// Its instances are ready.
    #[must_use]
    pub fn ready(self, now: Timestamp) -> Ready {
        Ready { since: now, image: self.image }
    }

    /// An instance did not become ready, or it was not wanted any more.
    #[must_use]
    pub fn failed(self, problem: Problem, now: Timestamp) -> DeploymentError {
        DeploymentError { since: now, image: Some(self.image), problem }
    }
}

impl Ready {
    /// Nothing of it is ready any more, and nothing will be without a command.
    #[must_use]
    pub fn failed(self, problem: Problem, now: Timestamp) -> DeploymentError {
        DeploymentError { since: now, image: Some(self.image), problem }
    }
}

impl DeploymentError {
    /// Its user wants to try again; only a deployment with an image can.
    #[must_use]
    pub fn retried(&self, now: Timestamp) -> Option<Starting> {
        self.image.clone().map(|image| Starting { since: now, image })
    }

    /// Why it failed.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl Phase {
    /// Its image, once it has one.
    #[must_use]
    pub fn image(&self) -> Option<&Digest> {
        match self {
            Self::Starting(Starting { image, .. }) | Self::Ready(Ready { image, .. }) => Some(image),
            Self::DeploymentError(error) => error.image.as_ref(),
            Self::Deploying(_) | Self::Booted(_) | Self::Building(_) | Self::BuildError(_) => None,
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::BuildError(error) => Some(&error.problem),
            Self::DeploymentError(error) => Some(&error.problem),
            _ => None,
        }
    }

    /// Whether its build is still to end.
    #[must_use]
    pub fn is_building(&self) -> bool {
        matches!(self, Self::Deploying(_) | Self::Booted(_) | Self::Building(_))
    }

    /// Whether it has its image and its first instance is to be ready.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self, Self::Starting(_))
    }

    /// Ended by a newer command before it was ready; one that has ended stays as it is.
    #[must_use]
    pub fn superseded(self, problem: Problem, now: Timestamp) -> Self {
        match self {
            Self::Deploying(it) => Self::DeploymentError(it.refused(problem, now)),
            Self::Booted(it) => Self::DeploymentError(it.superseded(problem, now)),
            Self::Building(it) => Self::DeploymentError(it.superseded(problem, now)),
            Self::Starting(it) => Self::DeploymentError(it.failed(problem, now)),
            ended @ (Self::Ready(_) | Self::BuildError(_) | Self::DeploymentError(_)) => ended,
        }
    }

    /// The build, or what stands for it, failed. One whose build has ended stays as it is.
    #[must_use]
    pub fn build_failed(self, app_type: AppType, problem: Problem, now: Timestamp) -> Self {
        match self {
            Self::Deploying(it) if !app_type.has_build() => Self::DeploymentError(it.refused(problem, now)),
            Self::Deploying(it) => Self::BuildError(it.booted(now).building(now).failed(problem, now)),
            Self::Booted(it) => Self::BuildError(it.building(now).failed(problem, now)),
            Self::Building(it) => Self::BuildError(it.failed(problem, now)),
            ended => ended,
        }
    }

    /// The build, or what stands for it, ended in an image.
    #[must_use]
    pub fn built(self, app_type: AppType, image: Digest, now: Timestamp) -> Self {
        match self {
            Self::Deploying(it) if !app_type.has_build() => Self::Starting(it.imported(image, now)),
            Self::Deploying(it) => Self::Starting(it.booted(now).building(now).built(image, now)),
            Self::Booted(it) => Self::Starting(it.building(now).built(image, now)),
            Self::Building(it) => Self::Starting(it.built(image, now)),
            ended => ended,
        }
    }

    /// The instances are ready.
    #[must_use]
    pub fn ready(self, now: Timestamp) -> Self {
        match self {
            Self::Starting(it) => Self::Ready(it.ready(now)),
            Self::DeploymentError(it) => match it.retried(now) {
                Some(starting) => Self::Ready(starting.ready(now)),
                None => Self::DeploymentError(it),
            },
            other => other,
        }
    }

    /// Nothing of it is ready, and nothing will be without a command.
    #[must_use]
    pub fn failed(self, problem: Problem, now: Timestamp) -> Self {
        match self {
            Self::Starting(it) => Self::DeploymentError(it.failed(problem, now)),
            Self::Ready(it) => Self::DeploymentError(it.failed(problem, now)),
            other => other,
        }
    }

    /// As users see it.
    #[must_use]
    pub fn shown(&self, app_type: AppType) -> StateSince {
        let (state, reason, since) = match self {
            Self::Deploying(it) => (DeploymentState::Deploying, "", it.since),
            Self::Booted(it) => (DeploymentState::Booted, "", it.since),
            Self::Building(it) => (DeploymentState::Building, "", it.since),
            Self::Starting(it) => {
                let state = if app_type.has_build() { DeploymentState::Building } else { DeploymentState::Deploying };
                (state, "starting: waiting for its first accepted connection", it.since)
            }
            Self::Ready(it) => (DeploymentState::Ready, "", it.since),
            Self::BuildError(it) => (DeploymentState::BuildError, it.problem.code.as_str(), it.since),
            Self::DeploymentError(it) => (DeploymentState::DeploymentError, it.problem.code.as_str(), it.since),
        };
        StateSince { state, reason: reason.to_owned(), since }
    }
}

/// What a deployment that a newer command ended is told.
#[must_use]
pub fn superseded(by: &str) -> Problem {
    Problem::new(ErrorCode::Superseded, format!("superseded by {by} before it was ready"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Digest {
        Digest::from_sha256([1; 32])
    }

    #[test]
    fn a_build_passes_through_every_state_of_the_diagram() {
        let now = Timestamp::UNIX_EPOCH;
        let phase = Phase::Building(Deploying::new(now).booted(now).building(now));
        let phase = phase.built(AppType::Python, image(), now);
        assert_eq!(phase.shown(AppType::Python).state, DeploymentState::Building);
        assert_eq!(phase.ready(now).shown(AppType::Python).state, DeploymentState::Ready);
    }

    #[test]
    fn what_has_ended_is_not_superseded() {
        let now = Timestamp::UNIX_EPOCH;
        let ready = Phase::Ready(Deploying::new(now).imported(image(), now).ready(now));
        assert_eq!(ready.clone().superseded(superseded("a test"), now), ready);
        let failed = Phase::Deploying(Deploying::new(now)).build_failed(
            AppType::Npm,
            Problem::new(ErrorCode::BuildError, "npm ci"),
            now,
        );
        assert_eq!(failed.shown(AppType::Npm).state, DeploymentState::BuildError);
        assert_eq!(failed.clone().superseded(superseded("a test"), now), failed);
    }

    #[test]
    fn only_a_deployment_with_an_image_can_be_tried_again() {
        let now = Timestamp::UNIX_EPOCH;
        let problem = || Problem::new(ErrorCode::TimeoutError, "nothing listens");
        assert!(Deploying::new(now).refused(problem(), now).retried(now).is_none());
        assert!(Deploying::new(now).imported(image(), now).failed(problem(), now).retried(now).is_some());
    }
}
