//! One command of a build, run in a sandbox over an image: its output kept, its time limited, its
//! end explained, and what it wrote handed on.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use drowse_api::agent::{BuildRequest, BuildStatus};
use drowse_api::instance::Limits;
use drowse_api::{Digest, ErrorCode, Problem};
use drowse_launcher::{Bind, InjectedFile, SeccompProfile};
use drowse_rootfs::IdRange;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use crate::cgroup::Usage;
use crate::host::error::SandboxError;
use crate::host::home::{Home, remove_file, remove_folder};
use crate::host::plan::{self, Wanted};
use crate::host::sandbox::{Written, blocking};
use crate::host::{Node, files, process};
use crate::{logs, problem};

const LAST_WORDS: usize = 50;
/// How often it is looked whether a command still can go on.
const LOOK: Duration = Duration::from_millis(500);
/// How long a command may be at its limit of processes before it is ended.
const STUCK: Duration = Duration::from_secs(5);

/// What all steps of one build share.
pub(super) struct Workshop<'a> {
    pub node: &'a Node,
    pub request: &'a BuildRequest,
    pub home: &'a Home,
    pub address: Ipv4Addr,
    pub ids: IdRange,
    pub status: &'a watch::Sender<BuildStatus>,
    pub cancel: &'a CancellationToken,
    pub deadline: Instant,
}

/// What a step has beside its image.
pub(super) struct Extra {
    /// Folders of the host.
    pub binds: Vec<Bind>,
    /// What it may ask of the kernel; a builder is root inside.
    pub profile: SeccompProfile,
    /// Its environment, where that is not the app's.
    pub env: Option<BTreeMap<String, String>>,
}

