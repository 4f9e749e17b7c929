//! Deployments: their type and their states, in the words users know.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Digest, MemoryBytes};

/// The largest folder that can be deployed: the sum of its files before compression, and so also
/// the largest body of an upload.
pub const MAX_SOURCE: MemoryBytes = MemoryBytes::gib(2);

/// The most files, folders and links that a deployed folder can hold.
pub const MAX_SOURCE_ENTRIES: usize = 200_000;

/// What kind of app a deployment holds, which decides how it is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppType {
    /// Files, served as they are; no build.
    Static,
    /// `npm ci` or `npm install`, `npm run build`, `npm start`.
    Npm,
    /// A virtual environment from requirements.txt.
    Python,
    /// A Dockerfile, built by buildah.
    Docker,
    /// An image of a registry; no build. The upload is its reference.
    Image,
    /// A third-party OCI bundle (`config.json` and a root folder); no build.
    Bundle,
}

impl AppType {
    /// Whether deploying it takes a sandbox: for commands, or to fetch an image.
    #[must_use]
    pub fn has_build(self) -> bool {
        matches!(self, Self::Npm | Self::Python | Self::Docker | Self::Image)
    }

    /// The word on the wire and the command line.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Npm => "npm",
            Self::Python => "python",
            Self::Docker => "docker",
            Self::Image => "image",
            Self::Bundle => "bundle",
        }
    }
}

impl fmt::Display for AppType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The state of a deployment. Reasons and times are in [`StateSince`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeploymentState {
    /// Accepted: its source is stored and it waits for a node.
    Deploying,
    /// Its build sandbox runs.
    Booted,
    /// Its build commands run.
    Building,
    /// It is, or was, able to serve.
    Ready,
    /// Its build or its release command failed. Never tried again.
    BuildError,
    /// It sleeps.
    Frozen,
    /// Its boot check failed (`timeout-error`) or it crashed again and again (`crash-loop`).
    DeploymentError,
}

impl DeploymentState {
    /// The word users know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deploying => "DEPLOYING",
            Self::Booted => "BOOTED",
            Self::Building => "BUILDING",
            Self::Ready => "READY",
            Self::BuildError => "BUILD_ERROR",
            Self::Frozen => "FROZEN",
            Self::DeploymentError => "DEPLOYMENT_ERROR",
        }
    }

    /// Whether a deploy that reached this state has ended.
    #[must_use]
    pub fn ends_a_deploy(self) -> bool {
        matches!(self, Self::Ready | Self::BuildError | Self::DeploymentError)
    }
}

impl fmt::Display for DeploymentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A state with why and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateSince {
    /// The state.
    pub state: DeploymentState,
    /// Why, in one sentence; empty where the state says it all.
    #[serde(default)]
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// What a build turns into an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildInput {
    /// How to build.
    pub app_type: AppType,
    /// The uploaded folder: a gzip- or zstd-compressed tar, stored on the node as this blob.
    pub source: Digest,
    /// The start command, instead of what the folder says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<String>,
    /// The release command, instead of the Procfile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
}
