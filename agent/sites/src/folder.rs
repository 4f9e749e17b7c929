//! The folder of one site, opened so that nothing outside of it can be reached.
//!
//! Every path is resolved by the kernel beneath the site's own descriptor (`openat2` with
//! `RESOLVE_BENEATH`), so a symlink that leads out, an absolute one, or one that is swapped while
//! it is being followed, ends in "not found" and never in another site's file. What the kernel has
//! in its caches is opened at once (`RESOLVE_CACHED`); only what needs the disk goes to a thread.

use std::future::{Ready, ready};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{Backend, File, Metadata};

/// All sites of the node: a folder with one folder per address.
#[derive(Debug, Clone)]
pub struct Sites(Arc<OwnedFd>);

impl Sites {
    /// Opens the folder that holds the sites.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(root: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(Arc::new(rustix::fs::open(root, flags, Mode::empty())?)))
    }

    /// The site at this address as it is published now; `None` if there is none.
    pub fn at(&self, address: Ipv4Addr) -> Option<Site> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let folder = openat2(&*self.0, address.to_string(), flags, Mode::empty(), resolve).ok()?;
        Some(Site(Arc::new(folder)))
    }
}

/// One site's folder, as the file service sees it.
#[derive(Debug, Clone)]
pub struct Site(Arc<OwnedFd>);

impl Site {
    async fn open_file(self, path: PathBuf) -> io::Result<OpenFile> {
        let path = visible(&path)?;
        match self.open_resolved(&path, ResolveFlags::CACHED) {
            Err(Errno::AGAIN | Errno::INVAL) => {}
            opened => return opened.map_err(as_not_found).and_then(OpenFile::new),
        }
        let opened = tokio::task::spawn_blocking(move || {
            // AGAIN here: something was renamed while `..` in a link was resolved (openat2(2)).
            let mut tries = 0;
            loop {
                match self.open_resolved(&path, ResolveFlags::empty()) {
                    Err(Errno::AGAIN) if tries < 10 => tries += 1,
                    opened => return opened,
                }
            }
        });
        let opened = opened.await.map_err(io::Error::other)?;
        opened.map_err(as_not_found).and_then(OpenFile::new)
    }

    fn open_resolved(&self, path: &Path, how: ResolveFlags) -> Result<OwnedFd, Errno> {
        // NONBLOCK: a pipe in the folder must not hold the server up.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | how;
        openat2(&*self.0, path, flags, Mode::empty(), resolve)
    }
}

/// The path below the site's folder, unless it names what is never served: hidden files, except
/// `.well-known` at the top (RFC 8615).
fn visible(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => {
                let is_top = clean.as_os_str().is_empty();
                let is_hidden = name.as_encoded_bytes().starts_with(b".") && !(is_top && name == ".well-known");
                if is_hidden {
                    return Err(io::ErrorKind::NotFound.into());
                }
                clean.push(name);
            }
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(io::ErrorKind::NotFound.into());
            }
        }
    }
    if clean.as_os_str().is_empty() {
        clean.push(".");
    }
    Ok(clean)
}

/// What a visitor may not tell apart from a file that is not there: a link that leads outside, in a
/// circle or through a file, a name that cannot exist, a socket.
fn as_not_found(error: Errno) -> io::Error {
    match error {
        Errno::XDEV | Errno::LOOP | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL | Errno::NXIO => {
            io::ErrorKind::NotFound.into()
        }
        other => other.into(),
    }
}

impl Backend for Site {
    type File = OpenFile;
    type Metadata = Facts;
    type OpenFuture = Pin<Box<dyn Future<Output = io::Result<OpenFile>> + Send>>;
    type MetadataFuture = Pin<Box<dyn Future<Output = io::Result<Facts>> + Send>>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        Box::pin(self.clone().open_file(path))
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let opened = self.clone().open_file(path);
        Box::pin(async move { Ok(opened.await?.facts) })
    }
}

/// What the service needs to know of a file before it sends it.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    is_folder: bool,
    size: u64,
    published: SystemTime,
}

impl Metadata for Facts {
    fn is_dir(&self) -> bool {
        self.is_folder
    }

    /// When the file was put here (its change time), which makes the ETag and Last-Modified. Not
    /// its modification time: archives carry any, and build tools set the same one for all
    /// versions, so two versions of one size would pass for one.
    fn modified(&self) -> io::Result<SystemTime> {
        Ok(self.published)
    }

    fn len(&self) -> u64 {
        self.size
    }
}

/// A file or folder of a site, opened.
#[derive(Debug)]
pub struct OpenFile {
    file: tokio::fs::File,
    facts: Facts,
}

impl OpenFile {
    fn new(descriptor: OwnedFd) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let file = std::fs::File::from(descriptor);
        let found = file.metadata()?;
        if !found.is_dir() && !found.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let published = published(found.ctime(), found.ctime_nsec(), found.ino());
        let facts = Facts { is_folder: found.is_dir(), size: found.len(), published };
        Ok(Self { file: tokio::fs::File::from_std(file), facts })
    }
}

/// The change time, with the inode's number in place of what is finer than a millisecond: the
/// kernel stamps files with its tick, so that two files of one tick would have one time.
fn published(seconds: i64, nanos: i64, inode: u64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or_default();
    let millis = u64::try_from(nanos).unwrap_or_default() / 1_000_000;
    let since = Duration::from_secs(seconds) + Duration::from_millis(millis) + Duration::from_nanos(inode % 1_000_000);
    SystemTime::UNIX_EPOCH + since
}

impl File for OpenFile {
    type Metadata = Facts;
    type MetadataFuture<'a> = Ready<io::Result<Facts>>;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.facts))
    }
}

impl AsyncRead for OpenFile {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.file).poll_read(cx, buffer)
    }
}

impl AsyncSeek for OpenFile {
    fn start_seek(mut self: Pin<&mut Self>, position: io::SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.file).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.file).poll_complete(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_are_invisible_except_well_known_at_the_top() {
        let seen = |path: &str| visible(Path::new(path)).ok();
        assert_eq!(seen("./a/b.html"), Some("a/b.html".into()));
        assert_eq!(seen("./"), Some(".".into()));
        assert_eq!(seen("./.well-known/security.txt"), Some(".well-known/security.txt".into()));
        for hidden in ["./.env", "./a/.git/config", "./a/.well-known/x", "./.well-known/.x", "../a", "/etc/passwd"] {
            assert_eq!(seen(hidden), None, "{hidden}");
        }
    }
}
