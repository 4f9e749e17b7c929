//! The type image: fetched from a registry, nothing to build. The upload is the reference.
//!
//! A registry is the user's choice, and what it answers is hostile. So it is asked by skopeo in a sandbox, as an
//! ordinary app with the network of apps: it reaches nothing of the host, and what it parses is not parsed by the
//! agent. It leaves an OCI layout, which is imported like a stranger's. Registries on the host's own loopback, which no
//! sandbox reaches, are asked by the agent, if the operator names them.

use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use drowse_api::agent::BuildStatus;
use drowse_api::instance::Workload;
use drowse_api::{Digest, ErrorCode, ImageReference, Problem};
use drowse_launcher::SeccompProfile;
use rustix::fs::{Mode, OFlags};
use serde_json::json;

use super::docker::BUILDER;
use super::pipeline::in_store;
use super::step::{Extra, Workshop, cancelled};
use super::{foreign, key};
use crate::cleanup;
use crate::host::error::chain;
use crate::problem;
use crate::registry::{self, RegistryError};

/// The longest reference.
const LARGEST: u64 = 1024;
/// The folder of the sandbox in which the layout is: the app's user owns it.
const RESULT: &str = "/app/image";
/// The variables that the script is given.
const REFERENCE: &str = "DROWSE_REFERENCE";
const LOGINS: &str = "DROWSE_LOGINS";
const KNOWN: &str = "DROWSE_KNOWN";
/// Note of a fetched image's tag: what its reference's manifest, or index, hashed to.
const NOTE_RAW: &str = "dev.drowse.raw";

/// The login is put where only memory keeps it.
const SCRIPT: &str = r#"set -eu
printf '%s' "$DROWSE_LOGINS" > /dev/shm/auth.json
unset DROWSE_LOGINS
export HOME=/app TMPDIR=/app
skopeo --insecure-policy inspect --raw --retry-times 2 --authfile /dev/shm/auth.json \
    "docker://$DROWSE_REFERENCE" > /app/manifest
raw=$(sha256sum < /app/manifest | cut -d ' ' -f 1)
if [ "$raw" = "$DROWSE_KNOWN" ]; then echo "it has not changed since it was fetched"; exit 0; fi
printf '%s' "$raw" > /app/raw
exec skopeo --insecure-policy copy --quiet --retry-times 2 --authfile /dev/shm/auth.json \
    --override-os linux "docker://$DROWSE_REFERENCE" oci:/app/image:image"#;

pub(super) async fn run(shop: &Workshop<'_>) -> Result<BuildStatus, Problem> {
    let upload = shop.request.input.source.clone();
    let text = in_store(shop, move |node| {
        let mut text = String::new();
        // What is no text is no reference.
        let _ = node.store.open_blob(&upload)?.take(LARGEST).read_to_string(&mut text);
        Ok(text)
    });
    let wanted = ImageReference::parse(text.await?.trim());
    let wanted = wanted.map_err(|error| Problem::new(ErrorCode::BadRequest, error.to_string()))?;
    let image = fetch(shop, &wanted).await?;
    let (app_type, start) = (shop.request.input.app_type, shop.request.input.start.clone());
    let taken = in_store(shop, move |node| Ok(foreign::taken(&node.store, &image, app_type, start.as_deref())?));
    let (image, notes) = taken.await?;
    for note in notes {
        shop.say(&note);
    }
    shop.say("the image is ready");
    Ok(BuildStatus::Done { image, workload: Workload::Web, dependencies_reused: false })
}

/// An image of a registry, in the store, within the build's time.
pub(super) async fn fetch(shop: &Workshop<'_>, wanted: &ImageReference) -> Result<Digest, Problem> {
    let login = shop.request.registries.reveal().find(|(registry, _)| *registry == wanted.registry());
    let login = login.map(|(_, login)| login);
    let digest = if registry::is_own(wanted.registry()) {
        shop.say(&format!("fetching {wanted}"));
        by_agent(shop, wanted, login).await?
    } else {
        in_sandbox(shop, wanted, login).await?
    };
    shop.say(&format!("{wanted} is {digest}"));
    Ok(digest)
}

async fn by_agent(shop: &Workshop<'_>, wanted: &ImageReference, login: Option<&str>) -> Result<Digest, Problem> {
    let say = |line: String| shop.say(&line);
    let fetched = tokio::select! {
        fetched = registry::pull(&shop.node.store, wanted, login, &shop.node.config.registries, &say) => fetched,
        () = tokio::time::sleep_until(shop.deadline) => return Err(shop.out_of_time("the download")),
        () = shop.cancel.cancelled() => return Err(cancelled()),
    };
    fetched.map_err(|error| explained(&error))
}

