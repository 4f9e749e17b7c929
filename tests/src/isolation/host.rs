//! What a host has that a sandbox must not reach: a file, sockets, shared memory, a message queue.
//! All of it is gone when this is dropped.

use std::ffi::CString;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

/// The baits.
pub(super) struct Host {
    folder: tempfile::TempDir,
    name: String,
    port: TcpListener,
    _sockets: [UnixListener; 2],
    key: i32,
    segment: i32,
    queue: CString,
}

impl Host {
    /// Lays them out; anybody on the host may use each.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let open_to_all = |path: PathBuf, mode| {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("rights");
        };
        open_to_all(folder.path().to_owned(), 0o755);
        std::fs::write(folder.path().join("secret"), "the host's").expect("a file");
        let by_name = UnixListener::bind(folder.path().join("socket")).expect("a socket");
        open_to_all(folder.path().join("socket"), 0o777);
        let name = format!("drowse-isolation-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let by_abstract = UnixListener::bind_addr(&address).expect("an abstract socket");
        let key = 0x6472_0000 | i32::try_from(std::process::id() & 0xffff).expect("16 bits");
        // SAFETY: makes a segment of our own.
        let segment = unsafe { libc::shmget(key, 4096, libc::IPC_CREAT | libc::IPC_EXCL | 0o666) };
        assert!(segment >= 0, "a shared memory segment: {}", std::io::Error::last_os_error());
        let queue = CString::new(format!("/{name}")).expect("no zero");
        // SAFETY: the name is terminated; without attributes the kernel takes its defaults.
        let opened = unsafe {
            libc::mq_open(queue.as_ptr(), libc::O_RDONLY | libc::O_CREAT, 0o666, std::ptr::null::<libc::mq_attr>())
        };
        assert!(opened >= 0, "a message queue: {}", std::io::Error::last_os_error());
        // SAFETY: it was just opened, and stays in the kernel by its name.
        unsafe { libc::mq_close(opened) };
        let port = TcpListener::bind("127.0.0.1:0").expect("a port");
        Self { folder, name, port, _sockets: [by_name, by_abstract], key, segment, queue }
    }

    /// As the probe's arguments name them.
    pub(super) fn facts(&self) -> Vec<String> {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        vec![
            format!("pid={}", std::process::id()),
            format!("file={}", path("secret")),
            format!("socket={}", path("socket")),
            format!("abstract={}", self.name),
            format!("port={}", self.port.local_addr().expect("bound").port()),
            format!("shm={}", self.key),
            format!("queue={}", self.queue.to_string_lossy().trim_start_matches('/')),
        ]
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // SAFETY: both are ours, and nobody else knows of them.
        unsafe {
            libc::shmctl(self.segment, libc::IPC_RMID, std::ptr::null_mut());
            libc::mq_unlink(self.queue.as_ptr());
        }
    }
}
