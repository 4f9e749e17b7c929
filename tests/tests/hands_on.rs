//! Commands inside, as users run them: exec, run, cp and top, over a whole Drowse.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use drowse_tests::apps::App;
use drowse_tests::machine::{self, Process};
use drowse_tests::needs_a_world;
use drowse_tests::pty::Pty;
use drowse_tests::wait;
use drowse_tests::world::{Cli, World, main_process};
use nix::sys::signal::Signal;

const PATIENCE: Duration = Duration::from_secs(60);

/// As `output`, with this on standard input.
fn with_input(mut command: Command, input: &[u8]) -> (Option<i32>, Vec<u8>, String) {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let (mut stdin, input) = (child.stdin.take().expect("piped"), input.to_vec());
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    feeding.join().expect("fed");
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Starts a command whose first line of output is waited for.
fn started(mut command: Command) -> Child {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let mut first = [0; 1];
    while first[0] != b'\n' {
        let read = child.stdout.as_mut().expect("piped").read(&mut first).expect("read");
        if read == 0 {
            let output = child.wait_with_output().expect("it ended");
            panic!("it ended too early: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
    child
}

/// The processes of a world whose command line holds this word, the client apart.
fn inside(world: &World, word: &str) -> Vec<Process> {
    let groups = machine::cgroups(&world.names().cgroup_root);
    let all = groups.iter().flat_map(|group| machine::processes_below(group)).filter_map(Process::of);
    let mut found: Vec<_> = all
        .filter(|process| {
            let line = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        })
        .collect();
    found.sort_by_key(|process| process.pid);
    found.dedup();
    found
}

async fn nothing_runs(world: &World, word: &str) {
    wait::until(&format!("nothing with {word} runs"), PATIENCE, async || inside(world, word).is_empty().then_some(()))
        .await;
}

/// Folders of control groups whose name begins with this.
fn groups(world: &World, name: &str) -> Vec<String> {
    fn below(group: &std::path::Path, name: &str, found: &mut Vec<String>) {
        for child in machine::children(group) {
            if child.file_name().is_some_and(|own| own.to_string_lossy().starts_with(name)) {
                found.push(child.display().to_string());
            }
            below(&child, name, found);
        }
    }
    let mut found = Vec::new();
    machine::cgroups(&world.names().cgroup_root).iter().for_each(|root| below(root, name, &mut found));
    found
}

async fn no_groups(world: &World, name: &str) {
    wait::until(&format!("no group {name} is left"), PATIENCE, async || groups(world, name).is_empty().then_some(()))
        .await;
}

/// Bytes that repeat late.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_runs_beside_the_app_as_the_app_does() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one").profile(&[("FROM_PROFILE", "yes")])).await;
    let app = main_process(&world.instance("shop").await).expect("a process");

    let both = world.drowse(&["exec", "shop", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((both.code, both.stdout.as_str(), both.stderr.as_str()), (Some(7), "out\n", "err\n"));
    assert_eq!(world.drowse(&["exec", "shop", "--", "sh", "-c", "kill -TERM $$"]).code, Some(143));
    let env = world.drowse(&["exec", "shop", "--", "sh", "-c", "echo $FROM_PROFILE $PORT $PWD"]).ok();
    assert_eq!(env, "yes 8080 /app\n");

    // The same user, filter and rights as the app has, and inside its group.
    let own = |text: &str, key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned()).expect("a line")
    };
    let outside = fs::read_to_string(format!("/proc/{}/status", app.pid)).expect("status of the app");
    let within = world.drowse(&["exec", "shop", "--", "cat", "/proc/self/status"]).ok();
    for key in ["Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "CapInh:", "CapAmb:", "NoNewPrivs:", "Seccomp:"] {
        assert_eq!(own(&within, key), own(&outside, key), "{key}");
    }
    assert_eq!(own(&within, "Seccomp:"), "2");
    let descriptors = world.drowse(&["exec", "shop", "--", "ls", "/proc/self/fd"]).ok();
    // The last is ls's own, of the folder that it reads.
    assert_eq!(descriptors.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);

    // Bytes arrive as they were sent, both ways at once.
    let sent = noise(3 << 20);
    let (code, back, said) = with_input(world.drowse_command(&["exec", "shop", "--", "cat"]), &sent);
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(back == sent, "{} bytes came back of {}", back.len(), sent.len());
    // What nobody reads does not hold anything up.
    let (code, ..) = with_input(world.drowse_command(&["exec", "shop", "--", "true"]), &sent);
    assert_eq!(code, Some(0));

    // What a command leaves behind ends with it.
    let left = world.drowse(&["exec", "shop", "--", "sh", "-c", "setsid sleep 7654321 & echo started"]);
    assert_eq!((left.code, left.stdout.as_str()), (Some(0), "started\n"));
    nothing_runs(&world, "7654321").await;
    no_groups(&world, "command-").await;
    assert!(app.is_alive(), "the app goes on");

    // Each error is one sentence, with a code of its own.
    let cases: [(&[&str], i32, &str); 6] = [
        (&["exec", "nobody", "--", "true"], 3, "no app"),
        (&["exec", "shop", "-i", "nowhere", "--", "true"], 3, "no instance"),
        (&["exec", "shop", "--", "no-such-thing"], 127, "no command no-such-thing"),
        (&["exec", "shop", "--", "/app/version"], 126, "cannot be executed"),
        (&["exec", "shop", "-t", "--", "true"], 2, "no terminal"),
        (&["run", "shop", "--", "no-such-thing"], 127, "no command no-such-thing"),
    ];
    for (arguments, code, text) in cases {
        let said = world.drowse(arguments).fails_with(code);
        assert!(said.contains(text), "{arguments:?}: {said}");
    }
    let _ = world.drowse(&["stop", "shop"]).ok();
    let said = world.drowse(&["exec", "shop", "--", "true"]).fails_with(5);
    assert!(said.contains("shop is stopped") && said.contains("drowse start shop"), "{said}");
    // One of its own needs nothing that runs.
    assert_eq!(world.drowse(&["run", "shop", "--", "sh", "-c", "echo $FROM_PROFILE"]).ok(), "yes\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_has_its_size_its_keys_and_its_end() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let mut shell = Pty::start(&world.drowse_command(&["exec", "shop", "--", "bash", "--norc"]), 33, 91);
    shell.types("stty size; tty; echo $TERM; echo re''ady\n");
    shell.shows("33 91");
    // Of the sandbox's own: the first there is, and its controlling one.
    shell.shows("/dev/pts/0");
    shell.shows("ready");
    shell.types("ls -1 /dev/pts; cut -d' ' -f7 /proc/self/stat; echo se''en\n");
    shell.shows("0\r\nptmx\r\n");
    shell.shows("34816\r\n");
    shell.shows("seen");
    // Ctrl-C ends what runs, and not the shell; a new size is told.
    shell.types("echo sleeping; sleep 7654321\n");
    shell.shows("sleeping\r\n");
    wait::until("it sleeps", PATIENCE, async || (!inside(&world, "7654321").is_empty()).then_some(())).await;
    shell.types("\u{3}");
    shell.types("echo code $?\n");
    shell.shows("code 130");
    shell.resizes(50, 120);
    let told = Instant::now();
    while !shell.has_shown("larger") {
        assert!(told.elapsed() < PATIENCE, "the new size did not arrive");
        shell.types("test \"$(stty size)\" = '50 120' && echo la''rger; echo do''ne\n");
        shell.shows("done");
    }
    shell.types("exit 9\n");
    assert_eq!(shell.ends(), Some(9));

    // By the other door: with a token, through the router.
    let token = world.drowse(&["token", "create", "test"]).ok().trim().to_owned();
    let mut command = world.drowse_command(&["exec", "shop", "--", "sh", "-c", "read word; echo got $word; stty size"]);
    command
        .env_remove("DROWSE_SOCKET")
        .env("DROWSE_URL", format!("http://api.drowse.localhost:{}", world.names().visitors.port()))
        .env("DROWSE_TOKEN", &token);
    let mut distant = Pty::start(&command, 12, 34);
    distant.types("hello\n");
    distant.shows("got hello");
    distant.shows("12 34");
    assert_eq!(distant.ends(), Some(0));
    no_groups(&world, "command-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_or_does_not_read_costs_nothing() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let app = main_process(&world.instance("shop").await).expect("a process");

    // It vanishes: the command is hung up, and killed if it does not mind that.
    let stubborn = "trap '' HUP TERM INT; echo on; while :; do sleep 7654321; done";
    let mut child = started(world.drowse_command(&["exec", "shop", "--", "sh", "-c", stubborn]));
    child.kill().expect("killed");
    child.wait().expect("waited for");
    nothing_runs(&world, "7654321").await;
    no_groups(&world, "command-").await;

    // A signal is the command's own, also behind input that nobody reads.
    let script = "trap 'echo told; exit 4' TERM; echo on; while :; do sleep 0.1; done";
    let mut child = started(world.drowse_command(&["exec", "shop", "--", "sh", "-c", script]));
    let mut stdin = child.stdin.take().expect("piped");
    let feeding = std::thread::spawn(move || drop(stdin.write_all(&noise(4 << 20))));
    Process::of_child(&child).signal(Signal::SIGTERM);
    let output = child.wait_with_output().expect("it ends");
    feeding.join().expect("fed");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(4), "told\n"));

    // It does not read: the command stands still, and the agent holds no more than before.
    let agent = world.agent_process();
    let before = agent.resident();
    let mut child = started(world.drowse_command(&["exec", "shop", "--", "sh", "-c", "echo on; exec yes 7654321"]));
    wait::until("it stands still", PATIENCE, async || {
        let used = || inside(&world, "7654321").first().map(|process| ticks(process.pid));
        let first = used()?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        (used()? == first).then_some(())
    })
    .await;
    let grown = agent.resident().saturating_sub(before);
    assert!(grown < 16 << 20, "the agent has grown by {grown} bytes");

    // The agent is killed: one clear error, and the next one ends the command.
    world.kill_agent();
    let mut rest = Vec::new();
    let mut stdout = child.stdout.take().expect("piped");
    let draining = std::thread::spawn(move || drop(stdout.read_to_end(&mut rest)));
    let output = child.wait_with_output().expect("it ends");
    draining.join().expect("drained");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("broke off") && said.matches("error:").count() == 1, "{said}");
    world.start_agent().await;
    nothing_runs(&world, "7654321").await;
    no_groups(&world, "command-").await;
    assert!(app.is_alive(), "the app has not noticed");
    assert_eq!(world.drowse(&["exec", "shop", "--", "echo", "again"]).ok(), "again\n");
}

/// Processor time of a process, in clock ticks.
fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<u64> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split(' ').filter_map(|field| field.parse().ok()).collect();
    // The state and what is negative are no numbers: from field 14 on, counted without them.
    fields.iter().skip(8).take(4).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_has_a_sandbox_of_its_own_and_leaves_nothing() {
    needs_a_world!();
    let mut world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let _ = world.visitor().post("shop", "/write?file=written&text=here", "").await;
    let links = machine::links(&world.names().link_prefix).len();

    let script = "cat; ls; echo $PORT; touch /app/mine; cat /proc/self/mountinfo | grep -c overlay; exit 3";
    let (code, out, said) = with_input(world.drowse_command(&["run", "shop", "--", "sh", "-c", script]), b"in\n");
    let out = String::from_utf8(out).expect("text");
    assert_eq!(code, Some(3), "{said}");
    assert!(out.starts_with("in\n") && out.ends_with("8080\n1\n") && !out.contains("written"), "{out}");
    nothing_is_left_of_runs(&world, links).await;

    // While it runs it is beside the app, below the same user, with limits; then its client is killed.
    let mut child = started(world.drowse_command(&["run", "shop", "--", "sh", "-c", "echo on; sleep 7654321"]));
    let own = groups(&world, "run--");
    assert!(!own.is_empty() && own.iter().all(|path| path.contains("/user-")), "{own:?}");
    let top = world.drowse(&["top", "shop", "--output", "json"]).json();
    let rows = top.as_array().expect("rows");
    assert_eq!(rows.len(), 2, "{top}");
    assert!(rows.iter().any(|row| row["what"]["run"].is_string() && row["limits"]["memory"] == 512 << 20), "{top}");
    child.kill().expect("killed");
    child.wait().expect("waited for");
    nothing_is_left_of_runs(&world, links).await;

    // The agent is killed: the next one removes all of it.
    let child = started(world.drowse_command(&["run", "shop", "--", "sh", "-c", "echo on; sleep 7654321"]));
    world.kill_agent();
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
    world.start_agent().await;
    nothing_runs(&world, "7654321").await;
    nothing_is_left_of_runs(&world, links).await;
}

/// Groups, links and files; the client may be told of the end a moment before.
async fn nothing_is_left_of_runs(world: &World, links: usize) {
    no_groups(world, "run--").await;
    wait::until("the links and files of runs are gone", PATIENCE, async || {
        let files = fs::read_dir(world.base().join("agent/runs")).map_or(0, Iterator::count);
        let sockets = fs::read_dir(world.names().run.join("agent/runs")).map_or(0, Iterator::count);
        let left = machine::links(&world.names().link_prefix).len();
        (files == 0 && sockets == 0 && left == links).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_in_and_out_and_no_link_leads_anywhere() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let here = tempfile::tempdir().expect("a folder");
    let folder = here.path().join("data");
    fs::create_dir_all(folder.join("deep/er")).expect("a folder");
    fs::write(folder.join("deep/er/noise"), noise(2 << 20)).expect("a file");
    fs::write(folder.join("run.sh"), "echo ran").expect("a file");
    fs::set_permissions(folder.join("run.sh"), PermissionsExt::from_mode(0o755)).expect("rights");
    symlink("deep/er/noise", folder.join("link")).expect("a link");
    let cp = |from: &str, to: &str| world.drowse_in(here.path(), &["cp", from, to]);

    let _ = cp("data", "shop:").ok();
    assert_eq!(
        world.drowse(&["exec", "shop", "--", "sh", "-c", "./data/run.sh; stat -c %U data/run.sh"]).ok(),
        "ran\napp\n"
    );
    let _ = cp("shop:data", "back").ok();
    assert!(fs::read(here.path().join("back/deep/er/noise")).expect("read") == noise(2 << 20));
    assert_eq!(fs::read_link(here.path().join("back/link")).expect("a link"), std::path::Path::new("deep/er/noise"));
    let _ = cp("shop:data/run.sh", ".").ok();
    assert_eq!(fs::read_to_string(here.path().join("run.sh")).expect("read"), "echo ran");
    let _ = cp("run.sh", "shop:/tmp/renamed").ok();
    assert_eq!(world.drowse(&["exec", "shop", "--", "cat", "/tmp/renamed"]).ok(), "echo ran");

    // The app's links: what they name on the host is neither read nor written.
    let secret = here.path().join("secret");
    fs::write(&secret, "the host's").expect("a file");
    let planted = format!("mkdir evil; ln -s {} evil/file; ln -s {} evil/way", secret.display(), here.path().display());
    let _ = world.drowse(&["exec", "shop", "--", "sh", "-c", &planted]).ok();
    let fetched = cp("shop:evil", "fetched");
    assert!(
        fetched.stderr.contains("file was left out") && fetched.stderr.contains("way was left out"),
        "{}",
        fetched.stderr
    );
    let _ = fetched.ok();
    assert_eq!(fs::read_dir(here.path().join("fetched")).expect("a folder").count(), 0);
    let _ = cp("shop:evil/file", "file").fails_with(3);
    let _ = cp("run.sh", "shop:evil/way/secret").fails_with(3);
    assert_eq!(fs::read_to_string(&secret).expect("read"), "the host's");
    // A link here in the way is not written through either.
    fs::create_dir(here.path().join("trap")).expect("a folder");
    symlink(&secret, here.path().join("trap/run.sh")).expect("a link");
    let _ = cp("shop:data/run.sh", "trap").ok();
    assert_eq!(fs::read_to_string(&secret).expect("read"), "the host's");

    // Each error is one sentence.
    for (from, to, code, text) in [
        ("shop:/nowhere", ".", 3, "no /nowhere"),
        ("nowhere", "shop:", 3, "no nowhere"),
        ("run.sh", "shop:/usr/bin/run.sh", 2, "Permission denied"),
        ("shop:/proc/self/environ", ".", 2, "Permission denied"),
        ("shop:/proc/meminfo", ".", 2, "kernel"),
        ("run.sh", "other", 2, "neither end"),
    ] {
        let said = cp(from, to).fails_with(code);
        assert!(said.contains(text), "{from} {to}: {said}");
    }
    no_groups(&world, "command-").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn top_shows_what_is_used_and_doctor_what_to_do() {
    needs_a_world!();
    let world = World::start().await;
    world.deploy("shop", &App::probe("one")).await;
    let instance = world.instance("shop").await.id;
    let row = |top: &serde_json::Value| top.as_array().expect("rows").first().cloned().expect("a row");
    let idle = row(&world.drowse(&["top", "--output", "json"]).json());
    assert_eq!(idle["what"]["instance"], instance.as_str());
    let memory = |row: &serde_json::Value| row["memory"].as_u64().expect("a number");
    assert!(memory(&idle) > 1 << 20 && memory(&idle) < 512 << 20, "{idle}");
    let _ = world.visitor().post("shop", "/allocate?mib=64", "").await.expect("an answer").ok().expect("allocated");
    let busy = started(world.drowse_command(&["exec", "shop", "--", "sh", "-c", "echo on; while :; do :; done"]));
    let used = wait::until("a busy loop is seen", PATIENCE, async || {
        let used = row(&world.drowse(&["top", "shop", "--output", "json"]).json());
        (used["cpu"].as_f64()? > 0.05).then_some(used)
    })
    .await;
    assert!(memory(&used) >= memory(&idle) + (60 << 20), "{idle} {used}");
    assert!(used["pids"].as_u64() > idle["pids"].as_u64(), "{idle} {used}");
    Process::of_child(&busy).signal(Signal::SIGKILL);
    drop(busy.wait_with_output());

    let plain = world.drowse(&["top", "--once"]).ok();
    let cells: Vec<_> = plain.lines().next().expect("a line").split('\t').collect();
    assert_eq!((cells[0], cells[1], cells[4]), ("shop", instance.as_str(), "512 MiB"), "{plain}");
    let said = world.drowse(&["top", "nobody"]).fails_with(3);
    assert!(said.contains("no app"), "{said}");

    let nodes = world.drowse(&["doctor", "--output", "json"]);
    let nodes: serde_json::Value = serde_json::from_str(&nodes.stdout).expect("JSON");
    let checks = nodes[0]["checks"].as_array().expect("checks");
    for name in [
        "kernel",
        "control groups",
        "criu",
        "swap",
        "zram",
        "nftables",
        "forwarding",
        "disk",
        "clock",
        "other firewalls",
    ] {
        let check =
            checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name} is not examined"));
        assert!(check["verdict"] == "ok" || check["advice"].is_string(), "{check}");
    }
}

/// What is shown of completions knows the new commands.
#[test]
fn completions_know_every_command() {
    let program = machine::bin_dir().join("drowse");
    if !program.exists() {
        return println!("SKIPPED: {} is missing: run scripts/build", program.display());
    }
    for shell in ["bash", "zsh", "fish"] {
        let Cli { code, stdout, .. } = drowse_tests::world::run(&program, &["completions", shell]);
        assert_eq!(code, Some(0));
        for word in ["exec", "run", "cp", "top"] {
            assert!(stdout.contains(word), "{shell}: {word}");
        }
    }
}
