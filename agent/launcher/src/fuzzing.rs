//! What fuzzing sends its bytes to, and what it begins with; see `tests/fuzz`.

use drowse_rootfs::{IdRange, OverlayPlan};
use oci_spec::runtime::{Process, Spec};

use crate::message::{Clock, ProcessRequest, SandboxRequest, SeccompProfile, Task};
use crate::server::plan_of;
use crate::wire::{self, HEADER_SIZE, Kind, Request, Streams};

/// Reads the bytes as the launcher does: a header, a payload in a sealed file, and a plan of what it asks for.
///
/// # Panics
/// When a payload that was read cannot be written and read again.
pub fn message(bytes: &[u8]) {
    let (header, body) = bytes.split_at(bytes.len().min(HEADER_SIZE));
    let _ = wire::read_header(header);
    let Ok(file) = wire::sealed("drowse-request", &mut &body[..], false) else { return };
    let Ok(request) = wire::read_payload(file) else { return };
    if let Request::Build { sandbox, .. } | Request::Launch { sandbox, .. } = &request {
        plan_of(&sandbox.spec);
    }
    let written = wire::payload(&request).expect("what was read can be written");
    wire::read_payload(written).expect("what was written can be read");
}

/// Messages to begin with.
///
/// # Panics
/// When they cannot be written.
#[must_use]
pub fn messages() -> Vec<Vec<u8>> {
    let sandbox = Box::new(SandboxRequest {
        spec: Spec::default(),
        overlay: OverlayPlan {
            lowers: vec!["/layer".into()],
            disk: None,
            upper: "/upper".into(),
            work: "/work".into(),
            ids: IdRange { first: 65_536, count: 65_536 },
        },
        files: Vec::new(),
        binds: Vec::new(),
        clock: Clock::default(),
        log_limit: 4 << 20,
        root_inside: false,
    });
    let process = Box::new(ProcessRequest {
        process: Process::default(),
        ids: IdRange { first: 65_536, count: 65_536 },
        seccomp: SeccompProfile::Default,
    });
    let launch = Request::Launch {
        sandbox: sandbox.clone(),
        cgroups: 3,
        ready: true,
        disk: true,
        maps: vec![process.ids],
        process: process.clone(),
        app_cgroups: 3,
    };
    let requests = [
        (Kind::Hello, Request::Hello),
        (Kind::Build, Request::Prepare),
        (Kind::Build, Request::Map { ids: process.ids }),
        (Kind::Build, Request::Build { sandbox, cgroups: 3, ready: false, maps: vec![process.ids] }),
        (Kind::Build, launch),
        (
            Kind::Build,
            Request::Start { process, cgroups: 3, streams: Streams::Passed { stdin: true }, task: Task::Execute },
        ),
    ];
    let whole = requests
        .map(|(kind, request)| [&wire::header(kind)[..], &serde_json::to_vec(&request).expect("is written")].concat());
    whole.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fuzzing_begins_with_and_once_found_does_no_harm() {
        for bytes in messages().into_iter().chain(drowse_rootfs::fuzzing::findings("messages")) {
            message(&bytes);
        }
    }
}
