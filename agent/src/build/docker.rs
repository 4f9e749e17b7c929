//! The type docker: a Dockerfile, built by Debian's buildah in a sandbox of its own.
//!
//! Nothing of it runs on the host. The sandbox's root is the stack `buildah`; buildah is root inside there, over
//! the user's own ids, and has by the launcher's profile for builders what it needs to mount: in a mount namespace
//! of its own, below which all that the sandbox has mounted is locked. It sees the upload, read-only; the images that
//! the Dockerfile names, which the agent has fetched, so that no credential comes near it; and its layers of
//! earlier builds of the same user (`layers`). What it leaves in a folder is imported like a stranger's.

use std::path::PathBuf;

use drowse_api::agent::BuildStatus;
use drowse_api::image::{APP_FOLDER, APP_ID};
use drowse_api::instance::Workload;
use drowse_api::{Digest, ErrorCode, ImageReference, Problem};
use drowse_launcher::{Bind, SeccompProfile};

use super::detect::Source;
use super::dockerfile::{self, Dockerfile};
use super::layers::Layers;
use super::pipeline::in_store;
use super::step::{Extra, Workshop};
use super::{foreign, image};
use crate::host::error::SandboxError;
use crate::host::files::CA_BUNDLE;
use crate::host::home::remove_folder;

/// The stack that builds.
pub(super) const BUILDER: &str = "buildah";
/// The names that a Dockerfile knows our stacks by.
const STACKS: [&str; 2] = ["drowse/", "localhost/drowse/"];
/// Where RUN finds the certificates: /dev/shm is the sandbox's own, and leaves no trace in a layer.
pub(super) const CERTIFICATES: &str = "/dev/shm/ca.crt";

/// Inside: the upload, and the fetched images.
const CONTEXT: &str = "/context";
const IMAGES: &str = "/images";
/// The folder of the sandbox's own root in which the result is, below `/`.
const RESULT: &str = "result";

pub(super) async fn run(shop: &Workshop<'_>) -> Result<BuildStatus, Problem> {
    let builder = in_store(shop, |node| Ok(node.store.tagged(&format!("stack/{BUILDER}"))?)).await?;
    let builder = builder.ok_or_else(|| {
        Problem::new(ErrorCode::HostUnfit, "this node cannot build Dockerfiles: it has no base image buildah")
            .hint(format!("the operator makes it with: drowse-agent stack build {BUILDER}"))
    })?;
    let archive = shop.request.input.source.clone();
    let layer = in_store(shop, move |node| {
        let layer = node.store.layer_from_archive(node.store.open_blob(&archive)?, APP_FOLDER, APP_ID)?;
        Ok(node.store.unpack_layers(&[layer])?.remove(0))
    });
    let source = layer.await?;
    let text = Source::new(source.clone()).text("Dockerfile").ok_or_else(|| {
        Problem::new(ErrorCode::NothingToRun, "there is no Dockerfile at the top of the folder")
            .hint("add one, or name another type: --type static|npm|python")
    })?;
    let found = dockerfile::read(&text, &shop.request.env);
    if Source::new(source.clone()).has("Procfile") {
        shop.say("the Procfile has no effect: a Dockerfile says how it starts, and drowse.toml what else");
    }
    if found.has_health_check {
        shop.say("HEALTHCHECK has no effect: an app is ready when it accepts a connection");
    }
    let bases = bases(shop, &found).await?;
    let layers = layers(shop).await?;
    let extra = Extra {
        binds: vec![
            bind(shop, source.join(APP_FOLDER.trim_start_matches('/')), CONTEXT, true),
            bind(shop, shop.home.folder.join("images"), IMAGES, true),
            layers.bind(),
        ],
        profile: SeccompProfile::Builder,
        env: None,
    };
    let written = shop.run_with(&builder, "buildah build", &script(&bases, &found), extra).await?;
    let (app_type, start) = (shop.request.input.app_type, shop.request.input.start.clone());
    let taken = in_store(shop, move |node| {
        let image = node.store.import_layout_below(written.folder(), RESULT, Some(RESULT))?;
        node.store.unpack(&node.store.image(&image)?)?;
        Ok(foreign::taken(&node.store, &image, app_type, start.as_deref())?)
    });
    let (image, notes) = taken.await?;
    tidy(layers).await;
    for note in notes {
        shop.say(&note);
    }
    shop.say("the image is ready");
    Ok(BuildStatus::Done { image, workload: Workload::Web, dependencies_reused: false })
}

fn bind(shop: &Workshop<'_>, source: PathBuf, target: &str, read_only: bool) -> Bind {
    Bind { source, target: target.into(), read_only, idmap: Some(shop.ids), is_disk: false }
}

/// The images that the Dockerfile names, each as a layout of its own in the build's folder, in this order.
async fn bases(shop: &Workshop<'_>, found: &Dockerfile) -> Result<Vec<String>, Problem> {
    let folder = shop.home.folder.join("images");
    let made = folder.clone();
    in_store(shop, move |_| {
        remove_folder(&made).map_err(|source| SandboxError::io("remove", &made, source))?;
        std::fs::create_dir_all(&made).map_err(|source| SandboxError::io("make", &made, source))
    })
    .await?;
    let mut names = Vec::new();
    for name in &found.images {
        let image = match STACKS.iter().find_map(|prefix| name.strip_prefix(prefix)) {
            Some(stack) => stack_image(shop, name, stack.trim_end_matches(":latest")).await?,
            None => {
                let wanted = ImageReference::parse(name.as_str());
                let wanted = wanted.map_err(|error| Problem::new(ErrorCode::BuildError, error.to_string()))?;
                image::fetch(shop, &wanted).await?
            }
        };
        let place = folder.join(names.len().to_string());
        in_store(shop, move |node| {
            // With a history of as many entries as it has layers: buildah keeps no layers over a base without.
            let image = node.store.compose(Some(&node.store.image(&image)?), &[], &|_| {})?;
            Ok(node.store.export_layout(&image, &place)?)
        })
        .await?;
        names.push(name.clone());
    }
    Ok(names)
}