async fn in_sandbox(shop: &Workshop<'_>, wanted: &ImageReference, login: Option<&str>) -> Result<Digest, Problem> {
    let builder = in_store(shop, |node| Ok(node.store.tagged(&format!("stack/{BUILDER}"))?)).await?;
    let builder = builder.ok_or_else(|| {
        Problem::new(ErrorCode::HostUnfit, "this node cannot fetch images: it has no base image buildah")
            .hint(format!("the operator makes it with: drowse-agent stack build {BUILDER}"))
    })?;
    let auths = login.map(|login| json!({ wanted.registry(): { "auth": STANDARD.encode(login) } }));
    let logins = json!({ "auths": auths.unwrap_or_else(|| json!({})) }).to_string();
    // A tag beside a digest says nothing more, and skopeo takes either.
    let reference = match wanted.digest() {
        Some(digest) => format!("{}/{}@{digest}", wanted.registry(), wanted.repository()),
        None => wanted.to_string(),
    };
    // For this user alone: whoever may have an image is the registry's to say, each time.
    let parts = [("user".to_owned(), shop.request.user.as_str().as_bytes().to_vec())];
    let tag = key::tag(&builder, &format!("fetch {reference}"), &parts);
    let name = tag.clone();
    let known = in_store(shop, move |node| Ok(node.store.tags()?.into_iter().find(|known| known.name == name))).await?;
    let raw = known.as_ref().and_then(|known| known.notes.get(NOTE_RAW)).cloned().unwrap_or_default();
    let variables =
        [(REFERENCE, reference), (LOGINS, logins), (KNOWN, raw)].map(|(name, value)| (name.to_owned(), value));
    let extra = Extra { binds: Vec::new(), profile: SeccompProfile::Default, env: Some(variables.into()) };
    let shown = format!("skopeo copy {wanted}");
    let written =
        shop.run_with(&builder, &shown, SCRIPT, extra).await.map_err(|problem| told_by_skopeo(problem, wanted))?;
    in_store(shop, move |node| {
        let (folder, raw) = (RESULT.trim_start_matches('/'), written.folder().join("app/raw"));
        let (digest, raw) = match known.filter(|_| !raw.exists()) {
            Some(known) => (known.image, known.notes.get(NOTE_RAW).cloned().unwrap_or_default()),
            None => (node.store.import_layout_below(written.folder(), folder, Some("image"))?, hash_in(&raw)),
        };
        node.store.unpack(&node.store.image(&digest)?)?;
        let mut notes = cleanup::used_now();
        notes.insert(NOTE_RAW.to_owned(), raw);
        node.store.tag_with_notes(&tag, &digest, notes)?;
        Ok(digest)
    })
    .await
}

/// The hash that a step left in a file, if it is one.
fn hash_in(path: &Path) -> String {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut text = String::new();
    if let Ok(file) = rustix::fs::openat(rustix::fs::CWD, path, flags, Mode::empty()) {
        let _ = std::fs::File::from(file).take(64).read_to_string(&mut text);
    }
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) { text } else { String::new() }
}

/// What skopeo's last words mean, in ours.
fn told_by_skopeo(problem: Problem, wanted: &ImageReference) -> Problem {
    let says = |words: &[&str]| problem.log.iter().any(|line| words.iter().any(|word| line.contains(word)));
    let registry = wanted.registry();
    let login = format!("drowse registry login {registry} --username NAME");
    let (detail, hint) = if says(&["unauthorized", "authentication required", "denied", "invalid username/password"]) {
        (format!("the registry {registry} wants a login for {}, or refuses it", wanted.repository()), login)
    } else if says(&["manifest unknown", "name unknown", "not found"]) {
        (format!("there is no {wanted}"), "check the name and the tag".to_owned())
    } else if says(&["no image found in", "no image found for"]) {
        (format!("{wanted} has no image for this machine"), "choose one that has".to_owned())
    } else if says(&["x509:", "tls: "]) {
        let hint = "the operator names the authorities that builds trust: ca_bundle in agent.toml";
        (format!("the certificate of the registry {registry} is not one that this node trusts"), hint.to_owned())
    } else if says(&["server gave HTTP response to HTTPS client"]) {
        (format!("the registry {registry} speaks no TLS"), "have it speak TLS, or use another".to_owned())
    } else if says(&["no such host", "connection refused", "i/o timeout", "no route to host", "connection reset"]) {
        (format!("the registry {registry} cannot be reached"), "deploy again when it answers".to_owned())
    } else {
        return problem;
    };
    Problem { detail, hint: Some(hint), ..problem }
}

/// Every failure is told, with what to do.
fn explained(error: &RegistryError) -> Problem {
    if problem::is_disk_full(error) {
        return problem::disk_full(error);
    }
    let problem = Problem::new(ErrorCode::BuildError, chain(error));
    match error {
        RegistryError::LoginMissing { registry, .. } | RegistryError::LoginRefused { registry, .. } => {
            problem.hint(format!("drowse registry login {registry} --username NAME"))
        }
        RegistryError::NotNamed { registry } => {
            problem.hint(format!("the operator can open it: registries = [\"{registry}\"] in agent.toml"))
        }
        RegistryError::NoImage { .. } => problem.hint("check the name and the tag"),
        RegistryError::Unreachable { .. } | RegistryError::BrokenOff { .. } | RegistryError::Answer { .. } => {
            problem.hint("deploy again when the registry answers; what was fetched is not fetched again")
        }
        RegistryError::Store(error) => {
            let problem = problem::of_store(error);
            Problem { code: ErrorCode::BuildError, ..problem }
        }
        _ => problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_skopeo_says_is_told_in_words_with_what_to_do() {
        let wanted = ImageReference::parse("a.example/b:1").expect("a reference");
        let told = |line: &str| {
            let problem = Problem::new(ErrorCode::BuildError, "skopeo copy exited with status 1");
            told_by_skopeo(problem.log(vec![line.to_owned()]), &wanted).to_string()
        };
        let unauthorized = "level=fatal msg=\"initializing source: reading manifest 1 in a.example/b: unauthorized\"";
        assert!(told(unauthorized).contains("drowse registry login a.example"), "{}", told(unauthorized));
        assert!(told("reading manifest 1 in a.example/b: manifest unknown").contains("there is no a.example/b:1"));
        assert!(told("pinging container registry a.example: dial tcp: i/o timeout").contains("cannot be reached"));
        let unknown = "tls: failed to verify certificate: x509: certificate signed by unknown authority";
        assert!(told(unknown).contains("not one that this node trusts") && told(unknown).contains("ca_bundle"));
        assert!(told("http: server gave HTTP response to HTTPS client").contains("speaks no TLS"));
        assert!(told("something else").contains("status 1"));
    }
}
