//! What a visitor of a static app gets, asked over real sockets from the real program.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The program, serving a folder of its own; ended with the test.
struct Server {
    child: Child,
    port: u16,
    root: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        let mut child = Command::new(env!("CARGO_BIN_EXE_drowse-sites"))
            .args(["--port", "0", "--root"])
            .arg(root.path())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(child.stderr.take().expect("piped")).read_line(&mut line).expect("it says where it listens");
        let port = line.trim().rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
        Self { child, port, root }
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("written");
    }

    fn connect(&self, address: &str) -> TcpStream {
        let address = SocketAddr::new(address.parse().expect("an address"), self.port);
        let stream = TcpStream::connect(address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        stream
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        ask(&mut self.connect("127.0.0.1"), method, path, headers)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

fn ask(stream: &mut TcpStream, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: shop.drowse.localhost\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    read_answer(stream, method)
}

fn read_answer(stream: &mut TcpStream, method: &str) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).expect("a status line");
    let status = line.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line).expect("a header");
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let length = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; if method == "HEAD" || status == 304 { 0 } else { length }];
    reader.read_exact(&mut body).expect("the whole body");
    Answer { status, headers, body: String::from_utf8(body).expect("text") }
}

#[test]
fn each_address_serves_its_own_folder() {
    let server = Server::start();
    server.write("127.0.0.1/index.html", "<h1>one</h1>");
    server.write("127.0.0.2/index.html", "<h1>two</h1>");
    let get = |address| ask(&mut server.connect(address), "GET", "/", &[]);
    assert_eq!(get("127.0.0.1").body, "<h1>one</h1>");
    assert_eq!(get("127.0.0.2").body, "<h1>two</h1>");
    assert_eq!(get("127.0.0.3").status, 404);
}

#[test]
fn a_site_that_is_published_again_shows_at_once_on_an_open_connection() {
    let server = Server::start();
    server.write("127.0.0.1/index.html", "old");
    let mut stream = server.connect("127.0.0.1");
    let old = ask(&mut stream, "GET", "/", &[]);
    server.write("next/index.html", "new");
    let root = server.root.path();
    fs::rename(root.join("127.0.0.1"), root.join("gone")).expect("renamed");
    fs::rename(root.join("next"), root.join("127.0.0.1")).expect("renamed");
    let new = ask(&mut stream, "GET", "/", &[("If-None-Match", old.header("etag"))]);
    assert_eq!((new.status, new.body.as_str()), (200, "new"));
}

#[test]
fn types_carry_a_charset_where_they_are_text() {
    let server = Server::start();
    for (name, kind) in [
        ("a.html", "text/html; charset=utf-8"),
        ("a.css", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "application/javascript; charset=utf-8"),
        ("a.txt", "text/plain; charset=utf-8"),
        ("a.svg", "image/svg+xml; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.wasm", "application/wasm"),
        ("a.png", "image/png"),
        ("a.woff2", "font/woff2"),
        ("a", "application/octet-stream"),
    ] {
        server.write(&format!("127.0.0.1/{name}"), "x");
        let answer = server.get(&format!("/{name}"));
        assert_eq!((answer.status, answer.header("content-type")), (200, kind), "{name}");
    }
}

#[test]
fn a_folder_is_its_index_and_is_redirected_to_its_slash_on_the_same_host() {
    let server = Server::start();
    server.write("127.0.0.1/docs/index.html", "docs");
    server.write("127.0.0.1/empty/file.txt", "x");
    assert_eq!(server.get("/docs/").body, "docs");
    for path in ["/docs", "//docs", "////docs"] {
        let answer = server.get(path);
        assert_eq!((answer.status, answer.header("location")), (307, "/docs/"), "{path}");
    }
    assert_eq!(server.get("/docs?q=1").header("location"), "/docs/?q=1");
    assert_eq!(server.get("/empty/").status, 404);
}

#[test]
fn what_is_missing_gets_the_sites_own_page() {
    let server = Server::start();
    server.write("127.0.0.1/index.html", "x");
    let plain = server.get("/nothing");
    assert_eq!((plain.status, plain.header("content-type")), (404, "text/plain; charset=utf-8"));
    server.write("127.0.0.1/404.html", "<p>lost</p>");
    let page = server.get("/nothing/here");
    assert_eq!((page.status, page.body.as_str()), (404, "<p>lost</p>"));
    assert_eq!((page.header("content-type"), page.header("etag")), ("text/html; charset=utf-8", ""));
    let head = server.ask("HEAD", "/nothing", &[]);
    assert_eq!((head.status, head.header("content-length")), (404, "11"));
}

