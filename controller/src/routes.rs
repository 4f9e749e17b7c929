//! The table that routers serve by, made from the records alone: what an instance does at this
//! moment is the router's own knowledge, so that nothing here changes when an agent is away.

use std::collections::BTreeMap;
use std::sync::Arc;

use drowse_api::platform::Wanted;
use drowse_api::routing::{Endpoint, Route, RouteTable};
use drowse_api::{HostName, RunId};
use tokio::sync::watch;

use crate::desired::Desired;
use crate::model::{App, Deployment, Instance, Life, Release};
use crate::phase::Phase;
use crate::picture::Published;
use crate::sleep::{Policy, SleepDefaults, live_deployment, sleep_policy};

/// The label of a deployment's own address.
#[must_use]
pub fn deployment_label(app: &str, deployment: &str) -> String {
    format!("{app}--d-{deployment}")
}

/// The label of an instance's own address.
#[must_use]
pub fn instance_label(app: &str, instance: &str) -> String {
    format!("{app}--i-{instance}")
}

/// What answers for every host name.
#[must_use]
pub fn hosts(desired: &Desired, domain: &HostName, sleep: &SleepDefaults) -> BTreeMap<HostName, Route> {
    let mut hosts = BTreeMap::new();
    let mut add = |label: &str, route: Route| match HostName::parse(format!("{label}.{domain}")) {
        Ok(host) => drop(hosts.insert(host, route)),
        Err(error) => tracing::error!(%error, "a host name that cannot be: left out"),
    };
    add("api", Route::Controller);
    let mut by_app: BTreeMap<&str, Vec<&Arc<Instance>>> = BTreeMap::new();
    for instance in desired.instances.iter() {
        by_app.entry(instance.app.as_str()).or_default().push(instance);
    }
    let mut by_deployment: BTreeMap<&str, Vec<&Arc<Deployment>>> = BTreeMap::new();
    for deployment in desired.deployments.iter() {
        by_deployment.entry(deployment.app.as_str()).or_default().push(deployment);
    }
    for app in desired.apps.iter() {
        let instances = by_app.get(app.name.as_str()).map_or(&[][..], Vec::as_slice);
        let name = app.name.as_str();
        let policy = &sleep_policy(app, live_deployment(desired, app), None, sleep);
        add(name, app_route(desired, app, policy, instances));
        for deployment in by_deployment.get(name).into_iter().flatten() {
            add(&deployment_label(name, deployment.id.as_str()), kept_route(app, deployment));
        }
        for instance in instances.iter().filter(|instance| instance.life == Life::Serving) {
            let deployment = instance.deployment.as_str();
            add(&instance_label(name, instance.id.as_str()), to(app, policy, &[instance]));
            let of_deployment: Vec<_> = instances
                .iter()
                .copied()
                .filter(|other| other.life == Life::Serving && other.deployment == instance.deployment)
                .collect();
            add(&deployment_label(name, deployment), to(app, policy, &of_deployment));
        }
    }
    hosts
}

fn to(app: &App, policy: &Policy, instances: &[&Arc<Instance>]) -> Route {
    let endpoints: Vec<_> = instances
        .iter()
        .map(|instance| Endpoint { node: instance.node.clone(), instance: instance.id.clone() })
        .collect();
    match instances.first() {
        Some(first) => {
            let (app, deployment) = (app.name.clone(), first.deployment.clone());
            Route::Instances { app, deployment, endpoints, wake: policy.wake, glances: policy.glances }
        }
        None => unavailable(app, "starting", "This app is being started.".to_owned()),
    }
}

fn unavailable(app: &App, code: &str, message: String) -> Route {
    Route::Unavailable { app: app.name.clone(), code: code.to_owned(), message }
}

/// What a deployment's own address says while nothing serves for it.
fn kept_route(app: &App, deployment: &Deployment) -> Route {
    let is_of = |release: &Option<Release>| release.as_ref().is_some_and(|release| release.deployment == deployment.id);
    let id = &deployment.id;
    match &deployment.phase {
        _ if app.wanted == Wanted::Stopped && is_of(&app.live) => {
            unavailable(app, "stopped", "This app was stopped by its owner.".to_owned())
        }
        Phase::BuildError(_) => {
            unavailable(app, "build-error", format!("Deployment {id} of this app was never built: its build failed."))
        }
        Phase::DeploymentError(error) => {
            let code = error.problem().code.as_str();
            unavailable(app, code, format!("Deployment {id} of this app failed and does not run."))
        }
        _ if is_of(&app.live) || is_of(&app.pending) => {
            unavailable(app, "starting", format!("Deployment {id} of this app is being started."))
        }
        _ => {
            let message = format!(
                "Deployment {id} of this app does not serve: another one does. Its owner can bring it back with \
                 `drowse promote {id}`."
            );
            unavailable(app, "not-live", message)
        }
    }
}

