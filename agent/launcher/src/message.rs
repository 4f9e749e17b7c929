//! What the launcher is asked: a sandbox, or a process in one.

use std::path::PathBuf;

use drowse_rootfs::{IdRange, OverlayPlan};
use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

/// The sandbox of one instance: namespaces, root, init; no app yet.
///
/// Of `spec` this uses the host name, `root.readonly`, tmpfs among `mounts`, masked and read-only
/// paths, and namespaced sysctls. What it cannot honour it refuses (hooks, devices, binds, paths of
/// namespaces, id mappings); the process of the spec is started by a [`ProcessRequest`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRequest {
    /// The OCI runtime configuration.
    pub spec: Spec,
    /// The layers that make the root, and the range of host ids that they appear with.
    pub overlay: OverlayPlan,
    /// Files of the host that replace files of the image, read-only: hosts, resolv.conf, passwd.
    pub files: Vec<InjectedFile>,
    /// Folders of the host that appear inside.
    pub binds: Vec<Bind>,
    /// The monotonic clocks inside.
    pub clock: Clock,
    /// The most bytes of each of the two log files.
    pub log_limit: u64,
    /// Whether its processes are in a user namespace, in which ids are those of the image and its root
    /// is root over them: for images that want it. Nothing but the ids belongs to that namespace.
    #[serde(default)]
    pub root_inside: bool,
}

/// A file of the host that appears inside, read-only, whatever the image has at that path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedFile {
    /// Where it appears, absolute. A symbolic link of the image there is replaced, not followed.
    pub path: PathBuf,
    /// The file on the host. It is bound, so a later rename over it is not seen inside; writing
    /// into it is.
    pub host_path: PathBuf,
}

/// A folder (or file) of the host that appears inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside, absolute; made if the image has nothing there.
    pub target: PathBuf,
    /// Whether nothing inside can change it.
    pub read_only: bool,
    /// The host ids that ids 0 and up of the source appear as; none: as they are on the host.
    pub idmap: Option<IdRange>,
    /// Whether the source is the image of a [disk](crate::disk), whose root appears; nobody else may have it.
    #[serde(default)]
    pub is_disk: bool,
}

/// The monotonic and boot-time clocks of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Clock {
    /// A time namespace of its own, so that clocks can go on where they were at a snapshot. Where
    /// the kernel cannot make it, the request fails in [`crate::Step::TimeNamespace`].
    Own {
        /// Added to the host's `CLOCK_MONOTONIC`.
        monotonic: ClockOffset,
        /// Added to the host's `CLOCK_BOOTTIME`.
        boottime: ClockOffset,
    },
    /// The host's clocks.
    Host,
}

impl Default for Clock {
    fn default() -> Self {
        Self::Own { monotonic: ClockOffset::default(), boottime: ClockOffset::default() }
    }
}

/// A distance between two clocks; a negative one has negative seconds and positive nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds on top, below a thousand million.
    pub nanoseconds: u32,
}

/// A process inside a sandbox: the app, or something run beside it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessRequest {
    /// The OCI process. `user` holds host ids, which must be in `ids`. `no_new_privs` is set
    /// whatever it says; a terminal is made by [`crate::Launcher::start_on_terminal`] only. Where root is
    /// inside it is in the sandbox's user namespace, and of its capabilities it gets those that root inside
    /// may have.
    pub process: Process,
    /// The range of host ids of the sandbox.
    pub ids: IdRange,
    /// Which system calls it may make.
    pub seccomp: SeccompProfile,
}

/// Which system calls a process may make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeccompProfile {
    /// What ordinary programs need; see [`crate::seccomp`].
    #[default]
    Default,
    /// What a program that builds images needs beside that: to mount and to change its root, in a mount
    /// namespace of its own. Only where root is inside, whose user namespace owns that mount namespace.
    Builder,
}

/// What a process does once it is the app's user with everything that belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Executes the program of its request.
    #[default]
    Execute,
    /// Writes the file or folder at this path to its standard output, as a tar stream.
    Pack(PathBuf),
    /// Puts what its standard input holds to a path.
    Unpack {
        /// Into it, if it is a folder; else under this very name.
        path: PathBuf,
        /// What it is called in a folder.
        name: String,
    },
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}
