//! The file `/run/drowse/state`: how the app slept the last time, for the app itself.

use std::io;
use std::path::Path;

use jiff::Timestamp;

use crate::instance::state::Woken;

/// Writes it into `folder`, whole at any moment. What woke it may have been written by others: it is
/// one line there.
///
/// # Errors
/// If it cannot be written.
pub fn write(folder: &Path, slept: Option<&Woken>) -> io::Result<()> {
    let (fresh, path) = (folder.join("state.new"), folder.join("state"));
    std::fs::write(&fresh, text(slept))?;
    std::fs::rename(fresh, path)
}

fn text(slept: Option<&Woken>) -> String {
    let Some(Woken { depth, slept_since, at, cause }) = slept else { return "slept=0\n".to_owned() };
    let seconds = at.duration_since(*slept_since).as_secs_f64().max(0.0);
    let cause: String = cause.chars().filter(|c| !c.is_control()).collect();
    let second = |at: &Timestamp| at.as_second();
    format!(
        "slept={seconds:.3}\ndepth={depth}\nsince={}\nuntil={}\nwoken_by={cause}\n",
        second(slept_since),
        second(at)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use drowse_api::sleep::Depth;

    #[test]
    fn it_tells_how_long_and_how_deeply_and_by_what_it_was_woken() {
        let folder = tempfile::tempdir().expect("a folder");
        let read = || std::fs::read_to_string(folder.path().join("state")).expect("there");
        write(folder.path(), None).expect("written");
        assert_eq!(read(), "slept=0\n");
        let at = |second| Timestamp::from_millisecond(second).expect("a time");
        let woken =
            Woken { depth: Depth::Snapshot, slept_since: at(1_000), at: at(62_500), cause: "GET /\nslept=9".into() };
        write(folder.path(), Some(&woken)).expect("written");
        assert_eq!(read(), "slept=61.500\ndepth=snapshot\nsince=1\nuntil=62\nwoken_by=GET /slept=9\n");
    }
}