fn app_route(desired: &Desired, app: &App, policy: &Policy, instances: &[&Arc<Instance>]) -> Route {
    if app.wanted == Wanted::Stopped {
        return unavailable(app, "stopped", "This app was stopped by its owner.".to_owned());
    }
    let Some(live) = &app.live else {
        return if app.pending.is_some() {
            unavailable(app, "starting", "This app is being deployed for the first time.".to_owned())
        } else {
            unavailable(app, "not-deployed", "No deployment of this app has become ready yet.".to_owned())
        };
    };
    if let Some(deployment) = desired.deployments.get(live.deployment.as_str())
        && let Phase::DeploymentError(error) = &deployment.phase
    {
        return unavailable(
            app,
            error.problem().code.as_str(),
            "This app failed and does not run at the moment.".to_owned(),
        );
    }
    let serving: Vec<_> =
        instances.iter().copied().filter(|instance| instance.life == Life::Serving && live.has(instance)).collect();
    to(app, policy, &serving)
}

/// The published table. One writer, the reconciler.
#[derive(Debug)]
pub struct Publisher {
    domain: HostName,
    run: RunId,
    sleep: SleepDefaults,
    table: watch::Sender<Arc<RouteTable>>,
    /// The records that the table was made from.
    made_from: Desired,
}

impl Publisher {
    /// With the table of these records.
    #[must_use]
    pub fn new(domain: HostName, sleep: SleepDefaults, desired: &Desired) -> Self {
        let run = RunId::generate();
        let table = table(&domain, &run, desired, hosts(desired, &domain, &sleep));
        Self { domain, run, sleep, table: watch::Sender::new(Arc::new(table)), made_from: desired.clone() }
    }

    /// For those who follow it.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.table.subscribe()
    }

    /// Brings the table up to these records. Its revision rises only if its content changes.
    pub fn publish(&mut self, desired: &Desired) -> Published {
        if desired.revision > self.made_from.revision {
            if !is_same(desired, &self.made_from) {
                let hosts = hosts(desired, &self.domain, &self.sleep);
                if hosts != self.table.borrow().hosts {
                    self.table.send_replace(Arc::new(table(&self.domain, &self.run, desired, hosts)));
                }
            }
            self.made_from = desired.clone();
        }
        let as_of = self.made_from.revision;
        Published { domain: self.domain.clone(), run: self.run.clone(), table: self.table.borrow().revision, as_of }
    }
}

/// Whether no record that [`hosts`] looks at changed between the two.
fn is_same(one: &Desired, other: &Desired) -> bool {
    one.apps.is_same(&other.apps)
        && one.deployments.is_same(&other.deployments)
        && one.instances.is_same(&other.instances)
}

fn table(domain: &HostName, run: &RunId, desired: &Desired, hosts: BTreeMap<HostName, Route>) -> RouteTable {
    RouteTable { revision: desired.revision.0, run: Some(run.clone()), domain: domain.to_string(), hosts }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use drowse_api::deployment::AppType;
    use drowse_api::manifest::Manifest;
    use drowse_api::{AppName, DeploymentId, Digest, NodeName, UserId};
    use drowse_store::Revision;

    use super::*;
    use crate::api::access::Caller;
    use crate::api::deploy::{Upload, accepted};

    /// What clients take as one line (`drowse_api::client`).
    const LONGEST_LINE: usize = 16 << 20;
    const APPS: usize = 1000;
    /// Of an app, with what else is kept for its releases.
    const KEPT: usize = 15;

    #[test]
    fn the_table_of_a_thousand_apps_is_far_from_too_long_for_one_line() {
        let caller = Caller { user: UserId::generate(), name: "owner".into(), by: "test".into(), is_admin: true };
        let (manifest, node) = (Manifest::default(), NodeName::parse("node-1").expect("a name"));
        let source = Digest::from_sha256([1; 32]);
        let upload = Upload { app_type: AppType::Npm, manifest: &manifest, node: &node, source: &source };
        let mut desired = Desired::default();
        for number in 0..APPS {
            let name = AppName::parse(format!("app-of-somebody-{number}")).expect("a name");
            for _ in 0..KEPT {
                let (step, _) = accepted(&desired, &caller, &name, &DeploymentId::generate(), &upload);
                step.writes.iter().for_each(|write| desired.apply(write, Revision(1)));
            }
        }
        let domain = HostName::parse("drowse.localhost").expect("a name");
        let began = Instant::now();
        let hosts = hosts(&desired, &domain, &SleepDefaults::default());
        let made = began.elapsed();
        assert_eq!(hosts.len(), 1 + APPS * (1 + KEPT));
        let table = table(&domain, &RunId::generate(), &desired, hosts);
        let line = serde_json::to_vec(&table).expect("is JSON");
        println!("{APPS} apps: {} hosts, {} KiB, made in {made:?}", table.hosts.len(), line.len() / 1024);
        assert!(line.len() < LONGEST_LINE / 2, "{} bytes", line.len());
    }
}
