//! `scripts/projects`: real projects, as their own generators and documentation make them, deployed as a
//! new user would, twice each, with the times from the command to READY.

#![allow(clippy::print_stderr, clippy::print_stdout, reason = "a table for whoever runs it")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use drowse_tests::wait;
use drowse_tests::world::{Options, World};
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

/// A project, and how one sees that it works.
struct Project {
    name: &'static str,
    /// Where it comes from.
    from: &'static str,
    make: fn(&Path) -> Result<()>,
    /// A path, and a word of its answer.
    shows: (&'static str, &'static str),
    /// A WebSocket that answers, if it has one.
    socket: Option<&'static str>,
}

const PROJECTS: [Project; 9] = [
    Project {
        name: "flask",
        from: "one file and its list",
        make: |folder| {
            write(folder, "requirements.txt", "Flask\n")?;
            write(
                folder,
                "app.py",
                "from flask import Flask\n\napp = Flask(__name__)\n\n\n@app.get(\"/\")\ndef home():\n    \
                 return \"<p>Flask is here</p>\"\n",
            )
        },
        shows: ("/", "Flask is here"),
        socket: None,
    },
    Project {
        name: "django",
        from: "django-admin startproject",
        make: |folder| {
            run(folder, "python3", &["-m", "venv", "../django-tools"])?;
            run(folder, "../django-tools/bin/pip", &["install", "-q", "Django"])?;
            run(folder, "../django-tools/bin/django-admin", &["startproject", "shop", "."])?;
            write(folder, "requirements.txt", "Django\n")
        },
        shows: ("/", "install worked successfully"),
        socket: None,
    },
    Project {
        name: "fastapi",
        from: "one file with a WebSocket, pyproject.toml",
        make: |folder| {
            write(
                folder,
                "pyproject.toml",
                "[project]\nname = \"chat\"\nversion = \"0.1.0\"\ndependencies = [\"fastapi\"]\n",
            )?;
            write(
                folder,
                "main.py",
                "from fastapi import FastAPI, WebSocket\n\napp = FastAPI()\n\n\n@app.get(\"/\")\ndef home():\n    \
                 return {\"app\": \"FastAPI is here\"}\n\n\n@app.websocket(\"/ws\")\nasync def talk(socket: WebSocket):\n    \
                 await socket.accept()\n    while True:\n        await socket.send_text(await socket.receive_text())\n",
            )
        },
        shows: ("/", "FastAPI is here"),
        socket: Some("/ws"),
    },
    Project {
        name: "pipenv",
        from: "a Pipfile",
        make: |folder| {
            write(folder, "Pipfile", "[packages]\nbottle = \"*\"\n")?;
            write(
                folder,
                "app.py",
                "from bottle import Bottle\n\napp = Bottle()\n\n\n@app.get(\"/\")\ndef home():\n    \
                 return \"Bottle is here\"\n",
            )
        },
        shows: ("/", "Bottle is here"),
        socket: None,
    },
    Project {
        name: "express",
        from: "express-generator",
        make: |folder| run(folder, "npx", &["--yes", "express-generator", "--no-view", "--force", "."]),
        shows: ("/", "Express"),
        socket: None,
    },
    Project {
        name: "vite",
        from: "create-vite, template react",
        make: |folder| {
            run(
                folder,
                "npm",
                &["create", "--yes", "vite@latest", ".", "--", "--template", "react", "--no-interactive"],
            )
        },
        shows: ("/", "/assets/"),
        socket: None,
    },
    Project {
        name: "native",
        from: "npm init, bcrypt (a native module)",
        make: |folder| {
            write(
                folder,
                "package.json",
                r#"{"name": "native", "version": "1.0.0", "scripts": {"start": "node server.js"},
                    "dependencies": {"bcrypt": "^6"}}"#,
            )?;
            write(
                folder,
                "server.js",
                "const bcrypt = require('bcrypt');\nconst http = require('http');\nhttp.createServer(async (request, \
                 answer) => {\n  const hash = await bcrypt.hash('secret', 4);\n  answer.end(`native: \
                 ${await bcrypt.compare('secret', hash)}\\n`);\n}).listen(process.env.PORT);\n",
            )
        },
        shows: ("/", "native: true"),
        socket: None,
    },
    Project {
        name: "compiled",
        from: "npm init, better-sqlite3 compiled from its source",
        make: |folder| {
            write(folder, ".npmrc", "build-from-source=true\n")?;
            write(
                folder,
                "package.json",
                r#"{"name": "compiled", "version": "1.0.0", "scripts": {"start": "node server.js"},
                    "dependencies": {"better-sqlite3": "^11"}}"#,
            )?;
            write(
                folder,
                "server.js",
                "const Database = require('better-sqlite3');\nconst db = new Database(':memory:');\n\
                 require('http').createServer((request, answer) => {\n  \
                 answer.end(`compiled: ${db.prepare('select 40 + 2 as sum').get().sum}\\n`);\n\
                 }).listen(process.env.PORT);\n",
            )
        },
        shows: ("/", "compiled: 42"),
        socket: None,
    },
    Project {
        name: "docker",
        from: "a Dockerfile of two stages (examples/docker)",
        make: |folder| {
            let example = drowse_tests::apps::example("docker");
            run(folder, "cp", &["-a", &format!("{}/.", example.display()), "."])
        },
        shows: ("/", "Menu"),
        socket: None,
    },
];

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    ensure!(output.status.success(), "{program} {} failed:\n{said}", arguments.join(" "));
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = wanted.iter().find(|name| !PROJECTS.iter().any(|project| project.name == name.as_str())) {
        bail!("there is no project {unknown}: {}", PROJECTS.map(|project| project.name).join(", "));
    }
    let folder = tempfile::tempdir().context("cannot make a folder")?;
    let world = World::with(Options { boot_timeout: Duration::from_secs(60), ..Options::default() }).await;
    println!("| project | from | started by | first deploy | second |\n|---|---|---|---|---|");
    let mut failed = Vec::new();
    for project in PROJECTS.iter().filter(|it| wanted.is_empty() || wanted.iter().any(|name| name == it.name)) {
        eprintln!("    {}", project.name);
        match try_out(&world, folder.path(), project).await {
            Ok(row) => println!("{row}"),
            Err(error) => {
                println!("| {} | {} | **failed** | | |", project.name, project.from);
                failed.push(format!("{}: {error:#}", project.name));
            }
        }
    }
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

