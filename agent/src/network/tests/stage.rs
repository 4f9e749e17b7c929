//! The stage: a host with a way to an outside, apps, and short conversations between them.

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use super::super::{Network, NetworkConfig, Owner};

/// The host's own address towards the outside.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// A service far outside.
pub const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// What clouds answer at.
pub const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
/// A name server that is link-local, as some clouds have.
pub const LINK_LOCAL_DNS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 253);

/// How long an answer that must come may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(700);

/// A namespace to be in for a moment.
pub struct Namespace(OwnedFd);

impl Namespace {
    pub fn new() -> Self {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            shell("ip link set lo up");
            Self::of_this_thread()
        })
    }

    fn of_this_thread() -> Self {
        Self(std::fs::File::open("/proc/thread-self/ns/net").expect("own namespace").into())
    }

    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Runs `work` inside, as user 0.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.run_as(0, work)
    }

    /// Runs `work` inside; sockets it makes belong to `uid`.
    pub fn run_as<T: Send>(&self, uid: u32, work: impl FnOnce() -> T + Send) -> T {
        on_a_thread(|| {
            setns(self.fd(), CloneFlags::CLONE_NEWNET).expect("enter");
            nix::unistd::setfsuid(uid.into());
            work()
        })
    }

    pub fn shell(&self, script: &str) -> String {
        self.run(|| shell(script))
    }

    /// Listens inside; the socket stays there, whoever holds it.
    pub fn listen(&self, address: Ipv4Addr, port: u16) -> TcpListener {
        self.run(|| {
            let listener = TcpListener::bind((address, port)).expect("listen");
            listener.set_nonblocking(true).expect("not to wait");
            listener
        })
    }

    pub fn receive_udp(&self, address: Ipv4Addr, port: u16) -> UdpSocket {
        self.run(|| UdpSocket::bind((address, port)).expect("bind"))
    }

    pub fn connect(&self, address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        self.connect_as(0, address, port)
    }

    pub fn connect_as(&self, uid: u32, address: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
        self.run_as(uid, || TcpStream::connect_timeout(&SocketAddr::from((address, port)), ANSWER))
    }

    /// Whether something answers there soon.
    pub fn reaches_as(&self, uid: u32, target: SocketAddr) -> bool {
        self.run_as(uid, || TcpStream::connect_timeout(&target, SILENCE)).is_ok()
    }

    /// Asserts that nothing answers, and says how the kernel put it.
    pub fn is_refused(&self, address: Ipv4Addr, port: u16) -> io::Error {
        self.is_refused_as(0, address, port)
    }

    pub fn is_refused_as(&self, uid: u32, address: Ipv4Addr, port: u16) -> io::Error {
        let target = SocketAddr::from((address, port));
        match self.run_as(uid, || TcpStream::connect_timeout(&target, SILENCE)) {
            Err(error) => error,
            Ok(_) => panic!("{target} answered"),
        }
    }
}

/// Asserts that a connection arrived, and returns who it came from.
pub fn arrived(listener: &TcpListener) -> IpAddr {
    listener.accept().expect("a connection arrived").1.ip()
}

/// Asserts that none did.
pub fn nothing_arrived(listener: &TcpListener) {
    let error = listener.accept().map(|(_, from)| from).expect_err("nothing may arrive");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

pub struct Stage {
    pub host: Namespace,
    pub outside: Namespace,
    pub network: Network,
}

/// Runs a test on a thread whose namespace is the host's, so that the code under test changes only that.
pub fn on_stage<F: Future<Output = ()>>(config: NetworkConfig, test: impl FnOnce(Stage) -> F + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces can only be made by root");
        return;
    }
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        let outside = Namespace::new();
        shell("ip link set lo up; ip link add up0 mtu 1400 type veth peer name down0");
        // The tool ip moves links only to named namespaces or pids, and these have neither.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().expect("netlink");
            tokio::spawn(connection);
            let message = rtnetlink::LinkUnspec::new_with_name("down0")
                .setns_by_fd(std::os::fd::AsRawFd::as_raw_fd(&outside.fd()))
                .build();
            handle.link().set(message).execute().await.expect("move the far end");
            shell(&format!("ip addr add {HOST}/24 dev up0; ip link set up0 up; ip route add default via 192.0.2.2"));
            outside.shell(&format!(
                "ip addr add 192.0.2.2/24 dev down0; ip link set down0 up; \
                 for there in {FAR} {METADATA} {LINK_LOCAL_DNS}; do ip addr add $there/32 dev lo; done"
            ));
            shell("for there in 169.254.169.253 169.254.169.254; do ip route add $there via 192.0.2.2; done");
            let network = Network::new(config);
            network.ensure().await.expect("the network");
            test(Stage { host: Namespace::of_this_thread(), outside, network }).await;
        });
    });
}

impl Stage {
    /// An app with a link and an address.
    pub async fn app(&self, name: &str, address: [u8; 4]) -> Namespace {
        let app = Namespace::new();
        self.network.attach(app.fd(), &owner(name), address.into()).expect("attach");
        app
    }
}

pub fn owner(name: &str) -> Owner {
    Owner::parse(name).expect("an owner")
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Runs a script in the namespace of this thread; every command must succeed.
pub fn shell(script: &str) -> String {
    let output = Command::new("sh").args(["-ec", script]).output().expect("sh");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
