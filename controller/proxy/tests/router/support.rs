//! A router with a controller and an agent that only know how to stream, instances made of raw
//! sockets or of hyper, and a visitor that writes exactly the bytes it is told to.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use drowse_api::agent::EndpointsPicture;
use drowse_api::routing::{Endpoint, Route, RouteTable, RouterStatus};
use drowse_api::sleep::Wake;
use drowse_api::{AppName, DeploymentId, HostName, InstanceId, NodeName};
use drowse_proxy::{Limits, Router, RouterConfig};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const DOMAIN: &str = "drowse.test";

/// Everything a test needs; gone when dropped.
pub struct World {
    _folder: tempfile::TempDir,
    pub table: watch::Sender<RouteTable>,
    pub endpoints: watch::Sender<EndpointsPicture>,
    pub reports: Arc<Mutex<Vec<RouterStatus>>>,
    /// What the agent was asked: path and body.
    pub asked: Arc<Mutex<Vec<String>>>,
    pub controller: Option<Daemon>,
    pub agent: Option<Daemon>,
    pub router: Option<Router>,
    pub address: SocketAddr,
    pub config: RouterConfig,
}

/// Where a daemon keeps what it is told.
#[derive(Clone)]
struct Told {
    reports: Arc<Mutex<Vec<RouterStatus>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

/// A task that answers on a Unix socket; dropping it closes every connection.
pub struct Daemon(JoinHandle<()>);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn endpoint(instance: &str) -> Endpoint {
    Endpoint { node: NodeName::parse("node-1").unwrap(), instance: InstanceId::parse(instance).unwrap() }
}

pub fn host(name: &str) -> HostName {
    HostName::parse(format!("{name}.{DOMAIN}")).unwrap()
}

pub fn app_route(app: &str, instances: &[&str]) -> Route {
    Route::Instances {
        glances: Default::default(),
        app: AppName::parse(app).unwrap(),
        deployment: DeploymentId::parse("dep1").unwrap(),
        endpoints: instances.iter().map(|id| endpoint(id)).collect(),
        wake: Wake::Page,
    }
}

impl World {
    /// A router in front of `instances`, all of them behind `shop.drowse.test`.
    pub async fn new(instances: &[SocketAddr]) -> World {
        Self::with(instances, |_| {}).await
    }

    pub async fn with(instances: &[SocketAddr], change: impl FnOnce(&mut Limits)) -> World {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..instances.len()).map(|n| format!("i{n}")).collect();
        let refs: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut table = RouteTable { revision: 1, run: None, domain: DOMAIN.into(), hosts: BTreeMap::new() };
        table.hosts.insert(host("shop"), app_route("shop", &refs));
        table.hosts.insert(host("api"), Route::Controller);
        let stopped = Route::Unavailable {
            app: AppName::parse("gone").unwrap(),
            code: "stopped".into(),
            message: "The app was <stopped> by its owner.".into(),
        };
        table.hosts.insert(host("gone"), stopped);
        let ready = names.iter().zip(instances).map(|(n, a)| (InstanceId::parse(n.as_str()).unwrap(), *a)).collect();
        let mut limits = Limits { drain_seconds: 5, ..Limits::default() };
        change(&mut limits);
        let config = RouterConfig {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            public_port: None,
            data_dir: folder.path().join("data"),
            node: NodeName::parse("node-1").unwrap(),
            agent_socket: folder.path().join("agent.sock"),
            controller_socket: folder.path().join("controller.sock"),
            api_address: "127.0.0.1:1".parse().unwrap(),
            workers: Some(2),
            wake_page: None,
            limits,
        };
        let mut world = World {
            table: watch::channel(table).0,
            endpoints: watch::channel(EndpointsPicture { ready, follower: Some(7), ..EndpointsPicture::default() }).0,
            reports: Arc::default(),
            asked: Arc::default(),
            controller: None,
            agent: None,
            router: None,
            address: "127.0.0.1:0".parse().unwrap(),
            config,
            _folder: folder,
        };
        world.start_controller();
        world.start_agent();
        world.start_router();
        world.settled(1).await;
        world
    }

