//! Which step of building a sandbox or starting a process failed, on what, and how.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A step that failed. Comes out of the launcher whole: the caller logs it or acts on the step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step} {target}: {cause}")]
pub struct Failure {
    /// What was being done.
    pub step: Step,
    /// To what: mostly a path, as seen inside the sandbox where it is one of the sandbox.
    pub target: String,
    /// What went wrong.
    pub cause: Cause,
}

/// What went wrong in a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The kernel said no.
    Errno(i32),
    /// We did.
    Refused(String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            Self::Refused(why) => f.write_str(why),
        }
    }
}

impl Failure {
    /// The step failed with an error of the kernel.
    pub(crate) fn os(step: Step, target: impl AsRef<Path>, errno: impl Into<std::io::Error>) -> Self {
        let errno = errno.into();
        let cause = errno.raw_os_error().map_or_else(|| Cause::Refused(errno.to_string()), Cause::Errno);
        Self { step, target: target.as_ref().to_string_lossy().into_owned(), cause }
    }

    /// The step would have done what we do not do.
    pub(crate) fn refused(step: Step, target: impl AsRef<Path>, why: impl Into<String>) -> Self {
        Self { step, target: target.as_ref().to_string_lossy().into_owned(), cause: Cause::Refused(why.into()) }
    }

    /// The errno, if the kernel said no.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self.cause {
            Cause::Errno(errno) => Some(errno),
            Cause::Refused(_) => None,
        }
    }
}

/// Says what failed, on what.
pub(crate) trait OrFail<T> {
    /// The value, or the failure of this step.
    fn or_fail(self, step: Step, target: impl AsRef<Path>) -> Result<T, Failure>;
}

impl<T, E: Into<std::io::Error>> OrFail<T> for Result<T, E> {
    fn or_fail(self, step: Step, target: impl AsRef<Path>) -> Result<T, Failure> {
        self.map_err(|error| Failure::os(step, target, error))
    }
}

macro_rules! steps {
    ($($name:ident = $words:literal,)*) => {
        /// What was being done.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Step { $(#[doc = $words] $name,)* }

        impl fmt::Display for Step {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$name => $words,)* })
            }
        }
    };
}

steps! {
    Request = "read the request",
    Builder = "run the builder of",
    Spec = "honour the configuration's",
    TimeNamespace = "make the time namespace of",
    UserNamespace = "make the user namespace for the id map of",
    Clone = "clone",
    AttachCgroup = "attach to the cgroup",
    CgroupNamespace = "make the cgroup namespace of",
    Propagation = "make private the mounts below",
    OpenLayer = "open the layer",
    Disk = "mount the disk",
    IdMap = "map the ids of",
    Overlay = "mount the overlay",
    Resolve = "find inside the root",
    MountTarget = "make inside the root",
    Mount = "mount",
    Device = "make the device",
    Mask = "mask",
    ReadOnly = "make read-only",
    Inject = "put in the file",
    Bind = "bind the folder",
    Sysctl = "set the kernel parameter",
    Loopback = "switch on the link",
    HostName = "set the host name",
    PivotRoot = "change the root to",
    Descriptors = "arrange the descriptors of",
    Identity = "become the user",
    Capabilities = "set the capabilities of",
    NoNewPrivileges = "set no_new_privs of",
    Seccomp = "load the system call filter of",
    EnterNamespace = "enter the namespace",
    Session = "start a session for",
    Terminal = "make the terminal of",
    ResourceLimit = "set the resource limit",
    OomScore = "set the out-of-memory score of",
    WorkingFolder = "change the working folder to",
    Exec = "execute",
    Report = "report on",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_which_call_failed_on_what() {
        let failure = Failure::os(Step::Exec, "/bin/nothing", std::io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!(failure.to_string(), "execute /bin/nothing: No such file or directory (os error 2)");
        assert_eq!(failure.errno(), Some(libc::ENOENT));
        let sent = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&sent).unwrap(), failure);
    }
}
