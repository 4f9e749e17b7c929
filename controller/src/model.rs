//! The records of the controller: what users asked for and what was decided.
//!
//! Everything here is in the store. What runs at this moment is not: that is the agents' truth, and
//! stands in [`picture`](crate::picture).

use std::collections::BTreeMap;
use std::sync::Arc;

use drowse_api::deployment::{AppType, BuildInput};
use drowse_api::instance::Workload;
use drowse_api::manifest::Manifest;
pub use drowse_api::platform::Cause;
use drowse_api::platform::Wanted;
use drowse_api::secrets::Secrets;
use drowse_api::sleep::SleepSettings;
use drowse_api::{
    AppName, ControllerId, DeploymentId, Digest, Epoch, EventLogId, InstanceId, NodeName, Problem, TokenId, UserId,
};
use drowse_seal::Sealed;
use drowse_store::Record;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::phase::Phase;

/// A user of the platform.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Its id.
    pub id: UserId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// An access token. Its secret is known to its holder only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Token {
    /// The public half.
    pub id: TokenId,
    /// Whose it is.
    pub user: UserId,
    /// What it is for.
    pub label: String,
    /// SHA-256 of the secret half, in hexadecimal digits.
    pub hash: String,
    /// When it was made.
    pub created: Timestamp,
    /// When it ends.
    pub expires: Option<Timestamp>,
}

/// A login for a registry of images. The password is shown to nobody, and goes to the node that builds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Registry {
    /// Whose it is.
    pub user: UserId,
    /// The registry, as references to its images begin.
    pub name: String,
    /// Who logs in.
    pub username: String,
    /// By what.
    pub password: Password,
    /// Since when.
    pub since: Timestamp,
}

/// The password of a login.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Password {
    /// As it is kept.
    Sealed(Sealed),
    /// As releases before the vault kept it, by the username; sealed when the controller starts.
    Plain(Secrets),
}

/// An app: what its user wants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Its name.
    pub name: AppName,
    /// Whose it is.
    pub owner: UserId,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it should serve.
    pub wanted: Wanted,
    /// How many instances its user asked for, if anything.
    pub scale: Option<Bounds>,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its secrets.
    #[serde(default)]
    pub secrets: BTreeMap<String, Secret>,
    /// The number of its newest release.
    pub releases: u64,
    /// What serves.
    pub live: Option<Release>,
    /// What is on its way to serve.
    pub pending: Option<Release>,
    /// Why the newest release that was no deploy did not take effect.
    pub problem: Option<Problem>,
    /// How it sleeps.
    #[serde(default)]
    pub sleep: SleepSettings,
}

/// A secret as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Its value.
    pub sealed: Sealed,
    /// When it was set.
    pub set: Timestamp,
}

/// Fewest and most instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Fewest.
    pub min: u32,
    /// Most.
    pub max: u32,
}

/// How many instances an app gets, by what its user asked for.
#[must_use]
pub fn effective_bounds(asked: Option<Bounds>) -> Bounds {
    asked.unwrap_or(Bounds { min: 1, max: 1 })
}

/// A deployment with one environment: what instances are started from. Anything that needs new
/// instances makes a new one, and traffic moves when they are ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Release {
    /// Its number within the app.
    pub number: u64,
    /// The version.
    pub deployment: DeploymentId,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Its secrets.
    #[serde(default)]
    pub secrets: BTreeMap<String, Sealed>,
    /// Why it was made.
    pub cause: Cause,
    /// When it was made.
    pub created: Timestamp,
}

impl Release {
    /// Whether `instance` belongs to it.
    #[must_use]
    pub fn has(&self, instance: &Instance) -> bool {
        self.number == instance.release && self.deployment == instance.deployment
    }
}

/// Whether a release with this cause may bring another version than the live one.
#[must_use]
pub fn brings_a_version(cause: Cause) -> bool {
    match cause {
        Cause::Deploy | Cause::Rollback { .. } | Cause::Promote => true,
        Cause::Restart | Cause::Environment | Cause::Secrets | Cause::Start => false,
    }
}

/// A release that served and does no more: what a rollback goes back to. Without secrets: a value
/// that was replaced or removed is not to come back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PastRelease {
    /// Its app.
    pub app: AppName,
    /// Its number within the app.
    pub number: u64,
    /// The version.
    pub deployment: DeploymentId,
    /// Its environment.
    pub env: BTreeMap<String, String>,
    /// Why it was made.
    pub cause: Cause,
    /// When it was made.
    pub created: Timestamp,
    /// When another took its place.
    pub ended: Timestamp,
}