    pub fn start_controller(&mut self) {
        self.controller = None;
        let reports = Arc::clone(&self.reports);
        let told = Told { reports, asked: Arc::default() };
        self.controller = Some(daemon(&self.config.controller_socket, self.table.subscribe(), told));
    }

    pub fn start_agent(&mut self) {
        self.agent = None;
        let told = Told { reports: Arc::default(), asked: Arc::clone(&self.asked) };
        self.agent = Some(daemon(&self.config.agent_socket, self.endpoints.subscribe(), told));
    }

    pub fn start_router(&mut self) {
        let router = Router::start(self.config.clone(), Vec::new()).unwrap();
        self.address = router.addresses()[0];
        self.router = Some(router);
    }

    /// Waits until the router reported this revision and answers by it.
    pub async fn settled(&self, revision: u64) {
        until("the router applies the table", || self.reports.lock().unwrap().iter().any(|r| r.applied >= revision))
            .await;
        let want_addresses = !self.endpoints.borrow().ready.is_empty();
        if want_addresses {
            let saved = self.config.data_dir.join("endpoints.json");
            until("the router knows the addresses", || saved.exists()).await;
        }
    }

    pub fn change_table(&self, change: impl FnOnce(&mut RouteTable)) -> u64 {
        self.table.send_modify(|table| {
            change(table);
            table.revision += 1;
        });
        self.table.borrow().revision
    }

    pub fn last_report(&self) -> RouterStatus {
        self.reports.lock().unwrap().last().cloned().unwrap()
    }

    /// Waits until the router reported that nothing is in flight.
    pub async fn quiet(&self) {
        until("nothing is in flight", || self.last_report().in_flight.is_empty()).await;
    }

    pub async fn visitor(&self) -> Visitor {
        Visitor { stream: TcpStream::connect(self.address).await.unwrap(), buffer: Vec::new() }
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut visitor = self.visitor().await;
        visitor.send(request).await;
        visitor.answer().await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask(format!("GET {path} HTTP/1.1\r\nHost: shop.{DOMAIN}\r\n\r\n")).await
    }
}

fn daemon<T: Serialize + Clone + Send + Sync + 'static>(path: &Path, value: watch::Receiver<T>, told: Told) -> Daemon {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    Daemon(tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(stream_to(stream, value.clone(), told.clone()));
        }
    }))
}

