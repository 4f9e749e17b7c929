//! Commands in sandboxes of their own: raised for them, and removed with everything when they end.

use std::net::Ipv4Addr;

use drowse_api::agent::RunRequest;
use drowse_api::exec::Job;
use drowse_api::{ErrorCode, InstanceId, Problem};
use drowse_rootfs::Hold;

use super::start::{self, Running};
use super::{Commands, blocking, check, lock};
use crate::host::error::SandboxError;
use crate::host::home::{Home, remove_folder};
use crate::host::plan;
use crate::problem;

/// What a command's own sandbox was lent.
pub(super) struct Lease {
    commands: Commands,
    id: InstanceId,
    home: Home,
    address: Ipv4Addr,
    /// The image stays for as long as it is used.
    _image: Hold,
}

impl Commands {
    /// Starts a command in a sandbox of its own.
    ///
    /// # Errors
    /// As [`beside`](Self::beside), and `exhausted` if no address is free.
    pub async fn alone(&self, request: RunRequest) -> Result<Running, Problem> {
        check(&request.exec)?;
        let Job::Command(words) = request.exec.job.clone() else {
            return Err(Problem::new(ErrorCode::BadRequest, "files are copied into and out of running instances"));
        };
        let id = InstanceId::generate();
        let address = self.addresses.take();
        let address = address.map_err(|error| Problem::new(ErrorCode::Exhausted, error.to_string()))?;
        let home = Home::run(&self.node.config, &request.user, &id);
        let lease = Lease {
            commands: self.clone(),
            id: id.clone(),
            home: home.clone(),
            address,
            _image: self.node.store.hold(),
        };
        lock(&self.runs).insert(id, request.app.clone());
        let made = self.raise(&request, words, home, address).await;
        match made {
            Ok((cage, main, ends)) => Ok(Running { cage, main, ends: Some(ends), app: None, lease: Some(lease) }),
            Err(problem) => {
                lease.give_back().await;
                Err(problem)
            }
        }
    }

    async fn raise(
        &self,
        request: &RunRequest,
        words: Vec<String>,
        home: Home,
        address: Ipv4Addr,
    ) -> Result<(super::cage::Cage, super::cage::Main, start::Ends), Problem> {
        let (node, owned) = (self.node.clone(), request.clone());
        let plan = blocking(move || {
            std::fs::create_dir_all(&home.folder)
                .map_err(|source| problem::of_sandbox(&SandboxError::io("make", &home.folder, source)))?;
            plan::of_run(&node, home, &owned, &words, address).map_err(|error| problem::of_sandbox(&error))
        })
        .await?;
        self.node.sandboxes.raise(&plan).await.map_err(|error| problem::of_sandbox(&error))?;
        fail::fail_point!("run-raised");
        let (node, exec) = (self.node.clone(), request.exec.clone());
        blocking(move || start::alone(&node, &plan, &exec)).await
    }
}

impl Lease {
    /// Takes the sandbox down, with all that was written in it.
    pub(super) async fn give_back(self) {
        let Self { commands, id, home, address, _image } = self;
        let cleared = async {
            commands.node.sandboxes.clear(&home).await?;
            crate::host::sandbox::blocking(move || {
                remove_folder(&home.folder).map_err(|source| SandboxError::io("remove", &home.folder, source))
            })
            .await
        };
        match cleared.await {
            Ok(()) => commands.addresses.free(address),
            // The address stays taken: its link may be there. The next agent cleans up.
            Err(error) => tracing::error!(%id, "the sandbox of a command was not removed: {}", error.in_full()),
        }
        lock(&commands.runs).remove(&id);
    }
}
