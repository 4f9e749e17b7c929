//! What tests ask of a world's controller: deploys, and waits for what follows.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use drowse_api::agent::InstancesPicture;
use drowse_api::client::Client;
use drowse_api::deployment::{AppType, DeploymentState};
use drowse_api::event::Event;
use drowse_api::instance::{InstanceState, InstanceStatus};
use drowse_api::platform::{AppLogLine, AppView, DeploymentUpdate, DeploymentView};
use drowse_api::{InstanceId, Problem};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;

use super::{PATIENCE, World};
use crate::apps::App;
use crate::machine::Process;
use crate::wait;

/// A deploy that ended, and what its build wrote.
#[derive(Debug)]
pub struct Deployed {
    /// As it ended.
    pub deployment: DeploymentView,
    /// The build's log.
    pub log: Vec<String>,
}

impl Deployed {
    /// The build's log as one text.
    #[must_use]
    pub fn log_text(&self) -> String {
        self.log.join("\n")
    }
}

/// How long a deploy with a build may take.
const DEPLOY: Duration = Duration::from_secs(240);

impl World {
    /// Deploys a folder, which must succeed.
    ///
    /// # Panics
    /// When it does not, with the build's log.
    pub async fn deploy(&self, app: &str, source: &App) -> Deployed {
        self.deploy_folder(app, source.app_type(), source.path()).await
    }

    /// As [`deploy`](Self::deploy), of any folder.
    ///
    /// # Panics
    /// When it does not succeed, with the build's log.
    pub async fn deploy_folder(&self, app: &str, app_type: AppType, folder: &Path) -> Deployed {
        let deployed = self.try_deploy_folder(app, app_type, folder).await;
        let deployed = deployed.unwrap_or_else(|problem| panic!("{app} was refused: {problem:?}"));
        let DeploymentView { state, problem, .. } = &deployed.deployment;
        assert!(
            state.state == DeploymentState::Ready,
            "{app} ended as {} ({}): {problem:?}\n{}",
            state.state,
            state.reason,
            deployed.log_text()
        );
        deployed
    }