impl PastRelease {
    /// What is kept of `release` of `app`.
    #[must_use]
    pub fn of(app: &AppName, release: Release, now: Timestamp) -> Self {
        let Release { number, deployment, env, cause, created, .. } = release;
        Self { app: app.clone(), number, deployment, env, cause, created, ended: now }
    }

    /// Whether it is of the same version and environment as `release`.
    #[must_use]
    pub fn is_like(&self, release: &Release) -> bool {
        (&self.deployment, &self.env) == (&release.deployment, &release.env)
    }
}

impl App {
    /// The release that `instance` belongs to, if it is live or pending.
    #[must_use]
    pub fn release_of(&self, instance: &Instance) -> Option<&Release> {
        self.live.iter().chain(&self.pending).find(|release| release.has(instance))
    }

    /// Without its pending release. An app whose live instances were stopped by its user, and that
    /// was to run again by that release only, is a stopped one again.
    #[must_use]
    pub fn without_pending<'a>(mut self, instances: impl IntoIterator<Item = &'a Arc<Instance>>) -> Self {
        self.pending = None;
        let of_live = |instance: &&'a Arc<Instance>| {
            self.live.as_ref().is_some_and(|live| live.has(instance)) && !instance.life.is_past()
        };
        let mut own = instances.into_iter().filter(of_live).peekable();
        if own.peek().is_some() && own.all(|instance| instance.life == Life::Stopped) {
            self.wanted = Wanted::Stopped;
        }
        self
    }

    /// Makes the next release, which takes the place of a pending one.
    pub fn release(&mut self, deployment: DeploymentId, cause: Cause, now: Timestamp) {
        self.release_with(deployment, self.env.clone(), cause, now);
    }

    /// As [`release`](Self::release), with an environment that is not the app's own yet.
    pub fn release_with(
        &mut self,
        deployment: DeploymentId,
        env: BTreeMap<String, String>,
        cause: Cause,
        now: Timestamp,
    ) {
        self.releases += 1;
        let secrets = self.secrets.iter().map(|(name, secret)| (name.clone(), secret.sealed.clone())).collect();
        self.pending = Some(Release { number: self.releases, deployment, env, secrets, cause, created: now });
    }

    /// Whether a pending release may bring another version than the live one.
    #[must_use]
    pub fn is_changing_version(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| brings_a_version(pending.cause))
    }
}

/// One immutable version of an app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Its app.
    pub app: AppName,
    /// Whose it is.
    pub owner: UserId,
    /// Its type.
    pub app_type: AppType,
    /// The node that holds its source and its image.
    pub node: NodeName,
    /// When it was accepted.
    pub created: Timestamp,
    /// How far it came.
    pub phase: Phase,
    /// What its folder pins.
    #[serde(default)]
    pub manifest: Manifest,
    /// What runs it, once its build has told; by its type until then.
    #[serde(default)]
    pub workload: Option<Workload>,
}

impl Deployment {
    /// What runs it.
    #[must_use]
    pub fn workload(&self) -> Workload {
        let by_type = if self.app_type == AppType::Static { Workload::Site } else { Workload::Web };
        self.workload.unwrap_or(by_type)
    }
}

/// The environment of a version in an app: what its folder pins, and over it what its user set.
#[must_use]
pub fn environment(manifest: &Manifest, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut all = manifest.env.clone();
    all.extend(own.iter().map(|(name, value)| (name.clone(), value.clone())));
    all
}

/// A build on a node. Kept as long as its deployment, for the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// The deployment it is for.
    pub deployment: DeploymentId,
    /// Its app.
    pub app: AppName,
    /// Whose it is.
    pub owner: UserId,
    /// Where.
    pub node: NodeName,
    /// What is built.
    pub input: BuildInput,
    /// The environment that build commands see.
    pub env: BTreeMap<String, String>,
    /// Whether it is to be removed from its node, and then from here.
    pub is_unwanted: bool,
}

/// What processes of an app an instance runs, by the Procfile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProcessType {
    /// HTTP by host name.
    Web,
}

