//! What nobody owns is removed: groups, links and folders without a record, at the start of the
//! agent; and everything, for an uninstall.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use drowse_api::instance::Workload;

use crate::cgroup::{Cgroups, Leaf, Place};
use crate::config::Config;
use crate::daemon::{StartError, network};
use crate::events::EventLog;
use crate::host::home::{self, Home, remove_folder};
use crate::host::{Node, SITES};
use crate::instance::host::Record;
use crate::network::Owner;

/// Moves folders with damaged records aside, so that nothing in them is lost or acted on.
pub fn quarantine(config: &Config, events: &EventLog, damaged: Vec<(PathBuf, String)>) {
    let aside = config.data_dir.join("quarantine");
    for (folder, what) in damaged {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let place = (0..1000).map(|n| aside.join(format!("{name}.{n}"))).find(|place| !place.exists());
        let moved = place.map(|place| {
            std::fs::create_dir_all(&aside).and_then(|()| std::fs::rename(&folder, &place)).map(|()| place)
        });
        let outcome = match moved {
            Some(Ok(place)) => format!("its files are kept in {}", place.display()),
            Some(Err(error)) => format!("its files could not be moved aside: {error}"),
            None => "its files could not be moved aside".to_owned(),
        };
        events.about_node(format!("the record of instance {name} is damaged and was quarantined ({what}); {outcome}"));
    }
}

/// Removes what an earlier agent left without a record.
pub async fn ownerless(node: &Node, records: &[Record], folders: Vec<PathBuf>) {
    let homes: Vec<Home> = records.iter().map(|record| node.home(&record.life.spec)).collect();
    let places: BTreeSet<Place> = homes.iter().map(|home| home.place.clone()).collect();
    let owners: BTreeSet<Owner> = homes.iter().map(|home| home.owner.clone()).collect();
    let cgroups = std::sync::Arc::clone(&node.sandboxes.cgroups);
    let mut folders = folders;
    folders.extend(children(&home::runs(&node.config)));
    let swept = tokio::task::spawn_blocking(move || {
        places.iter().for_each(|place| crate::command::sweep(&*cgroups, place));
        for place in cgroups.list().unwrap_or_default() {
            if !places.contains(&place) {
                tracing::info!(%place, "removing groups that no record owns");
                empty(&*cgroups, &place);
            }
        }
        for folder in folders {
            if let Err(error) = remove_folder(&folder) {
                tracing::warn!("cannot remove {}: {error}", folder.display());
            }
        }
    });
    if let Err(error) = swept.await {
        tracing::error!("cleaning up broke off: {error}");
    }
    match node.sandboxes.network.list().await {
        Ok(links) => {
            for link in links.into_iter().filter(|link| !owners.contains(&link.owner)) {
                tracing::info!(link = link.name, "removing a link that no record owns");
                if let Err(error) = node.sandboxes.network.detach(&link.owner).await {
                    tracing::warn!("cannot remove link {}: {error}", link.name);
                }
            }
        }
        Err(error) => tracing::warn!("cannot look for links that no record owns: {error}"),
    }
    // An address that is published and owned by nobody would be routed twice when it is given again.
    let sites: BTreeSet<String> = records
        .iter()
        .filter(|record| record.life.spec.workload == Workload::Site)
        .map(|record| record.address.to_string())
        .collect();
    remove_foreign(&node.config.data_dir.join(SITES), |name| name.to_str().is_some_and(|name| sites.contains(name)));
    // Left by an agent that was killed while it made something.
    remove_foreign(&node.config.data_dir, |name| !name.to_string_lossy().starts_with(".tmp"));
    remove_foreign(&node.config.run_dir.join("runs"), |_| false);
    remove_foreign(&node.config.run_dir.join("instances"), |name| homes.iter().any(|home| ends_with(&home.run, name)));
}

/// Tears down everything of this configuration but its images: no agent may run. Blocking, as
/// everything in it but the network.
///
/// # Errors
/// If an agent runs, or something cannot be removed.
pub async fn everything(config: &Config) -> Result<(), StartError> {
    if !config.run_dir.exists() && !config.data_dir.exists() {
        return Ok(());
    }
    let lock = crate::daemon::lock(config)?;
    let cgroups = crate::cgroup::detect(&config.cgroup_root)?;
    for place in cgroups.list()? {
        empty(&*cgroups, &place);
    }
    cgroups.remove_root()?;
    network(config).teardown().await?;
    let runtime = [config.run_dir.clone()];
    // The images stay, and with them the records of the builds that they are from: a controller that
    // comes back finds both.
    let builds = home::builds(config);
    crate::build::forget_unfinished(&builds).map_err(|source| StartError::Io {
        action: "clean up",
        path: builds,
        source,
    })?;
    let data =
        [home::instances(config), home::runs(config), config.data_dir.join("system"), config.data_dir.join("sites")];
    for folder in data.iter().chain(&runtime) {
        remove_folder(folder).map_err(|source| StartError::Io { action: "remove", path: folder.clone(), source })?;
    }
    drop(lock);
    Ok(())
}

/// SIGTERM to every process of every app, and up to `grace` for them to end; what then remains is left
/// to who takes the host down. Blocking; no agent may run, or it would start the apps again.
///
/// # Errors
/// If an agent runs, or the groups cannot be read.
pub fn end_apps(config: &Config, grace: Duration) -> Result<(), StartError> {
    let _lock = crate::daemon::lock(config)?;
    let cgroups = crate::cgroup::detect(&config.cgroup_root)?;
    let places = cgroups.list()?;
    for place in &places {
        for pid in cgroups.processes(place, Leaf::App)? {
            // By descriptor: between the two looks the number may have become another process's.
            let opened = rustix::process::Pid::from_raw(pid)
                .and_then(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok());
            let Some(process) =
                opened.filter(|_| cgroups.processes(place, Leaf::App).is_ok_and(|now| now.contains(&pid)))
            else {
                continue;
            };
            if let Err(error) = rustix::process::pidfd_send_signal(&process, rustix::process::Signal::TERM) {
                tracing::debug!(%place, pid, "not told to end: {error}");
            }
        }
    }
    let deadline = Instant::now() + grace;
    let lives = |place: &Place| cgroups.is_populated(place, Leaf::App).unwrap_or(false);
    while places.iter().any(lives) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Kills what is in a place and removes it; best effort, as the next start tries again.
fn empty(cgroups: &dyn Cgroups, place: &Place) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let killed = cgroups.kill_all(place);
    while Leaf::ALL.iter().any(|leaf| cgroups.is_populated(place, *leaf).unwrap_or(false)) && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    if let Err(error) = killed.and_then(|()| cgroups.remove(place)) {
        tracing::warn!(%place, "cannot remove groups: {error}");
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn remove_foreign(folder: &Path, is_owned: impl Fn(&std::ffi::OsStr) -> bool) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if !is_owned(&entry.file_name())
            && let Err(error) = remove_folder(&entry.path())
        {
            tracing::warn!("cannot remove {}: {error}", entry.path().display());
        }
    }
}

fn ends_with(path: &Path, name: &std::ffi::OsStr) -> bool {
    path.file_name() == Some(name)
}