    /// Deploys a folder and follows it to its end, whichever that is.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub async fn try_deploy(&self, app: &str, source: &App) -> Result<Deployed, Problem> {
        self.try_deploy_folder(app, source.app_type(), source.path()).await
    }

    /// As [`try_deploy`](Self::try_deploy), of any folder.
    ///
    /// # Errors
    /// When the controller refuses it.
    pub async fn try_deploy_folder(&self, app: &str, app_type: AppType, folder: &Path) -> Result<Deployed, Problem> {
        let accepted = upload(&self.controller(), app, app_type, folder).await?;
        let path = format!("/v1/deployments/{}/watch", accepted.id);
        let mut updates = self.controller().lines::<DeploymentUpdate>(&path).await?;
        let mut log = Vec::new();
        let mut last = accepted;
        let follow = async {
            while let Some(update) = updates.next().await? {
                match update {
                    DeploymentUpdate::State { deployment } => last = deployment,
                    DeploymentUpdate::Log { line } => log.push(line.text),
                }
            }
            Ok::<_, Problem>(())
        };
        let ended = tokio::time::timeout(DEPLOY, follow).await;
        ended.unwrap_or_else(|_| panic!("the deploy of {app} has not ended in {} s", DEPLOY.as_secs()))?;
        Ok(Deployed { deployment: last, log })
    }

    /// An app, as its owner sees it.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn app(&self, app: &str) -> Result<AppView, Problem> {
        self.controller().get(&format!("/v1/apps/{app}")).await
    }

    /// A command without a body: `restart`, `stop`, `start`.
    ///
    /// # Errors
    /// What the controller answers.
    pub async fn command(&self, app: &str, command: &str) -> Result<AppView, Problem> {
        self.controller().call(Method::POST, &format!("/v1/apps/{app}/{command}"), None::<&()>).await
    }

    /// The instances that the agent knows of.
    ///
    /// # Errors
    /// What the agent answers.
    pub async fn instances(&self) -> Result<Vec<InstanceStatus>, Problem> {
        self.agent().get("/v1/instances").await
    }

    /// The agent's stream of pictures.
    ///
    /// # Errors
    /// What the agent answers.
    pub async fn watch_instances(&self) -> Result<drowse_api::client::Lines<InstancesPicture>, Problem> {
        self.agent().lines("/v1/instances/watch").await
    }

    /// The one instance of an app, as the agent reports it; those that are being stopped are waited for.
    pub async fn instance(&self, app: &str) -> InstanceStatus {
        wait::until(&format!("{app} has one instance"), PATIENCE, async || {
            let all = self.instances().await.ok()?;
            let mut own: Vec<_> = all.into_iter().filter(|status| status.app.as_str() == app).collect();
            if own.len() == 1 { own.pop() } else { None }
        })
        .await
    }

    /// Waits until an instance is in a state that `fits`.
    pub async fn instance_becomes(
        &self,
        id: &InstanceId,
        what: &str,
        fits: impl Fn(&InstanceStatus) -> bool,
    ) -> InstanceStatus {
        wait::until(&format!("instance {id} {what}"), PATIENCE, async || {
            let all = self.instances().await.ok()?;
            all.into_iter().find(|status| status.id == *id && fits(status))
        })
        .await
    }

    /// Waits until an instance is ready, with another main process than this one.
    pub async fn ready_again(&self, id: &InstanceId, not: Option<Process>) -> InstanceStatus {
        self.instance_becomes(id, "is ready again", |status| status.state.is_ready() && main_process(status) != not)
            .await
    }

    /// Waits until visitors get this text (or one that begins with it) from an app.
    pub async fn serves(&self, app: &str, path: &str, text: &str) -> String {
        let visitor = self.visitor();
        let what = format!("{app}{path} answers {text:?}");
        wait::until_ok(&what, PATIENCE, async || {
            let answer = visitor.get(app, path).await?.ok()?;
            if !answer.starts_with(text) {
                anyhow::bail!("it answers {answer:?}");
            }
            Ok(answer)
        })
        .await
    }

    /// The last events of an app, oldest first.
    ///
    /// # Panics
    /// When the controller does not answer.
    pub async fn events(&self, app: &str) -> Vec<Event> {
        let path = format!("/v1/events?app={app}&tail=1000");
        let mut lines = self.controller().lines::<Event>(&path).await.expect("the controller answers");
        let mut events = Vec::new();
        while let Some(event) = lines.next().await.expect("events") {
            events.push(event);
        }
        events
    }

    /// The app's log.
    ///
    /// # Panics
    /// When the controller does not answer.
    pub async fn app_log(&self, app: &str) -> Vec<AppLogLine> {
        let path = format!("/v1/apps/{app}/logs?tail=1000");
        let mut lines = self.controller().lines::<AppLogLine>(&path).await.expect("the controller answers");
        let mut log = Vec::new();
        while let Some(line) = lines.next().await.expect("log lines") {
            log.push(line);
        }
        log
    }
}

/// The main process of an instance, if it has one.
#[must_use]
pub fn main_process(status: &InstanceStatus) -> Option<Process> {
    status.process.map(|process| Process { pid: process.pid, start_time: process.start_time })
}

/// Why an instance is down, if it is.
#[must_use]
pub fn failure(state: &InstanceState) -> Option<&drowse_api::instance::Failure> {
    match state {
        InstanceState::Backoff { cause, .. } => Some(cause),
        InstanceState::Failed { failure } => Some(failure),
        _ => None,
    }
}

/// Sends a folder to the controller; the deploy goes on by itself.
///
/// # Errors
/// What the controller answers.
pub async fn upload(client: &Client, app: &str, app_type: AppType, folder: &Path) -> Result<DeploymentView, Problem> {
    let archive = Bytes::from(archive(folder).expect("the folder can be read"));
    let chunks = futures_util::stream::iter([Ok::<_, std::io::Error>(archive)]);
    client.upload(Method::POST, &format!("/v1/apps/{app}/deployments?type={app_type}"), chunks).await
}

/// A folder as the command line would send it: a gzip-compressed tar.
///
/// # Errors
/// When the folder cannot be read.
pub fn archive(folder: &Path) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    tar.follow_symlinks(false);
    tar.append_dir_all(".", folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(tar.into_inner()?.finish()?)
}