#[test]
fn parts_and_conditions_are_answered() {
    let server = Server::start();
    server.write("127.0.0.1/a.txt", "0123456789");
    let whole = server.get("/a.txt");
    let (etag, modified) = (whole.header("etag").to_owned(), whole.header("last-modified").to_owned());
    assert!(!etag.is_empty() && !modified.is_empty() && !whole.header("cache-control").is_empty());
    let with = |headers: &[(&str, &str)]| {
        let answer = server.ask("GET", "/a.txt", headers);
        (answer.status, answer.body)
    };
    assert_eq!(with(&[("If-None-Match", &etag)]), (304, String::new()));
    assert_eq!(with(&[("If-Modified-Since", &modified)]), (304, String::new()));
    assert_eq!(with(&[("If-None-Match", "\"other\"")]).0, 200);
    assert_eq!(with(&[("Range", "bytes=2-4")]), (206, "234".to_owned()));
    assert_eq!(with(&[("Range", "bytes=-3")]), (206, "789".to_owned()));
    assert_eq!(with(&[("Range", "bytes=20-")]).0, 416);
    assert_eq!(with(&[("Range", "bytes=0-1,3-4")]).0, 200);
    assert_eq!(with(&[("Range", "lines=0-1")]).0, 200);
    assert_eq!(with(&[("Range", "bytes=2-4"), ("If-Range", &etag)]), (206, "234".to_owned()));
    assert_eq!(with(&[("Range", "bytes=2-4"), ("If-Range", "\"old\"")]), (200, "0123456789".to_owned()));
    let head = server.ask("HEAD", "/a.txt", &[("Range", "bytes=2-4")]);
    assert_eq!((head.status, head.header("content-length")), (200, "10"));
}

#[test]
fn who_takes_gzip_gets_the_compressed_copy_and_nobody_else() {
    let server = Server::start();
    server.write("127.0.0.1/index.html", "<h1>plain</h1>");
    server.write("127.0.0.1/index.html.gz", "packed, for all the server knows");
    server.write("127.0.0.1/alone.css", "a{}");
    let gzip = &[("Accept-Encoding", "gzip, deflate, br, zstd")];
    let (plain, packed) = (server.get("/"), server.ask("GET", "/", gzip));
    assert_eq!((plain.body.as_str(), plain.header("content-encoding")), ("<h1>plain</h1>", ""));
    assert_eq!((packed.body.as_str(), packed.header("content-encoding")), ("packed, for all the server knows", "gzip"));
    assert_eq!(packed.header("content-type"), "text/html; charset=utf-8");
    for answer in [&plain, &packed] {
        assert_eq!(answer.header("vary"), "accept-encoding", "caches must tell them apart");
    }
    assert_ne!(plain.header("etag"), packed.header("etag"));
    let head = server.ask("HEAD", "/", gzip);
    assert_eq!((head.header("content-length"), head.header("content-encoding")), ("32", "gzip"));
    let known = server.ask("GET", "/", &[gzip[0], ("If-None-Match", packed.header("etag"))]);
    assert_eq!((known.status, known.header("vary")), (304, "accept-encoding"));
    // Refused outright, without a copy, and parts: the file as it is.
    assert_eq!(server.ask("GET", "/", &[("Accept-Encoding", "gzip;q=0, identity")]).body, plain.body);
    let alone = server.ask("GET", "/alone.css", gzip);
    assert_eq!((alone.body.as_str(), alone.header("content-encoding")), ("a{}", ""));
    let part = server.ask("GET", "/index.html", &[gzip[0], ("Range", "bytes=0-3")]);
    assert_eq!((part.status, part.body.as_str(), part.header("content-encoding")), (206, "<h1>", ""));
}

#[test]
fn two_versions_with_one_size_and_one_modification_time_are_told_apart() {
    let server = Server::start();
    let path = server.root.path().join("127.0.0.1/a.js");
    let age = |path: &Path| {
        let file = fs::File::options().write(true).open(path).expect("opens");
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1)).expect("set");
    };
    server.write("127.0.0.1/a.js", "v1");
    age(&path);
    let old = server.get("/a.js");
    server.write("127.0.0.1/a.js.new", "v2");
    let new = path.with_extension("js.new");
    age(&new);
    fs::rename(&new, &path).expect("renamed");
    let asked = server.ask("GET", "/a.js", &[("If-None-Match", old.header("etag"))]);
    assert_eq!((asked.status, asked.body.as_str()), (200, "v2"));
}