async fn stack_image(shop: &Workshop<'_>, name: &str, stack: &str) -> Result<Digest, Problem> {
    let tag = format!("stack/{stack}");
    let known = in_store(shop, move |node| {
        let names = drowse_rootfs::stacks::list(&node.store)?.into_iter().map(|stack| format!("drowse/{}", stack.name));
        let names: Vec<String> = names.filter(|name| !name.ends_with(BUILDER)).collect();
        Ok((node.store.tagged(&tag)?, names.join(", ")))
    });
    let (image, known) = known.await?;
    image.ok_or_else(|| {
        Problem::new(ErrorCode::BuildError, format!("this node has no image {name}")).hint(format!("it has: {known}"))
    })
}

/// What buildah keeps of the user's earlier builds.
async fn layers(shop: &Workshop<'_>) -> Result<Layers, Problem> {
    let (user, home, ids, limits) = (shop.request.user.clone(), shop.home.clone(), shop.ids, shop.limits());
    in_store(shop, move |node| Layers::open(node, &user, &home, ids, &limits)).await
}

async fn tidy(layers: Layers) {
    if let Ok(Err(error)) = tokio::task::spawn_blocking(move || layers.tidy()).await {
        tracing::warn!("cannot look through the layers of builds: {error}");
    }
}

/// What is run inside.
fn script(bases: &[String], found: &Dockerfile) -> String {
    let mut lines = vec![
        "set -eu".to_owned(),
        "export HOME=/root TMPDIR=/var/tmp STORAGE_DRIVER=overlay BUILDAH_ISOLATION=chroot BUILDAH_NOPIVOT=1"
            .to_owned(),
        // buildah looks for it and, on the sandbox's own network, never runs it.
        "mkdir -p /usr/lib/podman && ln -sf /bin/true /usr/lib/podman/netavark".to_owned(),
        "mkdir -p /etc/containers".to_owned(),
        "echo '{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}' > /etc/containers/policy.json".to_owned(),
        format!("cp -L {CA_BUNDLE} {CERTIFICATES} && chmod 644 {CERTIFICATES}"),
        format!("set -- {}", certificates()),
    ];
    for (number, name) in bases.iter().enumerate() {
        let quoted = quoted(name);
        lines.push(format!("id=$(buildah pull --quiet oci:{IMAGES}/{number}:image)"));
        lines.push(format!("buildah tag \"$id\" localhost/drowse-base/{number}"));
        if name.contains('@') {
            let context = format!("{name}=container-image://localhost/drowse-base/{number}");
            lines.push(format!("set -- \"$@\" --build-context {}", self::quoted(&context)));
        } else if STACKS[1..].iter().any(|prefix| name.starts_with(prefix))
            || name.split_once('/').is_some_and(|(host, _)| is_host(host))
        {
            lines.push(format!("buildah tag \"$id\" {quoted}"));
        } else {
            lines.push(format!("buildah tag \"$id\" localhost/{quoted}"));
        }
    }
    // Values come from the environment, where no list of processes shows them.
    lines.extend(
        found
            .arguments
            .iter()
            .filter(|name| is_variable(name))
            .map(|name| format!("if [ -n \"${{{name}+set}}\" ]; then set -- \"$@\" --build-arg {name}; fi")),
    );
    lines.push(format!("cd {CONTEXT}"));
    lines.push(format!(
        "buildah build \"$@\" --pull=never --layers --format oci --file Dockerfile --tag localhost/drowse-{RESULT} {CONTEXT}"
    ));
    lines.push(format!(
        "buildah push --quiet --compression-format zstd --compression-level 1 localhost/drowse-{RESULT} \
         oci:/{RESULT}:{RESULT} > /dev/null"
    ));
    lines.join("\n")
}

/// The variables by which programs find certificates. They are in the image that is built, for the time being.
fn certificates() -> String {
    let names =
        ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "PIP_CERT", "REQUESTS_CA_BUNDLE"];
    names.map(|name| format!("--env {name}={CERTIFICATES}")).join(" ")
}

fn is_host(word: &str) -> bool {
    word.contains(['.', ':']) || word == "localhost"
}

fn is_variable(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// As one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dockerfile_says_is_one_word_to_the_shell() {
        let found = Dockerfile {
            arguments: ["OK".to_owned(), "a;b".to_owned(), "1X".to_owned()].into(),
            ..Dockerfile::default()
        };
        let script = script(&["x'$(touch /no)'".to_owned()], &found);
        assert!(script.contains(r"localhost/'x'\''$(touch /no)'\'''"), "{script}");
        assert!(script.contains("--build-arg OK;") && !script.contains("a;b") && !script.contains("1X"), "{script}");
        let checked = std::process::Command::new("bash").args(["-n", "-c", &script]).status().expect("bash runs");
        assert!(checked.success());
    }
}
