//! `drowse deploy`: choose, pack, upload, follow.

mod follow;
mod view;

use std::path::{Path, PathBuf};
use std::time::Instant;

use drowse_api::client::Client;
use drowse_api::deployment::AppType;
use drowse_api::manifest::{Check, Manifest};
use drowse_api::platform::DeploymentView;
use drowse_api::{AppName, ErrorCode, ImageReference, Problem};
use http::Method;

use crate::app_name;
use crate::args::Deploy;
use crate::failure::{Failure, bad_request, internal};
use crate::show;
use crate::source::{Pinned, Source, SourceError, archive, bundle, detect, folder, pinned};
use crate::terminal::{Format, Terminal, clean};

/// What is deployed, as whom.
struct Plan {
    name: AppName,
    app_type: AppType,
    manifest: Manifest,
    source: Source,
}

/// The longest address of an upload: what is in it is checked and kept before the first byte comes.
const LONGEST: usize = 60_000;

/// Deploys a folder or a bundle, and follows it until it serves or failed.
pub async fn run(args: Deploy, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let begun = Instant::now();
    if let Some(image) = &args.image {
        let name = args.name.clone().map_or_else(|| app_name::of_image(image), Ok)?;
        // No folder, so nothing but the command line pins anything.
        let manifest = manifest(&args, Manifest::default())?;
        let deployment = send_reference(&name, image, &manifest, client, terminal).await?;
        if args.detach {
            return detached(&deployment, terminal);
        }
        return follow::until_it_ends(&name, deployment, begun, client, terminal).await;
    }
    let plan = plan(&args, terminal).await?;
    let name = plan.name.clone();
    let deployment = tokio::select! {
        uploaded = upload(plan, client, terminal) => uploaded?,
        _ = tokio::signal::ctrl_c() => {
            terminal.note("The upload is broken off; nothing was deployed.");
            return Err(Failure::Interrupted);
        }
    };
    if args.detach {
        return detached(&deployment, terminal);
    }
    follow::until_it_ends(&name, deployment, begun, client, terminal).await
}

async fn plan(args: &Deploy, terminal: &Terminal) -> Result<Plan, Failure> {
    let root = args.bundle.as_ref().unwrap_or(&args.folder).clone();
    let spinner = terminal.spinner(format!("looking through {}", root.display()));
    let is_bundle = args.bundle.is_some();
    // Waits for the disk, so not on the event loop.
    let chosen = tokio::task::spawn_blocking(move || choose(&root, is_bundle)).await;
    spinner.finish_and_clear();
    let (source, pinned) = chosen.map_err(|error| internal("cannot look through the folder", &error))??;
    let app_type = app_type(args, pinned.app_type, &source, terminal)?;
    let manifest = manifest(args, pinned.manifest)?;
    let name = match &args.name {
        Some(name) => name.clone(),
        None => app_name::of_folder(&source.root).map_err(|problem| name_hint(problem, args))?,
    };
    for warning in &source.warnings {
        terminal.note(&format!("note: {}", clean(warning)));
    }
    for left_out in &source.left_out {
        terminal.detail(&format!("left out: {} ({})", left_out.path.display(), left_out.why));
    }
    if source.has_file(".env") {
        terminal.note("note: .env is deployed with the app; drowse env set keeps values out of it");
    }
    Ok(Plan { name, app_type, manifest, source })
}

fn choose(root: &Path, is_bundle: bool) -> Result<(Source, Pinned), Problem> {
    if is_bundle {
        return Ok((bundle::choose(root)?, Pinned::default()));
    }
    // The folder first: if it is none, that is what is wrong.
    let source = folder::choose(root)?;
    Ok((source, pinned::read(root)?.unwrap_or_default()))
}

/// What the folder pins, with what the command line says in its place.
fn manifest(args: &Deploy, pinned: Manifest) -> Result<Manifest, Problem> {
    let check = Check {
        path: args.check_path.clone().or(pinned.check.path),
        timeout_seconds: args.check_timeout.or(pinned.check.timeout_seconds),
    };
    let (start, release) = (args.start.clone().or(pinned.start), args.release.clone().or(pinned.release));
    let manifest = Manifest { start, release, check, ..pinned };
    manifest.check().map_err(|error| bad_request(error.to_string()))?;
    Ok(manifest)
}

