//! Images of registries: run as they say, or refused with what is wrong, whatever the registry does.

use std::sync::atomic::Ordering;
use std::time::Duration;

use drowse_tests::registry::{Away, Image, LOGIN, Registry};
use drowse_tests::world::{Options, World};
use drowse_tests::{machine, needs_a_world, skip, wait};
use serde_json::{Value, json};

const PASSWD: (&str, &str) = ("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:77:78::/srv/site:/bin/sh\n");
const GROUP: (&str, &str) = ("/etc/group", "root:x:0:\nweb:x:78:\n");

/// Shows what it is given, serves it, and tells which signal ends it.
const TELL: &str = "trap 'echo ended by USR1; exit 0' USR1
    { id -un; id -gn; pwd; echo $GREETING $PORT $HOME; } > /tmp/index.html
    httpd -p $PORT -h /tmp
    while :; do sleep 0.1; done";

const TELL_AS_ROOT: &str = "{ id -u; touch /made && chown 77:78 /made && stat -c %u:%g /made; } > /tmp/index.html
    exec httpd -f -p $PORT -h /tmp";

fn image(config: Value) -> Image {
    Image::busybox(config, &[PASSWD, GROUP])
}

async fn world_with(registries: &[&str]) -> World {
    World::with(Options { agent_lines: format!("registries = {registries:?}\n"), ..Options::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_runs_as_its_configuration_says() {
    needs_a_world!();
    if let Err(why) = Registry::is_possible() {
        skip!("{why}");
    }
    let registry = Registry::open();
    let world = world_with(&[&registry.name()]).await;
    let told = image(json!({
        "User": "web", "WorkingDir": "/srv/site", "Env": ["GREETING=hello", "PATH=/bin"],
        "Entrypoint": ["/bin/sh", "-c"], "Cmd": [TELL], "ExposedPorts": {"3000/tcp": {}, "53/udp": {}},
        "StopSignal": "SIGUSR1", "Labels": {"dev.drowse.start": "exit 1", "dev.drowse.bundle.config": "{}"},
    }));
    let digest = registry.push("team/told", "own", &told);
    let other = registry.push("team/told", "other", &image(json!({"Cmd": ["/bin/false"]})));
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    registry.push_index("team/told", "v1", &[("s390x", other), (machine, digest.clone())]);
    let wanted = registry.image("team/told:v1");
    let _ = world.drowse(&["deploy", "--image", &wanted]).ok();
    world.serves("told", "/", "web\nweb\n/srv/site\nhello 3000 /srv/site\n").await;
    let _ = world.drowse(&["stop", "told"]).ok();
    wait::until("its log tells the signal", Duration::from_secs(20), async || {
        world.drowse(&["logs", "told"]).ok().contains("ended by USR1").then_some(())
    })
    .await;

    registry.push("rooted", "latest", &image(json!({"Cmd": ["sh", "-c", TELL_AS_ROOT], "Env": ["PATH=/bin"]})));
    let _ = world.drowse(&["deploy", "--image", &registry.image("rooted"), "--name", "rooted"]).ok();
    world.serves("rooted", "/", "0\n77:78\n").await;
    // What is pinned comes before what the image says, with its profile, as its user.
    let pinned = Image::busybox(
        json!({"User": "web", "WorkingDir": "/srv/site", "Cmd": ["/bin/false"], "Env": ["PATH=/bin"]}),
        &[PASSWD, GROUP, ("/srv/site/.profile", "export GREETING=by-profile\n")],
    );
    registry.push("pinned", "latest", &pinned);
    let reference = registry.image("pinned");
    let deploy = |release: &str| {
        let start = "echo $GREETING $(id -un) > /tmp/index.html; exec httpd -f -p $PORT -h /tmp";
        world.drowse(&["deploy", "--image", &reference, "--name", "started", "--start", start, "--release", release])
    };
    let deployed = deploy("echo released $GREETING as $(id -un)");
    assert!(deployed.stderr.contains("released by-profile as web"), "{}", deployed.stderr);
    let _ = deployed.ok();
    world.serves("started", "/", "by-profile web\n").await;
    assert!(deploy("exit 3").fails_with(13).contains("the release command failed"));
    world.serves("started", "/", "by-profile web\n").await;
    // By digest: what is there already is found again without the registry.
    drop(registry);
    let pinned = format!("{}@{digest}", wanted.trim_end_matches(":v1"));
    let failed = world.drowse(&["deploy", "--image", &pinned, "--name", "pinned"]).fails_with(10);
    assert!(failed.contains("cannot be reached"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_cannot_be_had_fails_with_the_reason_and_nothing_is_deployed() {
    needs_a_world!();
    if let Err(why) = Registry::is_possible() {
        skip!("{why}");
    }
    let (registry, locked, unnamed) = (Registry::open(), Registry::with_password(), Registry::open());
    let (breaking, is_broken) = registry.breaking_off(100_000);
    let world = world_with(&[&registry.name(), &locked.name(), &breaking.to_string()]).await;
    let fails = |wanted: &str, words: &[&str]| {
        let told = world.drowse(&["deploy", "--image", wanted, "--name", "wanted"]).fails_with(10);
        assert!(words.iter().all(|word| told.contains(word)), "{words:?} are not told of {wanted}: {told}");
        assert!(!told.contains("planted"), "{told}");
    };
    let plain = image(json!({"Cmd": ["sh", "-c", TELL_AS_ROOT], "Env": ["PATH=/bin"]}));
    for (place, name) in [(&registry, "fine"), (&locked, "private"), (&unnamed, "fine")] {
        place.push(name, "latest", &plain);
    }
    fails(&registry.image("nothing"), &["there is no", "nothing:latest"]);
    fails(&registry.image("fine:old"), &["there is no", "fine:old"]);
    fails(&locked.image("private"), &["wants a login", "drowse registry login"]);
    fails(&unnamed.image("fine"), &["on this host", "registries = "]);
    let login = |login: &str| {
        let password = login.split_once(':').expect("a login").1;
        world.drowse_with_input(&["registry", "login", &locked.name(), "--username", "reader"], password)
    };
    let _ = login("reader:planted-but-wrong").ok();
    fails(&locked.image("private"), &["refuses the login", "drowse registry login"]);
    let _ = login(LOGIN).ok();
    assert!(world.drowse(&["registry", "ls"]).ok().contains("reader"));
    let _ = world.drowse(&["deploy", "--image", &locked.image("private"), "--name", "locked"]).ok();
    world.serves("locked", "/", "0\n77:78\n").await;
    for shown in
        [&["registry", "ls"][..], &["events"], &["logs", "locked", "--build"], &["info", "locked", "-o", "json"]]
    {
        assert!(!world.drowse(shown).ok().contains("planted"), "{shown:?} shows the password");
    }
    let logs = ["agent", "controller"].map(|log| std::fs::read_to_string(world.base().join(format!("logs/{log}.log"))));
    assert!(!logs.iter().flatten().any(|log| log.contains("planted")), "a log has the password");
    let _ = world.drowse(&["registry", "logout", &locked.name()]).ok();
    fails(&locked.image("private"), &["wants a login"]);
    let _ = world.drowse(&["rm", "locked", "--yes"]).ok();
    let elsewhere = Image::of(json!({}), &[]);
    let digest = registry.push("elsewhere", "one", &elsewhere);
    registry.push_index("elsewhere", "latest", &[("s390x", digest)]);
    fails(&registry.image("elsewhere"), &["no image for this machine"]);

    let damaged = Image::busybox(json!({"Cmd": ["true"]}), &[("/other", "damaged")]);
    registry.push("damaged", "latest", &damaged);
    registry.damage(&damaged.layer(0));
    fails(&registry.image("damaged"), &["sent something else"]);
    let mut hostile = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(1);
    header.set_mode(0o644);
    header.as_mut_bytes()[..17].copy_from_slice(b"../../escaped.txt");
    header.set_cksum();
    hostile.append(&header, &b"x"[..]).expect("packed");
    registry.push("hostile", "latest", &Image::of(json!({"Cmd": ["true"]}), &[hostile.into_inner().expect("packed")]));
    fails(&registry.image("hostile"), &["cannot unpack layer", "escaped.txt"]);

    let config = json!({"Cmd": ["sh", "-c", TELL_AS_ROOT], "Env": ["PATH=/bin"]});
    registry.push("cut", "latest", &Image::busybox(config, &[PASSWD, GROUP, ("/other", "another layer")]));
    fails(&format!("{breaking}/cut"), &["broke off"]);
    assert_eq!(world.instances().await.expect("the agent answers"), [], "nothing of them runs");
    is_broken.store(false, Ordering::Relaxed);
    let _ = world.drowse(&["deploy", "--image", &format!("{breaking}/cut"), "--name", "wanted"]).ok();
    world.serves("wanted", "/", "0\n77:78\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_elsewhere_is_asked_by_tls_out_of_a_sandbox_with_the_login() {
    needs_a_world!();
    if let Err(why) = Registry::is_possible() {
        skip!("{why}");
    }
    let index = std::fs::read_to_string(machine::stacks_dir().join("images/index.json")).unwrap_or_default();
    if !index.contains("stack/buildah") {
        skip!("the base image buildah is missing: run scripts/stacks");
    }
    let registry = Registry::with_password();
    registry.push("team/far", "v1", &image(json!({"Cmd": ["sh", "-c", TELL_AS_ROOT], "Env": ["PATH=/bin"]})));
    let damaged = Image::busybox(json!({"Cmd": ["true"]}), &[("/other", "damaged")]);
    registry.push("damaged", "latest", &damaged);
    registry.damage(&damaged.layer(0));
    let away = Away::of(&registry);
    let lines = format!("ca_bundle = {:?}\n", away.authority());
    let world = World::with(Options { agent_lines: lines, ..Options::default() }).await;
    let wanted = format!("{}/team/far:v1", away.name());
    let deploy = |reference: &str| world.drowse(&["deploy", "--image", reference, "--name", "far"]);
    let login = |password: &str| {
        world.drowse_with_input(&["registry", "login", &away.name(), "--username", "reader"], password).ok()
    };
    assert!(deploy(&wanted).fails_with(10).contains("drowse registry login"));
    let _ = login("planted-but-wrong");
    let refused = deploy(&wanted).fails_with(10);
    assert!(refused.contains("drowse registry login") && !refused.contains("planted"), "{refused}");
    let _ = login(LOGIN.split_once(':').expect("a login").1);
    let _ = deploy(&wanted).ok();
    world.serves("far", "/", "0\n77:78\n").await;
    let again = deploy(&wanted);
    assert!(again.stderr.contains("has not changed since it was fetched"), "{}", again.stderr);
    let _ = again.ok();
    let told = deploy(&format!("{}/damaged", away.name())).fails_with(10);
    assert!(told.to_lowercase().contains("digest"), "{told}");
    assert!(deploy(&format!("{}/nothing", away.name())).fails_with(10).contains("there is no"));
    world.serves("far", "/", "0\n77:78\n").await;
    let logs = ["agent", "controller"].map(|log| std::fs::read_to_string(world.base().join(format!("logs/{log}.log"))));
    assert!(!logs.iter().flatten().any(|log| log.contains("planted")), "a log has the password");
}
