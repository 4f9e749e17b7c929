//! The app, our router, and the peers, each as a process of its own on loopback.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
use drowse_api::agent::EndpointsPicture;
use drowse_api::routing::{Endpoint, Route, RouteTable};
use drowse_api::{AppName, DeploymentId, HostName, InstanceId, NodeName};
use drowse_proxy::{Limits, Router, RouterConfig};

use crate::bench::process::{Program, free_address};

/// The host that is asked for.
pub const HOST: &str = "shop.drowse.test";

const NODE: &str = "bench";

/// What is behind all sides: an nginx that answers from memory.
#[derive(Debug)]
pub struct App {
    _program: Program,
    address: SocketAddr,
}

impl App {
    /// Starts it.
    pub fn start(folder: &Path) -> anyhow::Result<App> {
        let address = free_address()?;
        let server = format!(
            "server {{ listen {address} backlog=4096; location / {{ default_type text/plain; return 200 \"hello from the app\\n\"; }} }}"
        );
        let mut program = nginx("the app", folder, "app", 1, &server)?;
        program.wait_for(address)?;
        Ok(App { _program: program, address })
    }
}

/// One of those compared.
#[derive(Debug)]
pub struct Side {
    pub name: &'static str,
    pub program: Program,
    pub address: SocketAddr,
}

impl Side {
    /// Starts all of them with so many threads each; ours is the first.
    pub fn start_all(folder: &Path, app: &App, threads: usize) -> anyhow::Result<Vec<Side>> {
        let start = [ours, haproxy, haproxy_plain, nginx_proxy];
        start.iter().map(|start| start(folder, app, threads)).collect()
    }
}

fn ours(folder: &Path, app: &App, threads: usize) -> anyhow::Result<Side> {
    let address = free_address()?;
    let folder = folder.join(format!("ours-{threads}-{}", address.port()));
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--serve").args([&folder]).args([address.to_string(), app.address.to_string(), threads.to_string()]);
    let mut program = Program::start("the router", &mut command)?;
    program.wait_for(address)?;
    // It is ready when it has its table: until then it answers 503.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let mut stream = std::net::TcpStream::connect(address)?;
        write!(stream, "GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if answer.starts_with("HTTP/1.1 200") {
            return Ok(Side { name: "ours", program, address });
        }
        anyhow::ensure!(std::time::Instant::now() < deadline, "the router does not serve: {answer}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// The router as a process of its own, with a controller and an agent that tell it one thing. Ends
/// when its input is closed.
///
/// # Errors
/// When the arguments are wrong or it cannot start.
pub fn serve(arguments: &[String]) -> anyhow::Result<()> {
    let [folder, listen, app, threads] = arguments else { anyhow::bail!("--serve FOLDER LISTEN APP THREADS") };
    let folder = PathBuf::from(folder);
    let instance = InstanceId::parse("bench")?;
    let route = Route::Instances {
        glances: Default::default(),
        app: AppName::parse("shop")?,
        deployment: DeploymentId::parse("bench")?,
        endpoints: vec![Endpoint { node: NodeName::parse(NODE)?, instance: instance.clone() }],
        wake: Default::default(),
    };
    let table = RouteTable {
        run: None,
        revision: 1,
        domain: "drowse.test".into(),
        hosts: BTreeMap::from([(HostName::parse(HOST)?, route)]),
    };
    let endpoints =
        EndpointsPicture { ready: BTreeMap::from([(instance, app.parse()?)]), ..EndpointsPicture::default() };
    let config = RouterConfig {
        listen: vec![listen.parse()?],
        public_port: None,
        wake_page: None,
        data_dir: folder.join("data"),
        node: NodeName::parse(NODE)?,
        agent_socket: folder.join("agent.sock"),
        controller_socket: folder.join("controller.sock"),
        api_address: "127.0.0.1:1".parse()?,
        workers: Some(threads.parse()?),
        limits: Limits { header_seconds: 300, ..Limits::default() },
    };
    tell(&config.controller_socket, serde_json::to_string(&table)?)?;
    tell(&config.agent_socket, serde_json::to_string(&endpoints)?)?;
    let router = Router::start(config, Vec::new())?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    router.stop();
    Ok(())
}

/// A daemon that streams one line to whoever follows it, and takes every report.
fn tell(path: &Path, line: String) -> anyhow::Result<()> {
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::thread::spawn(move || {
        let mut followers = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut first, mut length, mut header) = (String::new(), 0, String::new());
            let _ = reader.read_line(&mut first);
            while reader.read_line(&mut header).is_ok_and(|read| read > 2) {
                let lower = header.to_lowercase();
                length = lower.strip_prefix("content-length:").and_then(|l| l.trim().parse().ok()).unwrap_or(length);
                header.clear();
            }
            let _ = reader.by_ref().take(length).read_to_end(&mut Vec::new());
            let mut stream = reader.into_inner();
            if first.starts_with("GET") {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = write!(stream, "{head}{:x}\r\n{line}\n\r\n", line.len() + 1);
                followers.push(stream);
            } else {
                let _ = write!(stream, "HTTP/1.1 204 No Content\r\n\r\n");
            }
        }
    });
    Ok(())
}

