//! A controller that answers from a script and remembers what it was asked.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// What is answered to a call.
#[derive(Clone)]
pub enum Reply {
    /// A JSON document.
    Json(Value),
    /// A problem with its status.
    Problem(u16, Value),
    /// Lines, and then the end.
    Lines(Vec<Value>),
    /// Lines, and then the connection breaks.
    Broken(Vec<Value>),
    /// Lines, and then nothing, until the client goes away.
    Open(Vec<Value>),
    /// A problem, given before the body was read.
    Early(u16, Value),
}

/// One call that was received.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method, path and query.
    pub line: String,
    /// `Host` and `Authorization`.
    pub host: String,
    pub authorization: String,
    pub body: Vec<u8>,
}

#[derive(Default)]
struct Script {
    /// Method and path, and what is answered to it in turn; the last answer is repeated.
    replies: Vec<(String, VecDeque<Reply>)>,
    calls: Vec<Call>,
}

/// The controller. It ends with the test's process.
pub struct Fake {
    folder: tempfile::TempDir,
    port: u16,
    script: Arc<Mutex<Script>>,
}

impl Fake {
    /// Listens on a Unix socket and on a port of loopback.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let unix = std::os::unix::net::UnixListener::bind(folder.path().join("controller.sock")).expect("bound");
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
        let port = tcp.local_addr().expect("bound").port();
        let script = Arc::new(Mutex::new(Script::default()));
        let shared = Arc::clone(&script);
        std::thread::spawn(move || {
            unix.set_nonblocking(true).expect("set");
            tcp.set_nonblocking(true).expect("set");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async move {
                let unix = tokio::net::UnixListener::from_std(unix).expect("registered");
                let tcp = tokio::net::TcpListener::from_std(tcp).expect("registered");
                loop {
                    tokio::select! {
                        Ok((stream, _)) = unix.accept() => serve(stream, &shared),
                        Ok((stream, _)) = tcp.accept() => serve(stream, &shared),
                    }
                }
            });
        });
        Self { folder, port, script }
    }

    /// `line` is method and path without query; further answers to the same line come in turn.
    pub fn on(&self, line: &str, reply: Reply) -> &Self {
        let mut script = self.script.lock().expect("not poisoned");
        match script.replies.iter_mut().find(|(known, _)| known == line) {
            Some((_, replies)) => replies.push_back(reply),
            None => script.replies.push((line.to_owned(), VecDeque::from([reply]))),
        }
        self
    }

    pub fn calls(&self) -> Vec<Call> {
        self.script.lock().expect("not poisoned").calls.clone()
    }

    pub fn lines(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.line).collect()
    }

    pub fn call(&self, start: &str) -> Call {
        let calls = self.calls();
        calls
            .iter()
            .find(|call| call.line.starts_with(start))
            .unwrap_or_else(|| panic!("no {start}: {calls:?}"))
            .clone()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn home(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("controller.sock")
    }

    /// The program, with nothing of the caller's environment that it reads.
    pub fn std_command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_drowse"));
        for name in
            ["DROWSE_URL", "DROWSE_TOKEN", "DROWSE_SOCKET", "NO_COLOR", "XDG_CONFIG_HOME", "DISPLAY", "WAYLAND_DISPLAY"]
        {
            command.env_remove(name);
        }
        command.env("HOME", self.home()).env("TZ", "UTC").args(arguments);
        command
    }

    /// The program, told to use this controller's socket.
    pub fn drowse(&self, arguments: &[&str]) -> assert_cmd::Command {
        let mut command = self.std_command(arguments);
        command.env("DROWSE_SOCKET", self.socket());
        command.into()
    }
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

fn serve<S>(stream: S, script: &Arc<Mutex<Script>>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let script = Arc::clone(script);
    let service = service_fn(move |request| {
        let script = Arc::clone(&script);
        async move { Ok::<_, Infallible>(answer(request, &script).await) }
    });
    tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
}

async fn answer(request: Request<Incoming>, script: &Mutex<Script>) -> Response<Body> {
    let line = format!("{} {}", request.method(), request.uri());
    let key = line.split('?').next().unwrap_or_default().to_owned();
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let mut call = Call { line, host: header("host"), authorization: header("authorization"), body: Vec::new() };
    let reply = {
        let mut script = script.lock().expect("not poisoned");
        match script.replies.iter_mut().find(|(known, _)| *known == key) {
            Some((_, replies)) if replies.len() > 1 => replies.pop_front().expect("not empty"),
            Some((_, replies)) => replies.front().expect("not empty").clone(),
            None => Reply::Problem(
                404,
                serde_json::json!({ "code": "not-found", "detail": format!("no answer for {key}") }),
            ),
        }
    };
    if !matches!(reply, Reply::Early(..)) {
        match request.into_body().collect().await {
            Ok(body) => call.body = body.to_bytes().to_vec(),
            Err(_) => call.line.push_str(" (broken off)"),
        }
    }
    script.lock().expect("not poisoned").calls.push(call);
    match reply {
        Reply::Json(value) => response(200, &value),
        Reply::Problem(status, value) | Reply::Early(status, value) => response(status, &value),
        Reply::Lines(lines) => streamed(lines, End::Whole),
        Reply::Broken(lines) => streamed(lines, End::Broken),
        Reply::Open(lines) => streamed(lines, End::Never),
    }
}

fn response(status: u16, value: &Value) -> Response<Body> {
    let body = Full::from(value.to_string()).map_err(|never| match never {}).boxed_unsync();
    Response::builder().status(status).body(body).expect("a response")
}

enum End {
    Whole,
    Broken,
    Never,
}

fn streamed(lines: Vec<Value>, end: End) -> Response<Body> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Frame<Bytes>>>(1);
    tokio::spawn(async move {
        for line in lines {
            if sender.send(Ok(Frame::data(format!("{line}\n\n").into()))).await.is_err() {
                return;
            }
        }
        match end {
            End::Whole => {}
            End::Broken => {
                let _ = sender.send(Ok(Frame::data(Bytes::from_static(b"{\"cut off")))).await;
                let _ = sender.send(Err(std::io::Error::other("broken on purpose"))).await;
            }
            End::Never => sender.closed().await,
        }
    });
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(receiver)).boxed_unsync();
    Response::new(body)
}
