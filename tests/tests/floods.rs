//! One app takes all it can get, of everything there is. It is refused or ended, and told why; visitors
//! of another app of the same user notice nothing; and in the end nothing of it is left.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use drowse_api::ErrorCode;
use drowse_api::deployment::AppType;
use drowse_tests::apps::App;
use drowse_tests::floods::{self, Adversary};
use drowse_tests::http::Visitor;
use drowse_tests::load::Load;
use drowse_tests::machine;
use drowse_tests::world::{Options, World, main_process};
use drowse_tests::{needs_a_world, wait};
use tokio::net::{TcpListener, TcpStream};

const LONG: Duration = Duration::from_secs(60);

/// Somebody at an address of this host, at the router's port, who takes every connection and keeps it.
struct Host {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Host {
    async fn listen(world: &World) -> Self {
        let port = world.visitor().router().port();
        let [_, last] = port.to_be_bytes();
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, last), port));
        ip(&["addr", "replace", &format!("{}/32", address.ip()), "dev", "lo"]);
        let listener = TcpListener::bind(address).await.expect("listens");
        let task = tokio::spawn(async move {
            let mut kept: Vec<TcpStream> = Vec::new();
            while let Ok((one, _)) = listener.accept().await {
                kept.push(one);
            }
        });
        Self { address, task }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
        ip(&["addr", "del", &format!("{}/32", self.address.ip()), "dev", "lo"]);
    }
}

fn ip(arguments: &[&str]) {
    let _ = Command::new("ip").args(arguments).status();
}

/// An attack whose end the app itself sees, and tells.
async fn is_refused(visitor: &Visitor, adversary: Adversary, query: &str, told: &str) -> String {
    let result = adversary.attack(visitor, "flood", query).await;
    let result = result.unwrap_or_else(|error| panic!("{}: {error:#}", adversary.name));
    assert!(result.contains(told), "{}: {result}", adversary.name);
    result
}

/// Waits for an event of the app.
async fn is_told(world: &World, words: &str) {
    wait::until_ok(&format!("an event tells {words:?}"), LONG, async || {
        let told: Vec<String> = world.events("flood").await.into_iter().map(|event| event.message).collect();
        if told.iter().any(|message| message.contains(words)) { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_app_floods_it_is_contained_and_its_neighbour_serves_on() {
    needs_a_world!();
    let world = World::with(Options {
        agent_lines: "connections = 200\nconnection_rate = 200\n".to_owned(),
        limits: "instance.memory = \"512MiB\"\ninstance.pids = 150\ninstance.disk = \"64MiB\"\ninstance.files = 3000\n"
            .to_owned(),
        ..Options::default()
    })
    .await;
    world.deploy("quiet", &App::probe("quiet")).await;
    world.deploy("flood", &App::probe("flood")).await;
    let visitor = world.visitor();
    let load = Load::start(&visitor, "quiet", "/", 2);
    let before = world.instance("flood").await;
    let folder = world.base().join("agent/instances").join(before.id.as_str());

    is_refused(&visitor, floods::DESCRIPTORS, "", "Too many open files").await;
    is_refused(&visitor, floods::TMPFS, "", "No space left on device").await;
    is_refused(&visitor, floods::CPU, "seconds=1", "ended").await;
    load.more(10).await;

    is_refused(&visitor, floods::LOG, "", "written").await;
    let logged: u64 =
        ["log.0", "log.1"].iter().map(|name| folder.join(name).metadata().map_or(0, |log| log.len())).sum();
    assert!((1 << 20..9 << 20).contains(&logged), "{logged} bytes of log are kept");
    load.more(10).await;

    let host = Host::listen(&world).await;
    let query = format!("host={}&port={}&keep=1", host.address.ip(), host.address.port());
    let opened = is_refused(&visitor, floods::CONNECTIONS, &query, ": ").await;
    let opened: u32 = opened.split(':').next().and_then(|count| count.parse().ok()).expect("a number");
    assert!((100..=200).contains(&opened), "{opened} connections of at most 200");
    is_refused(&visitor, floods::FILES, "keep=1", "No space left on device").await;
    is_refused(&visitor, floods::DISK, "keep=1", "No space left on device").await;
    load.more(10).await;
    for told in ["too many connections", "as many files", "filled its disk"] {
        is_told(&world, told).await;
    }
    let image = folder.join("disk").metadata().expect("it has a disk");
    assert_eq!(image.len(), 64 << 20);

    // Memory ends it, and it comes again on the disk that is still full. A request that is not answered is
    // no proof of that: only the event is.
    wait::until("its memory ends it", LONG, async || {
        let _ = floods::MEMORY.attack(&visitor, "flood", "").await;
        world.events("flood").await.iter().any(|event| event.message.contains("of memory")).then_some(())
    })
    .await;
    world.ready_again(&before.id, main_process(&before)).await;
    drop(host);

    // Visitors who come all at once, ask for what takes long, and stay.
    let crowd: Vec<_> = (0..90)
        .map(|_| {
            let visitor = visitor.clone();
            tokio::spawn(async move { visitor.get("flood", "/slow?seconds=2").await })
        })
        .collect();
    load.more(20).await;
    for one in crowd {
        let _ = one.await;
    }

    // Last, since it leaves no room for a thread that could answer anything more.
    is_refused(&visitor, floods::FORKS, "keep=1", "Resource temporarily unavailable").await;
    is_told(&world, "as many processes").await;
    load.more(10).await;

    let _ = world.drowse(&["rm", "flood", "--yes"]).ok();
    wait::until("nothing of it is left", LONG, async || {
        let groups = machine::cgroups(&world.names().cgroup_root);
        let processes: usize = groups.iter().map(|group| machine::processes_below(group).len()).max().unwrap_or(0);
        // What is left is the neighbour: its init, the app, and a thread's worth of children.
        (!folder.exists() && machine::attached_below(&folder).is_empty() && processes < 10).then_some(())
    })
    .await;
    load.nobody_noticed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_floods_its_disk_and_the_cache_fails_alone_and_the_next_one_has_room() {
    needs_a_world!();
    let limits = "build.disk = \"64MiB\"\n".to_owned();
    let world = World::with(Options { limits, ..Options::default() }).await;
    let app = |build: &str| {
        App::empty(AppType::Npm)
            .file("package.json", format!(r#"{{"scripts": {{"build": "{build}", "start": "node server.js"}}}}"#))
            .file("server.js", "require('http').createServer((_, r) => r.end('served')).listen(process.env.PORT)")
    };
    let flood = "head -c 99000000 /dev/urandom > $npm_config_cache/flood; head -c 99000000 /dev/urandom > big";
    let failed = world.try_deploy("flood", &app(flood)).await.expect("accepted").deployment;
    let problem = failed.problem.expect("a reason");
    assert_eq!(problem.code, ErrorCode::DiskFull, "{problem:?}");
    let shown = format!("{problem:?}");
    assert!(shown.contains("No space left on device") && shown.contains("64 MiB"), "{shown}");
    let caches = world.base().join("agent/cache");
    let kept: u64 =
        caches.read_dir().expect("there").flatten().map(|e| e.metadata().expect("read").blocks() * 512).sum();
    assert!(kept <= 66 << 20, "{kept} bytes of cache");
    world.deploy("flood", &app("head -c 9000000 /dev/urandom > $npm_config_cache/more")).await;
    world.serves("flood", "/", "served").await;
}