fn haproxy(folder: &Path, app: &App, threads: usize) -> anyhow::Result<Side> {
    let map = folder.join("hosts.map");
    std::fs::write(&map, format!("{HOST} app\n"))?;
    let duties = format!(
        "    option forwardfor\n    http-request set-header X-Forwarded-Proto http\n    \
         http-request set-header X-Forwarded-Host %[req.hdr(host)]\n    unique-id-format %[uuid()]\n    \
         unique-id-header X-Request-ID\n    use_backend %[req.hdr(host),field(1,:),lower,map_str({},unknown)]\n",
        map.display()
    );
    start_haproxy("haproxy", folder, app, threads, &duties)
}

/// HAProxy as a pipe: no routing, no headers. Nobody's router, but its lower bound.
fn haproxy_plain(folder: &Path, app: &App, threads: usize) -> anyhow::Result<Side> {
    start_haproxy("haproxy, no duties", folder, app, threads, "    default_backend app\n")
}

fn start_haproxy(name: &'static str, folder: &Path, app: &App, threads: usize, duties: &str) -> anyhow::Result<Side> {
    let address = free_address()?;
    let config = folder.join(format!("haproxy-{}.cfg", address.port()));
    std::fs::write(
        &config,
        format!(
            "global\n    nbthread {threads}\n    maxconn 8000\ndefaults\n    mode http\n    timeout connect 5s\n    \
             timeout client 300s\n    timeout server 300s\n    timeout http-keep-alive 300s\n    http-reuse always\n\
             frontend visitors\n    bind {address}\n{duties}backend app\n    server app {}\n\
             backend unknown\n    http-request return status 404\n",
            app.address
        ),
    )?;
    let mut program = Program::start(name, Command::new("haproxy").arg("-db").arg("-q").arg("-f").arg(&config))?;
    program.wait_for(address)?;
    Ok(Side { name, program, address })
}

fn nginx_proxy(folder: &Path, app: &App, threads: usize) -> anyhow::Result<Side> {
    let address = free_address()?;
    let server = format!(
        "upstream app {{ server {}; keepalive 256; keepalive_requests 1000000000; }}\n\
         server {{ listen {address} backlog=4096; server_name {HOST}; location / {{ proxy_pass http://app; \
         proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host $http_host; \
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme; \
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-ID $request_id; }} }}",
        app.address
    );
    let mut program = nginx("nginx", folder, &format!("nginx-{}", address.port()), threads, &server)?;
    program.wait_for(address)?;
    Ok(Side { name: "nginx", program, address })
}

fn nginx(name: &'static str, folder: &Path, file: &str, workers: usize, server: &str) -> anyhow::Result<Program> {
    let own = folder.join(file);
    std::fs::create_dir_all(&own)?;
    let config = own.join("nginx.conf");
    let own = own.display();
    std::fs::write(
        &config,
        format!(
            "daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 19000;\npid {own}/pid;\nerror_log stderr crit;\n\
             events {{ worker_connections 9000; }}\nhttp {{ access_log off; keepalive_requests 1000000000; \
             keepalive_timeout 3600s; client_body_temp_path {own}; proxy_temp_path {own}; fastcgi_temp_path {own}; \
             uwsgi_temp_path {own}; scgi_temp_path {own};\n{server}\n}}\n"
        ),
    )?;
    Program::start(name, Command::new("nginx").arg("-c").arg(&config).arg("-p").arg(folder))
}
