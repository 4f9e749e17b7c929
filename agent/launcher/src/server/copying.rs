//! Files in and out of a sandbox. The process has become the app's user, with its filter, limits and
//! groups, and is cut off from all else: whatever a path inside leads to, it is inside. It executes
//! nothing, so that no program of the image is trusted; and as it never does, the app cannot look into it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use drowse_copy::{CopyError, Links, Place, code, pack, unpack};

use crate::message::Task;
use crate::sys;

/// Carries out a task that is not a program, between its standard input and output. What is to be said
/// goes to standard error; the code is what the process ends with.
pub(super) fn carry_out(task: &Task) -> i32 {
    let done = match task {
        Task::Execute => return code::OTHER.into(),
        Task::Pack(path) => send(path),
        Task::Unpack { path, name } => take(path, name),
    };
    match done {
        Ok(()) => 0,
        Err(error) => {
            say(&error.to_string());
            error.code().into()
        }
    }
}

fn send(path: &Path) -> Result<(), CopyError> {
    let out = stream(1)?;
    pack(path, std::io::BufWriter::with_capacity(64 << 10, out), &mut |note| say(&note))
}

fn take(path: &Path, name: &str) -> Result<(), CopyError> {
    // When its client goes its input ends: it cleans up by itself what is half there.
    sys::ignore_hang_up();
    let place = Place::find(path, OsStr::new(name))?;
    unpack(stream(0)?, &place, Links::All, &mut |note| say(&note)).map(drop)
}

fn stream(number: i32) -> Result<File, CopyError> {
    sys::placed(number).try_clone_to_owned().map(File::from).map_err(CopyError::Stream)
}

/// That nobody listens is not this process's concern.
fn say(text: &str) {
    if let Ok(mut errors) = stream(2) {
        let _ = writeln!(errors, "{text}");
    }
}
