//! `drowse cp`: files and folders out of a running instance, and into one.
//!
//! They pass as tar streams, which are made and taken by the same code at both ends. The other end is
//! not trusted: see `drowse_copy`.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use drowse_api::client::Client;
use drowse_api::exec::{Ended, ExecRequest, Job};
use drowse_api::{AppName, ErrorCode, MemoryBytes, Problem};
use drowse_copy::{CopyError, Links, Place, Unpacked, code};
use tokio::sync::mpsc;

use crate::args::Copy;
use crate::failure::{Failure, bad_request, internal};
use crate::session::{Event, Session};
use crate::show;
use crate::terminal::{Terminal, clean};

/// Chunks on their way between a thread and the connection.
const WAITING: usize = 4;
const CHUNK: usize = 32 << 10;
/// Of what is said of a copy, this much is shown.
const MOST_SAID: usize = 64 << 10;

/// One end of a copy.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Here(PathBuf),
    Inside(AppName, PathBuf),
}

/// `APP:PATH` is inside; what begins with `.` or `/` never is.
fn end(text: &OsStr) -> End {
    let inside = text.to_str().and_then(|text| text.split_once(':')).and_then(|(app, path)| {
        let app = AppName::parse(app).ok()?;
        Some(End::Inside(app, PathBuf::from(if path.is_empty() { "." } else { path })))
    });
    inside.unwrap_or_else(|| End::Here(PathBuf::from(text)))
}

/// Copies one way or the other.
pub async fn run(args: Copy, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let query = args.instance.map_or_else(String::new, |id| format!("?instance={id}"));
    let call = |app: &AppName| format!("/v1/apps/{app}/exec{query}");
    match (end(&args.from), end(&args.to)) {
        (End::Inside(app, from), End::Here(to)) => fetch(client, &call(&app), &app, from, &to, terminal).await,
        (End::Here(from), End::Inside(app, to)) => send(client, &call(&app), &from, to, terminal).await,
        (End::Here(_), End::Here(_)) => {
            Err(bad_request("neither end is in an app").hint("write APP:PATH for what is inside").into())
        }
        (End::Inside(..), End::Inside(..)) => {
            Err(bad_request("both ends are in apps").hint("copy it here first, then from here").into())
        }
    }
}

async fn fetch(
    client: &Client,
    call: &str,
    app: &AppName,
    from: PathBuf,
    to: &Path,
    terminal: &Terminal,
) -> Result<(), Failure> {
    let name = from.file_name().map_or_else(|| OsString::from(app.as_str()), ToOwned::to_owned);
    let place = Place::find(to, &name).map_err(|error| of_copy(&error))?;
    let mut session = Session::open(client, call, &request(Job::Read { path: from })).await?;
    let (chunks, received) = mpsc::channel(WAITING);
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut notes = Vec::new();
        let input = Chunks { received, rest: Vec::new(), start: 0 };
        let done = drowse_copy::unpack(input, &place, Links::Within, &mut |note| notes.push(note));
        (done, notes)
    });
    let mut said = Said::default();
    let received = async {
        loop {
            match session.next().await? {
                Event::Output(bytes) => {
                    // Who unpacks says itself why it takes no more.
                    if chunks.send(Some(bytes)).await.is_err() {
                        return Ok(());
                    }
                }
                Event::Error(bytes) => said.add(&bytes),
                Event::Ended(ended) => return said.failure(&ended).map_or(Ok(()), Err),
            }
        }
    };
    let received: Result<(), Problem> = received.await;
    if received.is_err() {
        // What is there so far must not be taken for all of it.
        let _ = chunks.send(None).await;
    }
    drop((chunks, session));
    let (done, notes) = unpacking.await.map_err(|error| internal("unpacking broke off", &error))?;
    received?;
    let done = done.map_err(|error| of_copy(&error))?;
    said.lines().chain(notes.iter().map(String::as_str)).for_each(|note| terminal.note(&clean(note)));
    let Unpacked { files, bytes } = done;
    terminal.note(&format!(
        "{}, {}",
        show::count(usize::try_from(files).unwrap_or(usize::MAX), "file"),
        MemoryBytes(bytes)
    ));
    Ok(())
}

