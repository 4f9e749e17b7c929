//! The quick way from nothing to a running app: sandbox, link and process are made at the same time, and
//! the process executes its program when all of them are there.
//!
//! One that stands already is used as it is; see [`Sandboxes::raise`] and [`Sandboxes::run`].

use drowse_api::instance::ProcessIdentity;
use drowse_launcher::disk::Disk;
use drowse_launcher::init::InitClient;
use drowse_launcher::{AppFds, Clock, ProcessRequest, Ready};
use fail::fail_point;

use super::error::SandboxError;
use super::kept::Kept;
use super::ready::Member;
use super::sandbox::{Plan, Room, Sandboxes, inodes, lacks_time_namespaces, pipes};
use crate::cgroup::{Leaf, Made};
use crate::instance::state::App;
use crate::network::SpareLink;

impl Sandboxes {
    /// Makes what is missing of a sandbox and starts the plan's process in it. Never leaves an older one
    /// running. Blocking.
    ///
    /// # Errors
    /// Names the step that failed; what was made is left for the next try or for [`clear`](Self::clear), but
    /// nothing of the process.
    pub fn launch(&self, plan: &Plan) -> Result<App, SandboxError> {
        let _start = self.pool.start();
        match self.make_room(plan)? {
            Room::Standing(init) => {
                self.attach(plan, init)?;
                self.start(plan)
            }
            Room::Empty { made, disk } => self.make_all(plan, made, disk),
        }
    }

    fn make_all(&self, plan: &Plan, groups: Made, disk: Option<Disk>) -> Result<App, SandboxError> {
        let home = &plan.home;
        let process = plan.spec.process().clone().ok_or(SandboxError::NoProcess)?;
        let process = ProcessRequest { process, ids: plan.ids, seccomp: plan.profile };
        let (spaces, spare) = match self.pool.take() {
            Some(Member { spaces, link }) => (spaces, Some(link)),
            None => (self.launcher.prepare()?, None),
        };
        fail_point!("ready-taken");
        let kills_before = match groups {
            Made::New => 0,
            Made::Kept => {
                // They may be those of an instance that was killed in its sleep.
                if self.cgroups.is_frozen(&home.place)? {
                    self.cgroups.thaw(&home.place)?;
                }
                self.cgroups.oom_kills(&home.place)?
            }
        };
        let request = self.request(plan);
        let [(out_read, out), (err_read, err)] = pipes()?;
        let streams = inodes([&out, &err])?;
        let cgroups = self.cgroups.open_groups(&home.place, Leaf::App)?;
        let app = AppFds { cgroups, stdout: out, stderr: err, read: [out_read, err_read] };
        fail_point!("sandbox-build");
        let (launched, linked) = std::thread::scope(|scope| {
            let launching =
                self.launcher.launch(&spaces, disk.as_ref(), &request, self.descriptors(home)?, &process, app)?;
            let linking = std::thread::Builder::new().name("link".to_owned());
            let linking = linking.spawn_scoped(scope, || self.link(plan, &spaces, spare));
            let linked = match linking.map(std::thread::ScopedJoinHandle::join) {
                Ok(Ok(linked)) => linked,
                _ => Err(SandboxError::Broken),
            };
            fail_point!("sandbox-built");
            if linked.is_ok() {
                fail_point!("process-start");
                launching.let_go();
            }
            Ok::<_, SandboxError>((launching.finish(), linked))
        })?;
        // The sandbox has it, or nobody.
        drop(disk);
        let (sandbox, started) = match launched {
            // Done without, step by step.
            Err(error) if request.clock != Clock::Host && lacks_time_namespaces(&error) => {
                let init = self.build(plan, Some(spaces))?;
                self.attach(plan, init)?;
                return self.start(plan);
            }
            other => other?,
        };
        let init = ProcessIdentity { pid: sandbox.pid, start_time: sandbox.start_time };
        let image = plan.image.clone();
        let boot_id = self.boot_id.clone();
        self.keep(home, &Kept { init, boot_id, image, incarnation: 1, kills_before, streams })?;
        fail_point!("process-started");
        linked.inspect_err(|_| self.end_failed(plan))?;
        let started = started.inspect_err(|_| self.end_failed(plan))?;
        InitClient::connect(&home.socket())?.watch(started.pid_inside)?;
        let identity = ProcessIdentity { pid: started.pid, start_time: started.start_time };
        Ok(App { identity, pid_inside: started.pid_inside })
    }

    /// Gives the sandbox that is being built its link.
    fn link(&self, plan: &Plan, spaces: &Ready, spare: Option<SpareLink>) -> Result<(), SandboxError> {
        let owner = &plan.home.owner;
        let given = spare.map(|spare| self.network.give_spare(spare, owner, plan.address));
        fail_point!("ready-given");
        match given {
            Some(Ok(())) => return Ok(()),
            // It may have been taken away by hand: the namespace is as good, and gets another link.
            Some(Err(error)) => tracing::warn!(%owner, "a link that was made ahead could not be used: {error}"),
            None => {}
        }
        Ok(self.network.attach(spaces.network(), owner, plan.address)?)
    }

    fn end_failed(&self, plan: &Plan) {
        if let Err(error) = self.kill_app(&plan.home) {
            tracing::warn!(place = %plan.home.place, "cannot clean up after a failed start: {error}");
        }
    }
}
