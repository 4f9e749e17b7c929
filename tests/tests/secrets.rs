//! Secrets reach the app, and nothing else of the host ever shows one.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use drowse_tests::apps::App;
use drowse_tests::world::{PATIENCE, World, main_process};
use drowse_tests::{needs_a_world, wait};
use rustix::fs::SeekFrom;

/// Said to nobody. In two parts, so that this program does not hold it as one.
fn planted() -> String {
    format!("{}-{}", "pl4nted", "0f-a-secret")
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|part| part == text.as_bytes())
}

/// What is really written in a file: an instance's disk is a file of which most is not.
fn written(path: &Path) -> std::io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    let (size, mut at, mut bytes) = (file.metadata()?.len(), 0, Vec::new());
    while at < size {
        let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) else { break };
        let hole = rustix::fs::seek(&file, SeekFrom::Hole(data))?;
        let mut part = vec![0; usize::try_from(hole - data).unwrap_or_default()];
        file.read_exact_at(&mut part, data)?;
        bytes.append(&mut part);
        at = hole;
    }
    Ok(bytes)
}

/// Every file below `folder` that was written since and holds `text`.
fn files_with(folder: &Path, text: &str, since: SystemTime, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.path().symlink_metadata() else { continue };
        if metadata.is_dir() {
            files_with(&entry.path(), text, since, found);
        } else if metadata.is_file()
            && metadata.modified().is_ok_and(|at| at >= since)
            && written(&entry.path()).is_ok_and(|bytes| has(&bytes, text))
        {
            found.push(entry.path());
        }
    }
}

/// Every process that shows `text` in its command line.
fn command_lines_with(text: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("there").flatten();
    let lines = processes.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| has(line, text)).map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

/// What of this world's files, processes and answers shows `text`.
async fn shown(world: &World, text: &str, since: SystemTime) -> Vec<String> {
    let mut files = Vec::new();
    files_with(world.base(), text, since, &mut files);
    files_with(&world.names().run, text, since, &mut files);
    let mut found: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    found.extend(command_lines_with(text));
    for path in ["/v1/apps", "/v1/apps/shop", "/v1/apps/shop/secrets", "/v1/apps/shop/releases", "/v1/apps/shop/env"] {
        let answer: serde_json::Value = world.controller().get(path).await.expect("answers");
        found.extend(has(answer.to_string().as_bytes(), text).then(|| path.to_owned()));
    }
    for path in ["/v1/instances", "/v1/builds"] {
        let answer: serde_json::Value = world.agent().get(path).await.expect("answers");
        found.extend(has(answer.to_string().as_bytes(), text).then(|| path.to_owned()));
    }
    for words in [
        &["info", "shop"][..],
        &["logs", "shop", "-n", "1000"],
        &["logs", "shop", "--build"],
        &["events"],
        &["secret", "ls", "shop"],
    ] {
        let said = world.drowse(words);
        found.extend(has(said.stdout.as_bytes(), text).then(|| words.join(" ")));
        found.extend(has(said.stderr.as_bytes(), text).then(|| words.join(" ")));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_in_the_app_and_nowhere_else() {
    needs_a_world!();
    let mut world = World::start().await;
    let since = SystemTime::now() - std::time::Duration::from_secs(1);
    let value = planted();
    // Its release command sees it too, and must not say it.
    let procfile = "web: exec python3 -u server.py\nrelease: echo released with ${#TOKEN} letters\n";
    let app = App::probe("one").file("Procfile", procfile);
    world.deploy("shop", &app).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    fs::write(&file, format!("{value}\n")).expect("written");
    let said = world.drowse(&["secret", "set", "shop", "TOKEN", "--file", &file.to_string_lossy()]).ok();
    assert!(said.contains("1 secret"), "{said}");
    world.serves("shop", "/env?name=TOKEN", &value).await;
    let deployed = world.deploy("shop", &app.file("version", "two")).await;
    let expected = format!("released with {} letters", value.len());
    assert!(deployed.log.contains(&expected), "{}", deployed.log_text());
    world.serves("shop", "/", "two ").await;
    let builds = world.base().join("agent/builds");
    assert!(builds.is_dir(), "the agent keeps what is searched here: {}", builds.display());
    assert_eq!(shown(&world, &value, since).await, Vec::<String>::new());

    // An agent that comes after it knows the secret, and an app that falls is started with it.
    world.kill_agent();
    world.start_agent().await;
    let before = world.instance("shop").await;
    let _ = world.visitor().post("shop", "/exit?code=1", "").await;
    world.ready_again(&before.id, main_process(&before)).await;
    world.serves("shop", "/env?name=TOKEN", &value).await;

    // Without its key the record tells nothing: the instance is ended, and its controller starts it with it again.
    world.kill_agent();
    fs::remove_file(world.names().run.join("agent/secrets.key")).expect("there");
    world.start_agent().await;
    world.ready_again(&before.id, main_process(&before)).await;
    world.serves("shop", "/env?name=TOKEN", &value).await;
    assert_eq!(shown(&world, &value, since).await, Vec::<String>::new());

    let refused = world.drowse(&["secret", "set", "shop", &format!("TOKEN={value}")]).fails_with(2);
    assert!(refused.contains("history") && !refused.contains(&value), "{refused}");
    let _ = world.drowse(&["secret", "unset", "shop", "TOKEN"]).ok();
    wait::until("the secret is gone", PATIENCE, async || {
        let answer = world.visitor().get("shop", "/env?name=TOKEN").await.ok()?;
        (answer.status == 200 && answer.text().is_empty()).then_some(())
    })
    .await;
}