async fn send(client: &Client, call: &str, from: &Path, to: PathBuf, terminal: &Terminal) -> Result<(), Failure> {
    let full = std::path::absolute(from).map_err(|error| internal("cannot find the current folder", &error))?;
    let name = full.file_name().and_then(OsStr::to_str).filter(|name| *name != "..");
    let name = name.ok_or_else(|| bad_request(format!("{} has no name to copy it by", from.display())))?.to_owned();
    if let Err(error) = std::fs::metadata(from) {
        let problem = match error.kind() {
            io::ErrorKind::NotFound => Problem::new(ErrorCode::NotFound, format!("there is no {}", from.display())),
            _ => bad_request(format!("cannot read {}: {error}", from.display())),
        };
        return Err(problem.into());
    }
    let mut session = Session::open(client, call, &request(Job::Write { path: to, name })).await?;
    let (chunks, mut packed) = mpsc::channel::<Vec<u8>>(WAITING);
    let (from, sender) = (from.to_owned(), session.sender());
    let packing = tokio::task::spawn_blocking(move || {
        let mut notes = Vec::new();
        let out = Outlet { chunks, buffer: Vec::with_capacity(CHUNK) };
        let done = drowse_copy::pack(&from, out, &mut |note| notes.push(note));
        (done, notes)
    });
    let feeding = tokio::spawn(async move {
        while let Some(chunk) = packed.recv().await {
            sender.input(&chunk).await;
        }
        // A stream that broke off here ends too early there, which is an error there too.
        sender.end_of_input().await;
    });
    let mut said = Said::default();
    let ended = loop {
        match session.next().await {
            Ok(Event::Output(_)) => {}
            Ok(Event::Error(bytes)) => said.add(&bytes),
            Ok(Event::Ended(ended)) => break Ok(ended),
            Err(problem) => break Err(problem),
        }
    };
    // Nobody takes what is packed any more, if that is not all.
    feeding.abort();
    let (done, notes) = packing.await.map_err(|error| internal("packing broke off", &error))?;
    if let Err(error) = done
        && !matches!(error, CopyError::Stream(_))
    {
        return Err(of_copy(&error).into());
    }
    if let Some(problem) = said.failure(&ended?) {
        return Err(problem.into());
    }
    said.lines().chain(notes.iter().map(String::as_str)).for_each(|note| terminal.note(&clean(note)));
    Ok(())
}

fn request(job: Job) -> ExecRequest {
    ExecRequest { job, terminal: None }
}

fn of_copy(error: &CopyError) -> Problem {
    of_code(error.code(), error.to_string())
}

fn of_code(code: u8, text: String) -> Problem {
    let word = match code {
        code::NOT_FOUND => ErrorCode::NotFound,
        code::NOT_RIGHT => ErrorCode::BadRequest,
        code::FULL => ErrorCode::DiskFull,
        _ => ErrorCode::Internal,
    };
    Problem::new(word, text)
}

/// What the other end says beside what it sends.
#[derive(Default)]
struct Said(Vec<u8>);

impl Said {
    fn add(&mut self, bytes: &[u8]) {
        let room = MOST_SAID.saturating_sub(self.0.len());
        self.0.extend(&bytes[..bytes.len().min(room)]);
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        std::str::from_utf8(&self.0).unwrap_or_default().lines()
    }

    /// Why it did not succeed, if so: it says that last.
    fn failure(&self, ended: &Ended) -> Option<Problem> {
        let code = ended.status.code();
        if code == 0 {
            return None;
        }
        let last = String::from_utf8_lossy(&self.0).lines().last().map(ToOwned::to_owned);
        let otherwise = || ended.note.clone().unwrap_or_else(|| format!("the copy ended with code {code}"));
        Some(of_code(code, last.unwrap_or_else(otherwise)))
    }
}

/// What arrives, for a thread that unpacks it. Nothing instead of a chunk is the end of all hope.
struct Chunks {
    received: mpsc::Receiver<Option<Vec<u8>>>,
    rest: Vec<u8>,
    start: usize,
}

impl Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.start == self.rest.len() {
            self.start = 0;
            match self.received.blocking_recv() {
                Some(Some(chunk)) => self.rest = chunk,
                Some(None) => return Err(io::ErrorKind::ConnectionAborted.into()),
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.rest.len() - self.start);
        buffer[..length].copy_from_slice(&self.rest[self.start..self.start + length]);
        self.start += length;
        Ok(length)
    }
}

/// Where a thread that packs writes.
struct Outlet {
    chunks: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Write for Outlet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        if chunk.is_empty() {
            return Ok(());
        }
        self.chunks.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_inside_is_told_from_what_is_here() {
        let inside = |app: &str, path: &str| End::Inside(AppName::parse(app).expect("a name"), path.into());
        assert_eq!(end(OsStr::new("shop:/app/data")), inside("shop", "/app/data"));
        assert_eq!(end(OsStr::new("shop:data")), inside("shop", "data"));
        assert_eq!(end(OsStr::new("shop:")), inside("shop", "."));
        for here in ["data", "/tmp/x", "./shop:x", "C:x", "My_Shop:x"] {
            assert_eq!(end(OsStr::new(here)), End::Here(here.into()), "{here}");
        }
    }

    #[test]
    fn a_copy_that_failed_there_says_what_was_said_there() {
        let ended = |code| Ended { status: drowse_api::exec::ExitStatus::Exited(code), note: None };
        let mut said = Said::default();
        assert!(said.failure(&ended(0)).is_none());
        said.add(b"x was left out\nthere is no /nowhere\n");
        let problem = said.failure(&ended(3)).expect("failed");
        assert_eq!((problem.code, problem.detail.as_str()), (ErrorCode::NotFound, "there is no /nowhere"));
    }
}