/// One copy of a deployment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// Its app.
    pub app: AppName,
    /// Whose it is.
    pub owner: UserId,
    /// The deployment it is a copy of.
    pub deployment: DeploymentId,
    /// The number of its release.
    pub release: u64,
    /// What it runs.
    pub process: ProcessType,
    /// Where.
    pub node: NodeName,
    /// Its image.
    pub image: Digest,
    /// The newest decision about it. Raised before the agent is told.
    pub epoch: Epoch,
    /// When it was made.
    pub created: Timestamp,
    /// What was decided about it.
    pub life: Life,
}

/// What was decided about an instance. What it does at this moment, its agent knows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "life", rename_all = "kebab-case")]
pub enum Life {
    /// It is to run and was not ready yet.
    Starting,
    /// It is to run and was ready.
    Serving,
    /// It gets no new requests; those in flight are finished.
    Draining {
        /// Since when.
        since: Timestamp,
    },
    /// It is told to end.
    Stopping {
        /// Why.
        reason: String,
    },
    /// Its app was stopped by its user. Kept for its log until something takes its place.
    Stopped,
    /// It crashed again and again. Kept for its log until something takes its place.
    Failed,
    /// It is to be removed from its node.
    Removing,
    /// It is gone. Remembered for a while, should a late command have made it again.
    Removed {
        /// Since when.
        since: Timestamp,
    },
}

impl Life {
    /// Whether nothing of it is left, or soon will be.
    #[must_use]
    pub fn is_past(&self) -> bool {
        matches!(self, Self::Removing | Self::Removed { .. })
    }
}

/// How far the events of a node were taken over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The node.
    pub node: NodeName,
    /// The newest of its events that is stored.
    pub sequence: u64,
    /// The log that this number is of.
    #[serde(default)]
    pub log: Option<EventLogId>,
}

/// Whose records these are. Made with the database and restored with it: what a node reports with
/// this id and no record knows was decided after the backup that the records come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lineage {
    /// The id.
    pub id: ControllerId,
}

/// Something that a node has and no record knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stray {
    /// The node.
    pub node: NodeName,
    /// What it is.
    pub thing: Thing,
    /// Whether these records had it made: then it is ended. What others had made is left alone.
    pub is_ours: bool,
    /// Since when it is known.
    pub since: Timestamp,
}

/// What a stray is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Thing {
    /// An instance.
    Instance(InstanceId),
    /// A build.
    Build(DeploymentId),
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instance(id) => write!(f, "instance {id}"),
            Self::Build(id) => write!(f, "build {id}"),
        }
    }
}

impl Stray {
    fn key(&self) -> String {
        match &self.thing {
            Thing::Instance(id) => format!("{}.instance.{id}", self.node),
            Thing::Build(id) => format!("{}.build.{id}", self.node),
        }
    }
}

/// A router that has reported. Whoever starts next waits for it, until it is gone for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownRouter {
    /// Its name: its node.
    pub name: NodeName,
    /// When it reported first.
    pub since: Timestamp,
}

/// The numbers of the stored events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// The oldest that is kept.
    pub first: u64,
    /// The next.
    pub next: u64,
}

macro_rules! record {
    ($type:ident, $kind:literal, $version:literal, $self:ident => $id:expr) => {
        impl Record for $type {
            const KIND: &'static str = $kind;
            const VERSION: u32 = $version;
            fn id(&$self) -> String {
                $id
            }
        }
    };
}

record!(User, "user", 1, self => self.id.to_string());
record!(Token, "token", 1, self => self.id.to_string());

impl Record for Registry {
    const KIND: &'static str = "registry";
    const VERSION: u32 = 2;
    fn id(&self) -> String {
        format!("{}.{}", self.user, self.name)
    }
    fn upgrade(_version: u32, mut value: serde_json::Value) -> serde_json::Value {
        let login = value["login"].take();
        let username = login.as_object().and_then(|login| login.keys().next()).cloned().unwrap_or_default();
        value["username"] = username.into();
        value["password"] = serde_json::json!({ "plain": login });
        value
    }
}

record!(App, "app", 2, self => self.name.to_string());
record!(Deployment, "deployment", 2, self => self.id.to_string());
record!(PastRelease, "release", 1, self => format!("{}.{:010}", self.app, self.number));
record!(Build, "build", 1, self => self.deployment.to_string());
record!(Instance, "instance", 1, self => self.id.to_string());
record!(Cursor, "cursor", 1, self => self.node.to_string());
record!(Lineage, "lineage", 1, self => "controller".to_owned());
record!(Stray, "stray", 1, self => self.key());
record!(KnownRouter, "router", 1, self => self.name.to_string());
record!(Counter, "counter", 1, self => "events".to_owned());
