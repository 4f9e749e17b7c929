//! `scripts/workloads`: apps of many kinds at once, each of which must stay awake or fall asleep by itself.
//! The labels are in `tests/workloads.toml`, and were there first.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a table for whoever runs it")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use drowse_api::deployment::AppType;
use drowse_api::sleep::Explanation;
use drowse_tests::apps::App;
use drowse_tests::machine::repository;
use drowse_tests::world::{Options, World};
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

#[derive(Deserialize)]
struct Set {
    idle_seconds: u32,
    look_seconds: u32,
    watch_seconds: u64,
    label: BTreeMap<String, Label>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Label {
    Awake,
    Asleep,
}

/// Works for a while, again and again, in a thread of the probe.
const CRON: &str = "import threading, time\ndef work():\n    while True:\n        end = time.monotonic() + BUSY\n        \
                    while time.monotonic() < end:\n            pass\n        time.sleep(PAUSE)\n\
                    threading.Thread(target=work, daemon=True).start()\nresult = 'working'";
const SENDS: &str = "import socket, threading, time\ndef work():\n    door = socket.socket(socket.AF_INET, \
                     socket.SOCK_DGRAM)\n    while True:\n        for _ in range(40):\n            \
                     door.sendto(b'x' * 1024, ('169.254.1.1', 9))\n        time.sleep(2)\n\
                     threading.Thread(target=work, daemon=True).start()\nresult = 'sending'";
const FLASK: &str = "from flask import Flask\napp = Flask(__name__)\n@app.get('/')\ndef home():\n    return 'here'\n";
const WORK: &str = "import time\ndef work():\n    end = time.monotonic() + 0.5\n    while time.monotonic() < end:\n        \
                    pass\n";

fn cron(busy: &str, pause: &str) -> String {
    CRON.replace("BUSY", busy).replace("PAUSE", pause)
}

fn python(requirements: &str, main: &str) -> App {
    App::empty(AppType::Python).file("requirements.txt", requirements).file("app.py", main)
}

fn celery(beat: &str) -> App {
    let tasks = format!(
        "import os\nfrom celery import Celery\nfor name in ('queue', 'done'):\n    os.makedirs('/tmp/' + name, \
         exist_ok=True)\napp = Celery('tasks', broker='filesystem://')\napp.conf.broker_transport_options = \
         {{'data_folder_in': '/tmp/queue', 'data_folder_out': '/tmp/queue', 'processed_folder': \
         '/tmp/done'}}\n{WORK}\n@app.task(name='work')\ndef task():\n    work()\n{beat}"
    );
    let serve = "import os\nfrom http.server import HTTPServer, SimpleHTTPRequestHandler\nHTTPServer(('0.0.0.0', \
                 int(os.environ['PORT'])), SimpleHTTPRequestHandler).serve_forever()\n";
    App::empty(AppType::Python)
        .file("requirements.txt", "celery\n")
        .file("tasks.py", tasks)
        .file("serve.py", serve)
        .file(
            "Procfile",
            "web: celery -A tasks worker -B -s /tmp/beat --concurrency 1 -l warning & exec python3 serve.py\n",
        )
}

/// The app of a workload.
fn app(name: &str, idle: u32) -> Result<App> {
    let express = "const express = require('express'); const app = express(); app.get('/', (q, a) => a.send('here'));\n\
                   app.listen(process.env.PORT);\n";
    let npm = |dependencies: &str, main: &str| {
        let package = format!(
            "{{\"name\": \"one\", \"version\": \"1.0.0\", \"scripts\": {{\"start\": \"node main.js\"}}, \"dependencies\": \
             {{{dependencies}}}}}"
        );
        App::empty(AppType::Npm).file("package.json", package).file("main.js", main)
    };
    Ok(match name {
        "celery-worker" => celery("app.conf.beat_schedule = {'work': {'task': 'work', 'schedule': 5.0}}\n"),
        "celery-idle" => celery(""),
        "apscheduler-flask" => python(
            "Flask\nAPScheduler<4\n",
            &format!(
                "{FLASK}{WORK}from apscheduler.schedulers.background import BackgroundScheduler\nscheduler = \
                 BackgroundScheduler()\nscheduler.add_job(work, 'interval', seconds=10)\nscheduler.start()\n"
            ),
        ),
        "schedule-thread" => python(
            "Flask\nschedule\n",
            &format!(
                "{FLASK}{WORK}import threading, schedule\nschedule.every(8).seconds.do(work)\ndef run():\n    while \
                 True:\n        schedule.run_pending()\n        time.sleep(1)\nthreading.Thread(target=run, \
                 daemon=True).start()\n"
            ),
        ),
        "socket-io" => npm(
            "\"socket.io\": \"^4\"",
            "const http = require('http').createServer((q, a) => a.end('here'));\nrequire('socket.io')(http);\n\
             http.listen(process.env.PORT);\n",
        ),
        "sse-fastapi" => python(
            "fastapi\nsse-starlette\n",
            "import asyncio\nfrom fastapi import FastAPI\nfrom sse_starlette.sse import EventSourceResponse\napp = \
             FastAPI()\n@app.get('/')\ndef home():\n    return 'here'\nasync def feed():\n    while True:\n        yield \
             {'data': 'tick'}\n        await asyncio.sleep(5)\n@app.get('/feed')\nasync def stream():\n    return \
             EventSourceResponse(feed())\n",
        ),
        "flask-gunicorn" => python("Flask\n", FLASK),
        "fastapi-uvicorn" => python(
            "fastapi\n",
            "from fastapi import FastAPI\napp = FastAPI()\n@app.get('/')\ndef home():\n    return 'here'\n",
        ),
        "express" => npm("\"express\": \"^4\"", express),
        // Paused, an app wakes for everybody and nobody notices; deeper, a monitor wakes nothing.
        "health-monitor" => App::probe("one")
            .file("drowse.toml", format!("[sleep]\npaused_after = \"never\"\nafter = {idle}\ndepth = \"cold\"\n")),
        _ => App::probe("one"),
    })
}

/// Begins what is done to it, or in it.
async fn begin(world: &World, name: &'static str, beside: &mut JoinSet<()>) -> Result<()> {
    let visitor = world.visitor();
    let python = async |body: String| visitor.post(name, "/python", body).await?.ok();
    match name {
        "busy-processor" => drop(python(cron("0.5", "0.5")).await?),
        "cron-inside" => drop(python(cron("0.5", "9.5")).await?),
        "outgoing-job" => drop(python(SENDS.to_owned()).await?),
        "lease" => drop(visitor.post(name, "/lease", "hold 1h").await?.ok()?),
        "sse-reader" | "sse-fastapi" => {
            let path = if name == "sse-reader" { "/stream?chunks=100000&every=5&size=20" } else { "/feed" };
            let answer =
                visitor.open(visitor.request("GET", name, path).body(http_body_util::Full::default())?).await?;
            beside.spawn(async move {
                let mut body = answer.into_body();
                while let Some(Ok(_)) = http_body_util::BodyExt::frame(&mut body).await {}
            });
        }
        "websocket" => {
            let mut socket = visitor.websocket(name, "/websocket").await?;
            beside.spawn(async move { while socket.next().await.is_some() {} });
        }
        "socket-io" => {
            let mut socket = visitor.websocket(name, "/socket.io/?EIO=4&transport=websocket").await?;
            beside.spawn(async move {
                while let Some(Ok(message)) = socket.next().await {
                    // Engine.IO: 0 opens, upon which 40 connects; 2 is a ping, 3 its answer.
                    let answer = match message.into_text().unwrap_or_default().chars().next() {
                        Some('0') => "40",
                        Some('2') => "3",
                        _ => continue,
                    };
                    if socket.send(Message::text(answer)).await.is_err() {
                        return;
                    }
                }
            });
        }
        "idle-keep-alive" => {
            let connection = visitor.connect().await?;
            beside.spawn(async move {
                let _connection = connection;
                std::future::pending::<()>().await;
            });
        }
        "health-monitor" => {
            beside.spawn(async move {
                loop {
                    let request = visitor.request("GET", name, "/").header("user-agent", "UptimeRobot/2.0");
                    if let Ok(request) = request.body(http_body_util::Full::default()) {
                        let _ = visitor.send(request).await;
                    }
                    tokio::time::sleep(Duration::from_secs(5)).await;
                }
            });
        }
        _ => {}
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let text = std::fs::read_to_string(repository().join("tests/workloads.toml"))?;
    let set: Set = toml::from_str(&text).context("tests/workloads.toml")?;
    let sleep = format!("paused_after_seconds = {}\nlook_seconds = {}\n", set.idle_seconds, set.look_seconds);
    let options = Options { boot_timeout: Duration::from_secs(60), sleep, ..Options::default() };
    let world = World::with(options).await;
    let mut beside = JoinSet::new();
    let names: Vec<&'static str> = set.label.keys().map(|name| &*name.clone().leak()).collect();
    for &name in &names {
        eprintln!("    {name}");
        let folder = app(name, set.idle_seconds)?;
        let told = world.drowse(&["deploy", &folder.path().to_string_lossy(), "--name", name]);
        ensure!(told.code == Some(0), "{name} was not deployed:\n{}{}", told.stdout, told.stderr);
        begin(&world, name, &mut beside).await.with_context(|| format!("{name} cannot be begun"))?;
    }
    let began = Instant::now();
    let mut slept: BTreeMap<&str, u32> = BTreeMap::new();
    let mut is_asleep: BTreeMap<&str, bool> = BTreeMap::new();
    while began.elapsed() < Duration::from_secs(set.watch_seconds) {
        for status in world.instances().await? {
            let Some(&name) = names.iter().find(|name| **name == status.app.as_str()) else { continue };
            let before = is_asleep.insert(name, status.state.is_asleep());
            if status.state.is_asleep() && before != Some(true) {
                *slept.entry(name).or_default() += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("| workload | must be | fell asleep | at the end | why | verdict |\n|---|---|---|---|---|---|");
    let mut wrong = Vec::new();
    for &name in &names {
        let (times, at_end) = (slept.get(name).copied().unwrap_or(0), is_asleep.get(name) == Some(&true));
        let label = set.label[name];
        let is_right = match label {
            Label::Awake => times == 0 && !at_end,
            Label::Asleep => at_end,
        };
        let path = format!("/v1/apps/{name}/explain");
        let why = world.controller().get::<Explanation>(&path).await.map(|it| it.now.concat()).unwrap_or_default();
        let why = why.split_once(' ').map_or("", |(_, why)| why).split(';').next().unwrap_or_default().to_owned();
        let state = if at_end { "asleep" } else { "awake" };
        let verdict = if is_right { "right" } else { "**wrong**" };
        println!(
            "| {name} | {} | {times} | {state} | {why} | {verdict} |",
            if label == Label::Awake { "awake" } else { "asleep" }
        );
        if !is_right {
            wrong.push(name);
        }
    }
    ensure!(wrong.is_empty(), "wrong: {}", wrong.join(", "));
    Ok(())
}
