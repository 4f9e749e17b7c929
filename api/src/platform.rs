//! The calls of the controller: JSON over HTTP on its Unix socket and, with a token, by TCP.
//!
//! | call | what |
//! |---|---|
//! | `GET /v1/whoami` | [`WhoAmI`] |
//! | `GET`, `POST /v1/tokens`, `DELETE /v1/tokens/{id}` | [`TokenView`], [`TokenRequest`] → [`TokenCreated`] |
//! | `GET /v1/registries`, `PUT`, `DELETE /v1/registries/{registry}` | [`RegistryView`], [`RegistryLogin`]: the caller's logins for registries |
//! | `GET /v1/apps` | a list of [`AppView`] |
//! | `GET`, `DELETE /v1/apps/{app}` | [`AppView`] |
//! | `POST /v1/apps/{app}/deployments?type=TYPE&manifest=JSON` | body: the folder as a compressed tar, and what its drowse.toml pins ([`Manifest`](crate::manifest::Manifest)); makes the app if it is new; answers [`DeploymentView`] (202) |
//! | `GET /v1/apps/{app}/deployments` | a list of [`DeploymentView`], newest first |
//! | `POST /v1/apps/{app}/restart`, `/stop`, `/start` | [`AppView`] (202) |
//! | `POST /v1/apps/{app}/sleep` | [`SleepCommand`](crate::sleep::SleepCommand) → [`AppView`]; answers when it sleeps, `conflict` when it stays awake |
//! | `POST /v1/apps/{app}/wake` | [`AppView`] (202) |
//! | `GET`, `PUT /v1/apps/{app}/idle` | [`SleepSettings`] |
//! | `GET /v1/apps/{app}/explain` | [`Explanation`](crate::sleep::Explanation) |
//! | `GET`, `PATCH /v1/apps/{app}/env` | [`Environment`], [`EnvPatch`] |
//! | `GET`, `PATCH /v1/apps/{app}/secrets` | a list of [`SecretView`], [`SecretsPatch`] |
//! | `GET /v1/apps/{app}/releases` | a list of [`ReleaseView`], newest first |
//! | `POST /v1/apps/{app}/rollback?to=NUMBER` | deployment and environment of an earlier release serve again; without a number, of the last different one; [`AppView`] (202) |
//! | `GET /v1/apps/{app}/logs?follow=BOOL&tail=N` | NDJSON of [`AppLogLine`] |
//! | `POST /v1/apps/{app}/exec?instance=ID` | [`ExecRequest`](crate::exec::ExecRequest): an upgrade, see [`exec`](crate::exec); beside what runs |
//! | `POST /v1/apps/{app}/run` | the same, in a sandbox of its own over the app's image |
//! | `GET /v1/usage?app=NAME` | a list of [`NodeUsage`] |
//! | `GET /v1/deployments/{id}` | [`DeploymentView`] |
//! | `GET /v1/deployments/{id}/watch` | NDJSON of [`DeploymentUpdate`]; ends when the deploy has ended |
//! | `POST /v1/deployments/{id}/promote` | this deployment serves, with the app's environment; [`AppView`] (202) |
//! | `GET /v1/events?app=NAME&after=REVISION&follow=BOOL&tail=N` | NDJSON of [`Event`](crate::event::Event), or server-sent events to who accepts `text/event-stream` (`Last-Event-ID` is `after`); `compacted` if events after it are gone |
//! | `GET /v1/doctor` | a list of [`NodeChecks`] |
//! | `GET /healthz` | `ok`; needs nobody's token |
//! | `GET /v1/routes/watch?router=NAME` (routers) | a router is there as long as it follows; NDJSON of [`RouteTable`](crate::routing::RouteTable) |
//! | `PUT /v1/routers/{name}` (routers) | [`RouterStatus`](crate::routing::RouterStatus) |

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::agent::{Check, PlaceUsage};
use crate::deployment::{AppType, StateSince};
use crate::instance::{InstanceStatus, LogLine};
use crate::secrets::Secrets;
use crate::sleep::SleepSettings;
use crate::{AppName, DeploymentId, Digest, InstanceId, NodeName, Problem, TokenId, UserId};

/// The caller, as the controller sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    /// The user.
    pub user: UserId,
    /// The user's name.
    pub name: String,
    /// `unix socket` or the token's label.
    pub by: String,
    /// The domain that apps live under.
    pub domain: String,
    /// The port visitors use, for printing addresses; 80 is left out.
    pub port: u16,
}

/// Asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRequest {
    /// What it is for, in the user's words.
    pub label: String,
    /// When it ends; never if absent.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

/// A new token. The secret is shown this once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenCreated {
    /// What is known of it.
    #[serde(flatten)]
    pub token: TokenView,
    /// What goes after `Authorization: Bearer`.
    pub secret: String,
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its id.
    pub id: TokenId,
    /// What it is for.
    pub label: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    #[serde(default)]
    pub expires: Option<Timestamp>,
}