fn name_hint(mut problem: Problem, args: &Deploy) -> Problem {
    let place: PathBuf = args.bundle.as_ref().unwrap_or(&args.folder).clone();
    let option = if args.bundle.is_some() { "--bundle " } else { "" };
    if let Some(suggested) = problem.hint.as_deref().and_then(|hint| hint.rsplit(' ').next()) {
        problem.hint = Some(format!("drowse deploy {option}{} --name {suggested}", place.display()));
    }
    problem
}

fn app_type(args: &Deploy, pinned: Option<AppType>, source: &Source, terminal: &Terminal) -> Result<AppType, Problem> {
    if args.bundle.is_some() {
        return Ok(AppType::Bundle);
    }
    if let Some(kind) = args.kind {
        return Ok(kind.into());
    }
    if let Some(pinned) = pinned {
        return Ok(pinned);
    }
    let detected = detect::detect(source)?;
    if let Some((other, by)) = detected.also {
        let (chosen, why) = (detected.app_type, &detected.by);
        terminal.note(&format!("note: {why} makes it {chosen}; {by} is there too: --type {other} for the other"));
    }
    Ok(detected.app_type)
}

async fn upload(plan: Plan, client: &Client, terminal: &Terminal) -> Result<DeploymentView, Failure> {
    let Plan { name, app_type, manifest, source } = plan;
    let files = show::count(source.files(), "file");
    let (size, root) = (source.size, source.root.display().to_string());
    terminal.note(&format!("{name}: {app_type} app from {root}, {files}, {size}"));
    let bar = terminal.byte_bar("uploading", size.0);
    let progress = bar.clone();
    let begun = Instant::now();
    let (bytes, packing) = archive::stream(source, move |bytes| progress.inc(bytes));
    let path = address(&name, app_type, &manifest)?;
    let uploaded = client.upload::<DeploymentView, _, _>(Method::POST, &path, bytes).await;
    bar.finish_and_clear();
    match uploaded {
        Ok(deployment) => {
            terminal.note(&format!("uploaded in {}", show::span(begun.elapsed())));
            Ok(deployment)
        }
        // If packing failed, that is why the upload did.
        Err(problem) => match packing.await {
            Ok(Err(error)) if !matches!(error, SourceError::Pack { .. }) => Err(Problem::from(error).into()),
            _ => Err(problem.into()),
        },
    }
}

/// Where a deploy is sent, with what it pins.
fn address(name: &AppName, app_type: AppType, manifest: &Manifest) -> Result<String, Failure> {
    let mut path = format!("/v1/apps/{name}/deployments?type={app_type}");
    if *manifest != Manifest::default() {
        let json = serde_json::to_string(manifest).map_err(|error| internal("cannot write the manifest", &error))?;
        path.push_str(&format!("&manifest={}", in_query(&json)));
    }
    if path.len() > LONGEST {
        let problem = Problem::new(ErrorCode::TooLarge, "what drowse.toml pins is too long");
        return Err(problem.hint("set long values with drowse env set").into());
    }
    Ok(path)
}

/// Text as the value of a query (RFC 3986, section 2).
fn in_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte.into());
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The reference is the whole upload: the node fetches the image.
async fn send_reference(
    name: &AppName,
    image: &ImageReference,
    manifest: &Manifest,
    client: &Client,
    terminal: &Terminal,
) -> Result<DeploymentView, Failure> {
    terminal.note(&format!("{name}: image {image}"));
    let path = address(name, AppType::Image, manifest)?;
    let body = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes::Bytes::from(image.to_string()))]);
    Ok(client.upload::<DeploymentView, _, _>(Method::POST, &path, body).await?)
}

fn detached(deployment: &DeploymentView, terminal: &Terminal) -> Result<(), Failure> {
    if terminal.format() == Format::Json {
        return terminal.json(deployment);
    }
    terminal.note(&format!("It goes on without you: drowse events -f {0}, drowse info {0}", deployment.app));
    terminal.line(&deployment.url)
}

/// The code of a deploy that ended in an error without saying more.
fn code_of(deployment: &DeploymentView) -> ErrorCode {
    use drowse_api::deployment::DeploymentState;
    match deployment.state.state {
        DeploymentState::BuildError => ErrorCode::BuildError,
        _ if deployment.state.reason.contains(ErrorCode::CrashLoop.as_str()) => ErrorCode::CrashLoop,
        _ => ErrorCode::TimeoutError,
    }
}