async fn try_out(world: &World, all: &Path, project: &Project) -> Result<String> {
    let folder = all.join(project.name);
    fs::create_dir(&folder)?;
    (project.make)(&folder)?;
    let (first, log) = deploy(world, &folder, project)?;
    works(world, project).await?;
    // Somebody works on it: what it depends on stays.
    write(&folder, "NOTES.txt", "second\n")?;
    let (second, _) = deploy(world, &folder, project)?;
    works(world, project).await?;
    let started = log.lines().find_map(|line| Some(line.split_once("start command (")?.1.split_once("): ")?.1));
    let started = started.map_or_else(|| "static site".to_owned(), |line| format!("`{}`", line.trim()));
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    Ok(format!("| {} | {} | {started} | {} | {} |", project.name, project.from, seconds(first), seconds(second)))
}

/// One deploy, to READY, and what it said.
fn deploy(world: &World, folder: &Path, project: &Project) -> Result<(Duration, String)> {
    let began = Instant::now();
    let done = world.drowse(&["deploy", &folder.to_string_lossy(), "--name", project.name]);
    let took = began.elapsed();
    let said = format!("{}{}", done.stdout, done.stderr);
    ensure!(done.code == Some(0), "the deploy ended with {:?}:\n{said}", done.code);
    Ok((took, said))
}

async fn works(world: &World, project: &Project) -> Result<()> {
    let (path, word) = project.shows;
    let visitor = world.visitor();
    wait::until_ok(&format!("{} answers", project.name), Duration::from_secs(20), async || {
        let text = visitor.get(project.name, path).await?.ok()?;
        ensure!(text.contains(word), "{word:?} is not in {text}");
        Ok(())
    })
    .await;
    let Some(path) = project.socket else { return Ok(()) };
    let mut socket = visitor.websocket(project.name, path).await?;
    socket.send(Message::text("hello")).await?;
    let answer = socket.next().await.context("it ended")??;
    ensure!(answer == Message::text("hello"), "it said {answer:?}");
    Ok(())
}