#[test]
fn only_get_and_head_are_answered() {
    let server = Server::start();
    server.write("127.0.0.1/a.txt", "x");
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"] {
        let answer = server.ask(method, "/a.txt", &[("Content-Length", "0")]);
        assert_eq!((answer.status, answer.header("allow")), (405, "GET, HEAD"), "{method}");
    }
}

#[test]
fn hidden_files_are_not_served() {
    let server = Server::start();
    server.write("127.0.0.1/.env", "SECRET");
    server.write("127.0.0.1/.git/config", "SECRET");
    server.write("127.0.0.1/a/.htpasswd", "SECRET");
    server.write("127.0.0.1/.well-known/security.txt", "mail us");
    for path in ["/.env", "/%2eenv", "/.git/config", "/a/.htpasswd", "/a//.htpasswd", "/.git", "/.git/"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    assert_eq!(server.get("/.well-known/security.txt").body, "mail us");
}

#[test]
fn nothing_outside_the_sites_folder_can_be_reached() {
    let server = Server::start();
    let root = server.root.path();
    server.write("secret.txt", "SECRET");
    server.write("127.0.0.2/private.txt", "SECRET");
    server.write("127.0.0.1/real/a.txt", "inside");
    let site = root.join("127.0.0.1");
    symlink("../secret.txt", site.join("up")).expect("linked");
    symlink("../127.0.0.2", site.join("neighbour")).expect("linked");
    symlink(root.join("secret.txt"), site.join("absolute")).expect("linked");
    symlink("/etc/passwd", site.join("host")).expect("linked");
    symlink("/proc/self/root", site.join("magic")).expect("linked");
    symlink("loop", site.join("loop")).expect("linked");
    symlink("real", site.join("inside")).expect("linked");
    for path in [
        "/up",
        "/neighbour/private.txt",
        "/absolute",
        "/host",
        "/magic/etc/passwd",
        "/loop",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/real/..%2f..%2fsecret.txt",
        "/..%5csecret.txt",
        "/%00",
        "/real/a.txt/",
        "/real/a.txt/b",
        "/%2fetc/passwd",
    ] {
        let answer = server.get(path);
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    assert_eq!(server.get("/inside/a.txt").body, "inside");
}

#[test]
fn what_is_no_file_does_not_hold_the_server_up() {
    let server = Server::start();
    server.write("127.0.0.1/a.txt", "x");
    let fifo = server.root.path().join("127.0.0.1/pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644), 0)
        .expect("made");
    let _socket = std::os::unix::net::UnixListener::bind(server.root.path().join("127.0.0.1/socket")).expect("bound");
    assert_eq!(server.get("/pipe").status, 404);
    assert_eq!(server.get("/socket").status, 404);
    assert_eq!(server.get("/a.txt").status, 200);
}

#[test]
fn a_large_file_arrives_whole_and_an_answer_under_way_survives_sigterm() {
    let mut server = Server::start();
    // More than the kernel buffers of both ends hold, so that the answer is under way at the signal.
    let text = "0123456789abcdef".repeat(2 << 20);
    server.write("127.0.0.1/large.txt", &text);
    let mut stream = server.connect("127.0.0.1");
    stream.write_all(b"GET /large.txt HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    let mut first = [0; 16];
    stream.peek(&mut first).expect("it began");
    kill_process(Pid::from_child(&server.child), Signal::TERM).expect("told to end");
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(("127.0.0.1", server.port)).is_ok() {
        assert!(Instant::now() < deadline, "it still accepts");
        std::thread::yield_now();
    }
    let answer = read_answer(&mut stream, "GET");
    assert_eq!(answer.status, 200);
    assert!(answer.body == text, "the answer was cut or changed");
    assert!(server.child.wait().expect("ended").success());
}

#[test]
fn many_visitors_at_once_are_all_answered() {
    let server = Server::start();
    server.write("127.0.0.1/a.txt", "hello");
    let mut streams: Vec<_> = (0..400).map(|_| server.connect("127.0.0.1")).collect();
    for stream in &mut streams {
        stream.write_all(b"GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    }
    for stream in &mut streams {
        assert_eq!(read_answer(stream, "GET").body, "hello");
    }
}