impl Workshop<'_> {
    /// Tells the user something.
    pub fn say(&self, text: &str) {
        logs::say(&self.home.folder, text);
    }

    /// Runs `script` by bash over `image`, and hands on what it wrote.
    ///
    /// # Errors
    /// `build-error` if it fails, runs out of memory or time; `disk-full`; what the host lacks.
    pub async fn run(&self, image: &Digest, shown: &str, script: &str) -> Result<Written, Problem> {
        // Nobody else has it until the command has ended.
        let cache = self.cache().await?;
        self.execute(image, shown, self.wanted(script, &cache)).await
    }

    /// As [`run`](Self::run), with what else a step sees of the host, and may do; without the cache.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn run_with(&self, image: &Digest, shown: &str, script: &str, extra: Extra) -> Result<Written, Problem> {
        let wanted = self.wanted(script, &Cache::None);
        let env = extra.env.unwrap_or(wanted.env);
        self.execute(image, shown, Wanted { binds: extra.binds, profile: extra.profile, env, ..wanted }).await
    }

    /// Runs what is `wanted` over `image`, and hands on what it wrote.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub async fn execute(&self, image: &Digest, shown: &str, wanted: Wanted) -> Result<Written, Problem> {
        let home = self.home;
        if self.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let (node, image) = (self.node.clone(), image.clone());
        let (upper, disk) = (home.folder.join("upper"), home.disk());
        let made = blocking(move || {
            // What an earlier step over the same image wrote is not this one's.
            remove_folder(&upper).map_err(|source| SandboxError::io("remove", &upper, source))?;
            remove_file(&disk).map_err(|source| SandboxError::io("remove", &disk, source))?;
            let image = node.store.image(&image)?;
            let layers = node.store.unpack(&image)?;
            let mut plan = plan::of(&node, wanted, &image, layers)?;
            plan.files.extend(own_authorities(&node));
            Ok(plan)
        });
        let plan = made.await.map_err(|error| problem::of_sandbox(&error))?;
        let sandboxes = &self.node.sandboxes;
        sandboxes.raise(&plan).await.map_err(|error| problem::of_sandbox(&error))?;
        if matches!(*self.status.borrow(), BuildStatus::Preparing) {
            self.status.send_replace(BuildStatus::Booted);
        }
        self.say(&format!("$ {shown}"));
        self.status.send_replace(BuildStatus::Building { step: shown.to_owned() });
        let app = sandboxes.run(&plan).await.map_err(|error| problem::of_sandbox(&error))?;
        let stopped = tokio::select! {
            () = sandboxes.ended(home, app) => None,
            () = tokio::time::sleep_until(self.deadline) => Some(self.out_of_time(shown)),
            () = self.is_stuck() => Some(self.out_of_processes(&format!("{shown} was ended"))),
            () = self.cancel.cancelled() => Some(cancelled()),
        };
        let refused = self.refused_forks().await > 0;
        let ended = sandboxes.collect(home, app).await;
        sandboxes.clear(home).await.map_err(|error| problem::of_sandbox(&error))?;
        if let Some(problem) = stopped {
            return Err(self.explained(problem));
        }
        if ended.out_of_memory {
            let detail = format!("out of memory: {shown} used up its {}", self.request.limits.memory);
            return Err(self.explained(Problem::new(ErrorCode::BuildError, detail)));
        }
        match ended.status {
            Some(0) => {
                let (sandboxes, home) = (sandboxes.clone(), home.clone());
                let written = blocking(move || sandboxes.written(&home)).await;
                written.map_err(|error| problem::of_sandbox(&error))
            }
            status => {
                let what = status.map_or_else(|| "ended with its sandbox".to_owned(), process::in_words);
                let what = format!("{shown} {what}");
                let problem =
                    if refused { self.out_of_processes(&what) } else { Problem::new(ErrorCode::BuildError, what) };
                Err(self.explained(problem))
            }
        }
    }

    fn wanted(&self, script: &str, cache: &Cache) -> Wanted {
        let mut env: BTreeMap<String, String> = [
            ("CI", "true"),
            ("npm_config_cache", cache.npm()),
            ("npm_config_audit", "false"),
            ("npm_config_fund", "false"),
            ("npm_config_progress", "false"),
            ("PIP_CACHE_DIR", cache.pip()),
            ("PIP_PROGRESS_BAR", "off"),
            ("SSL_CERT_FILE", files::CA_BUNDLE),
            ("NODE_EXTRA_CA_CERTS", files::CA_BUNDLE),
            ("PIP_CERT", files::CA_BUNDLE),
            ("REQUESTS_CA_BUNDLE", files::CA_BUNDLE),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        env.extend(self.request.env.clone());
        Wanted {
            home: self.home.clone(),
            ids: self.ids,
            limits: self.limits(),
            address: self.address,
            host_name: format!("build-{}", self.request.deployment),
            env,
            command: Some(["/bin/bash", "-c", script].map(ToOwned::to_owned).to_vec()),
            binds: cache.bind().into_iter().collect(),
            profile: SeccompProfile::Default,
        }
    }

    /// Where package managers of this user keep what they fetched.
    async fn cache(&self) -> Result<Cache, Problem> {
        let (node, user, ids) = (self.node.clone(), self.request.user.clone(), self.ids);
        let limits = self.limits();
        let opened = blocking(move || Cache::open(&node, &user, ids, &limits)).await;
        opened.map_err(|error| problem::of_sandbox(&error))
    }

    /// What a step may use.
    pub fn limits(&self) -> Limits {
        let limits = self.request.limits;
        Limits {
            memory: limits.memory,
            pids: limits.pids,
            cpu_weight: limits.cpu_weight,
            disk: limits.disk,
            files: limits.files,
        }
    }

    async fn usage(&self) -> Option<Usage> {
        let (cgroups, place) = (self.node.sandboxes.cgroups.clone(), self.home.place.clone());
        blocking(move || Ok(cgroups.usage(&place)?)).await.ok()
    }

    async fn refused_forks(&self) -> u64 {
        let (cgroups, place) = (self.node.sandboxes.cgroups.clone(), self.home.place.clone());
        blocking(move || Ok(cgroups.refused_forks(&place)?)).await.unwrap_or_default()
    }

    /// Ready when it has had all the processes that it may for a while, and wants more: what forks
    /// without end does not fail by itself.
    async fn is_stuck(&self) {
        let limit = u64::from(self.request.limits.pids);
        let mut since = None;
        loop {
            tokio::time::sleep(LOOK).await;
            let usage = self.usage().await.unwrap_or_default();
            if usage.pids * 10 < limit * 9 || self.refused_forks().await == 0 {
                since = None;
            } else if since.get_or_insert_with(Instant::now).elapsed() > STUCK {
                return;
            }
        }
    }

    pub fn out_of_time(&self, shown: &str) -> Problem {
        let seconds = self.request.limits.timeout_seconds;
        let detail = format!("time limit: the build took longer than {seconds} s; {shown} was ended");
        Problem::new(ErrorCode::BuildError, detail)
    }

    fn out_of_processes(&self, what: &str) -> Problem {
        let pids = self.request.limits.pids;
        Problem::new(ErrorCode::BuildError, format!("process limit: it wanted more than {pids} processes; {what}"))
    }

    /// With the last lines of the log, and what they tell of the cause.
    pub fn explained(&self, problem: Problem) -> Problem {
        const FULL: [&str; 4] = ["ENOSPC", "No space left on device", "EDQUOT", "Disk quota exceeded"];
        let log = logs::last_words(&self.home.folder, LAST_WORDS);
        let full = log.iter().any(|line| FULL.iter().any(|word| line.contains(word)));
        let problem = problem.log(log);
        let disk = self.request.limits.disk;
        if full {
            let detail = format!("disk full: {}", problem.detail);
            Problem { code: ErrorCode::DiskFull, detail, ..problem }.hint(format!(
                "a step of a build may write {disk}; use less, or have the operator raise build.disk or free the node's"
            ))
        } else {
            problem
        }
    }
}

pub(super) fn cancelled() -> Problem {
    Problem::new(ErrorCode::Superseded, "the build was cancelled")
}

/// Builds see the host's authorities even where none are configured: they fetch through whatever the host does.
fn own_authorities(node: &Node) -> Option<InjectedFile> {
    let own = PathBuf::from(files::CA_BUNDLE);
    (node.config.ca_bundle.is_none() && own.is_file()).then(|| InjectedFile { path: own.clone(), host_path: own })
}
