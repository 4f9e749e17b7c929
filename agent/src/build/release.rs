//! The release command: run once for each deployment, in a sandbox over its finished image, with the
//! environment and the secrets that its instances will have, before any of them starts.
//!
//! That it was begun is on disk before it begins. An agent that dies meanwhile leaves a deploy that
//! failed, never a command that runs twice.

use drowse_api::agent::BuildStatus;
use drowse_api::deployment::AppType;
use drowse_api::image::APP_FOLDER;
use drowse_api::{Digest, ErrorCode, Problem};

use super::detect::process;
use super::record::{self, Record};
use super::step::Workshop;
use crate::host::error::SandboxError;
use crate::host::image::{line, read_in};
use crate::host::plan::{self, Wanted};
use crate::host::sandbox::blocking;
use crate::problem;

/// What is to be run, and who says so.
struct Command {
    line: String,
    origin: &'static str,
}

/// Runs the release command of what was built, if it has one.
///
/// # Errors
/// `release-error` with the last lines of its output, and what the host lacks.
pub(super) async fn run(shop: &Workshop<'_>, built: BuildStatus) -> Result<BuildStatus, Problem> {
    let BuildStatus::Done { image, .. } = &built else { return Ok(built) };
    let Some(Command { line, origin }) = command(shop, image).await? else { return Ok(built) };
    let wanted = wanted(shop, image, line.clone()).await?;
    shop.say(&format!("release command ({origin})"));
    let request = shop.request;
    let begun = Record {
        id: request.deployment.clone(),
        status: shop.status.borrow().clone(),
        controller: request.controller.clone(),
        source: Some(request.input.source.clone()),
        is_releasing: true,
    };
    record::keep(&shop.home.folder, &begun).await?;
    fail::fail_point!("build-release-begun");
    shop.execute(image, &line, wanted).await.map_err(|problem| match problem.code {
        ErrorCode::BuildError => {
            let detail = format!("the release command failed: {}", problem.detail);
            Problem { code: ErrorCode::ReleaseError, detail, ..problem }
        }
        _ => problem,
    })?;
    shop.say("the release command ended well");
    Ok(built)
}

/// How a build stands whose release command was cut off.
pub(super) fn cut_off() -> BuildStatus {
    let detail = "the agent was restarted while the release command ran: nobody knows what it has done, and it is not \
                  run a second time";
    let problem = Problem::new(ErrorCode::ReleaseError, detail);
    BuildStatus::Failed { problem: problem.hint("see what it left, and deploy again") }
}

async fn command(shop: &Workshop<'_>, image: &Digest) -> Result<Option<Command>, Problem> {
    let input = &shop.request.input;
    if let Some(line) = &input.release {
        return Ok(Some(Command { line: line.clone(), origin: "drowse.toml" }));
    }
    // What others made says itself how it is run; only what is pinned comes before it.
    if !matches!(input.app_type, AppType::Npm | AppType::Python) {
        return Ok(None);
    }
    let procfile = with_layers(shop, image, |_, layers| Ok(read_in(&layers, &format!("{APP_FOLDER}/Procfile"))));
    let line = procfile.await?.and_then(|text| process(&text, "release"));
    Ok(line.map(|line| Command { line, origin: "Procfile" }))
}

async fn wanted(shop: &Workshop<'_>, image: &Digest, text: String) -> Result<Wanted, Problem> {
    let request = shop.request;
    let (env, secrets) = (request.env.clone(), request.secrets.clone());
    let found = with_layers(shop, image, move |image, layers| {
        let command = line(&text, &layers)
            .ok_or_else(|| SandboxError::Image("a release command needs a shell, and the image has none".to_owned()))?;
        Ok((command, plan::environment(image, &env, &secrets)))
    });
    let (command, env) = found.await?;
    Ok(Wanted {
        home: shop.home.clone(),
        ids: shop.ids,
        limits: shop.limits(),
        address: shop.address,
        host_name: request.app.to_string(),
        env,
        command: Some(command),
        binds: Vec::new(),
        profile: drowse_launcher::SeccompProfile::Default,
    })
}

/// Looks into the image.
async fn with_layers<T: Send + 'static>(
    shop: &Workshop<'_>,
    image: &Digest,
    look: impl FnOnce(&drowse_rootfs::Image, Vec<std::path::PathBuf>) -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, Problem> {
    let (node, image) = (shop.node.clone(), image.clone());
    let looked = blocking(move || {
        let image = node.store.image(&image)?;
        let layers = node.store.unpack(&image)?;
        look(&image, layers)
    });
    looked.await.map_err(|error| problem::of_sandbox(&error))
}