async fn stream_to<T: Serialize + Clone>(mut stream: UnixStream, mut value: watch::Receiver<T>, told: Told) {
    let mut seen = Vec::new();
    let end = loop {
        if let Some(end) = find(&seen, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return;
        }
    };
    let head = String::from_utf8_lossy(&seen[..end]).to_lowercase();
    if head.starts_with("put") || head.starts_with("post") {
        let length: usize =
            head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        while seen.len() < end + length {
            if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
                return;
            }
        }
        if head.starts_with("put") {
            told.reports.lock().unwrap().push(serde_json::from_slice(&seen[end..]).unwrap());
        } else {
            let path = head.split(' ').nth(1).unwrap();
            told.asked.lock().unwrap().push(format!("{path} {}", String::from_utf8_lossy(&seen[end..])));
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnull").await;
        return;
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    loop {
        let now = value.borrow_and_update().clone();
        let line = serde_json::to_string(&now).unwrap() + "\n";
        if stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.is_err()
            || value.changed().await.is_err()
        {
            return;
        }
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// Waits for a condition; fails loudly after a while.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// An answer as it came over the wire, its body decoded.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
    /// The connection was closed after it, or is said to be.
    pub closes: bool,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<String> {
        self.headers(name).into_iter().next()
    }

    pub fn headers(&self, name: &str) -> Vec<String> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned()).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn code(&self) -> String {
        self.header("x-drowse-error").unwrap_or_default()
    }
}

/// A visitor that writes bytes and reads answers.
pub struct Visitor {
    pub stream: TcpStream,
    pub buffer: Vec<u8>,
}

impl Visitor {
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(Duration::from_secs(15), self.stream.read_buf(&mut self.buffer));
        read.await.expect("an answer in time").unwrap_or(0) > 0
    }

    async fn read_until(&mut self, enough: impl Fn(&[u8]) -> Option<usize>) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = enough(&self.buffer) {
                return Some(self.buffer.drain(..end).collect());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The head of the next answer; `None` when the connection was closed instead.
    pub async fn head(&mut self) -> Option<String> {
        let head = self.read_until(|b| find(b, b"\r\n\r\n").map(|end| end + 4)).await?;
        Some(String::from_utf8(head).unwrap())
    }

    pub async fn answer(&mut self) -> Answer {
        self.try_answer(false).await.expect("an answer")
    }

    pub async fn answer_to_head(&mut self) -> Answer {
        self.try_answer(true).await.expect("an answer")
    }

    pub async fn try_answer(&mut self, to_head: bool) -> Option<Answer> {
        let head = self.head().await?;
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 100 {
            return Box::pin(self.try_answer(to_head)).await;
        }
        let mut answer = Answer { status, head, body: Vec::new(), closes: false };
        answer.closes = answer.header("connection").is_some_and(|c| c.eq_ignore_ascii_case("close"));
        if to_head || status == 204 || status == 304 || status == 101 {
            return Some(answer);
        }
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().unwrap();
            answer.body = self.read_until(|b| (b.len() >= length).then_some(length)).await?;
        } else if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await? {
                answer.body.extend(chunk);
            }
        } else {
            while self.more().await {}
            answer.body = std::mem::take(&mut self.buffer);
            answer.closes = true;
        }
        Some(answer)
    }

    /// One chunk; `Some(None)` at the end; `None` when the connection broke. Trailers are kept as
    /// text in the buffer's place: they come back by [`Visitor::trailers`].
    pub async fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let line = self.read_until(|b| find(b, b"\r\n").map(|end| end + 2)).await?;
        let length = usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).unwrap();
        if length == 0 {
            return Some(None);
        }
        let mut chunk = self.read_until(|b| (b.len() >= length + 2).then_some(length + 2)).await?;
        chunk.truncate(length);
        Some(Some(chunk))
    }

    /// True if the router closes the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && !self.more().await
    }
}

/// An instance whose every connection is handed to `serve`.
pub async fn raw<F, Fut>(serve: F) -> SocketAddr
where
    F: Fn(TcpStream) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    address
}

/// Reads one request with its body, as bytes; empty when the connection was closed.
pub async fn read_request(stream: &mut TcpStream) -> String {
    let mut seen = Vec::new();
    loop {
        if let Some(end) = find(&seen, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&seen[..end + 4]).to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            let complete = match length {
                Some(length) => seen.len() >= end + 4 + usize::clone(&length),
                None if head.contains("transfer-encoding: chunked") => {
                    find(&seen[end + 2..], b"\r\n0\r\n").is_some() && seen.ends_with(b"\r\n\r\n")
                }
                None => true,
            };
            if complete {
                return String::from_utf8_lossy(&seen).into_owned();
            }
        }
        if stream.read_buf(&mut seen).await.unwrap_or(0) == 0 {
            return String::from_utf8_lossy(&seen).into_owned();
        }
    }
}

/// An instance that answers each request with the bytes that `reply` makes of it, and records it.
pub async fn scripted(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let (record, reply) = (Arc::clone(&seen), Arc::new(reply));
    let address = raw(move |mut stream| {
        let (record, reply) = (Arc::clone(&record), Arc::clone(&reply));
        async move {
            loop {
                let request = read_request(&mut stream).await;
                if request.is_empty() {
                    return;
                }
                record.lock().unwrap().push(request.clone());
                let answer = reply(&request);
                if answer.is_empty() || stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, seen)
}

pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// An instance that echoes bodies and says who it is in `x-instance`.
pub async fn echo(name: &'static str) -> SocketAddr {
    raw(move |stream| async move {
        let service = service_fn(move |request: Request<Incoming>| async move {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(
                Response::builder().header("x-instance", name).body(Full::<Bytes>::new(body)).unwrap(),
            )
        });
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    })
    .await
}

/// An address where nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}