/// A login for a registry of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryLogin {
    /// Who logs in.
    pub username: String,
    /// With what: one value, whatever its name. Never answered by any call.
    pub password: Secrets,
}

/// What is known of a login.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryView {
    /// The registry.
    pub registry: String,
    /// Who logs in.
    pub username: String,
    /// Since when.
    pub since: Timestamp,
}

/// An app, as its owner sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AppView {
    /// Its name.
    pub name: AppName,
    /// Its address, with scheme and port.
    pub url: String,
    /// When it was made.
    pub created: Timestamp,
    /// What the user wants of it.
    pub wanted: Wanted,
    /// The deployment that serves, if any.
    pub live: Option<DeploymentView>,
    /// A deployment on its way, if any.
    pub pending: Option<DeploymentView>,
    /// Why the newest restart, start or change of environment did not take effect, if it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
    /// How it sleeps, as its user set it.
    #[serde(default)]
    pub sleep: SleepSettings,
    /// Its instances, with their own addresses.
    pub instances: Vec<InstanceView>,
}

/// What the user wants of an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wanted {
    /// It should serve.
    Running,
    /// It was stopped by its user.
    Stopped,
}

/// One version of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeploymentView {
    /// Its id.
    pub id: DeploymentId,
    /// Its app.
    pub app: AppName,
    /// Its type.
    pub app_type: AppType,
    /// Its own address.
    pub url: String,
    /// Its state, with why and since when.
    #[serde(flatten)]
    pub state: StateSince,
    /// When it was accepted.
    pub created: Timestamp,
    /// Its image, once built.
    pub image: Option<Digest>,
    /// Why it failed, where it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// One instance with its place and address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceView {
    /// Where it runs.
    pub node: NodeName,
    /// Its own address for visitors.
    pub url: String,
    /// What the agent reports of it.
    #[serde(flatten)]
    pub status: InstanceStatus,
}

/// The environment of an app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Names and values.
    pub vars: BTreeMap<String, String>,
}

/// A change of the environment, which restarts the app without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvPatch {
    /// Names to set.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Names to remove.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// A secret, as far as it can be seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretView {
    /// Its name.
    pub name: String,
    /// When its value was set.
    pub set: Timestamp,
}

/// A change of the secrets, which restarts the app without a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsPatch {
    /// Names to set.
    #[serde(default)]
    pub set: Secrets,
    /// Names to remove.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// One release of an app: a deployment with one environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseView {
    /// Its number within the app.
    pub number: u64,
    /// What it is to visitors.
    pub place: ReleasePlace,
    /// The version.
    pub deployment: DeploymentId,
    /// That version's own address.
    pub url: String,
    /// Why it was made.
    pub cause: Cause,
    /// When it was made.
    pub created: Timestamp,
    /// The names of the variables that differ from those of the release before it in the list.
    pub changed: Vec<String>,
}

/// What a release is to visitors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReleasePlace {
    /// On its way to serve.
    Next,
    /// It serves.
    Live,
    /// It served, and can serve again.
    Earlier,
}

/// Why a release was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A new version.
    Deploy,
    /// `drowse restart`.
    Restart,
    /// The environment was changed.
    Environment,
    /// A secret was set or removed.
    Secrets,
    /// `drowse start`.
    Start,
    /// `drowse rollback`: what an earlier release was serves again.
    Rollback {
        /// The number of that release.
        to: u64,
    },
    /// `drowse promote`: a deployment that is there serves.
    Promote,
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Deploy => f.write_str("deploy"),
            Self::Restart => f.write_str("restart"),
            Self::Environment => f.write_str("change of environment"),
            Self::Secrets => f.write_str("change of secrets"),
            Self::Start => f.write_str("start"),
            Self::Rollback { to } => write!(f, "rollback to release {to}"),
            Self::Promote => f.write_str("promotion"),
        }
    }
}

/// A line of an app's log, with the instance that wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppLogLine {
    /// Which instance.
    pub instance: InstanceId,
    /// What it wrote.
    #[serde(flatten)]
    pub line: LogLine,
}

/// What someone who follows a deploy is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "update", rename_all = "kebab-case")]
pub enum DeploymentUpdate {
    /// Its state changed.
    State {
        /// The deployment as it is now.
        deployment: DeploymentView,
    },
    /// The build wrote a line.
    Log {
        /// The line.
        line: LogLine,
    },
}

/// What one node found when it was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeChecks {
    /// The node.
    pub node: NodeName,
    /// What was found; a single failure if the node does not answer.
    pub checks: Vec<Check>,
}

/// What one sandbox of an app uses, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeUsage {
    /// The node.
    pub node: NodeName,
    /// What it uses.
    #[serde(flatten)]
    pub usage: PlaceUsage,
}
