//! The way of one build: source, dependencies, the app's own build step, image.

use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use drowse_api::agent::{BuildRequest, BuildStatus};
use drowse_api::deployment::AppType;
use drowse_api::image::{APP_FOLDER, APP_ID, LABEL_START, LABEL_START_ORIGIN, LABEL_TYPE};
use drowse_api::instance::Workload;
use drowse_api::{Digest, ErrorCode, Problem};
use drowse_rootfs::bundle::{notes, spec_of_image};
use drowse_rootfs::{IdRange, Layer};
use oci_spec::image::ImageConfiguration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::detect::{self, Install, Serves, Source};
use super::queue::Place;
use super::step::{Workshop, cancelled};
use super::tools::Tools;
use super::{docker, image, key, release};
use crate::cleanup;
use crate::host::error::SandboxError;
use crate::host::home::{Home, remove_folder};
use crate::host::image::open_in;
use crate::host::sandbox::{Written, blocking};
use crate::host::{Node, sites};
use crate::logs;
use crate::problem;

/// Runs a build to its end.
///
/// # Errors
/// What the user did wrong, or the node lacks, with the last lines of the log.
pub(super) async fn run(
    node: &Node,
    request: &BuildRequest,
    home: &Home,
    address: Ipv4Addr,
    status: &watch::Sender<BuildStatus>,
    cancel: &CancellationToken,
    place: Option<&Place>,
) -> Result<BuildStatus, Problem> {
    if let Some(place) = place {
        wait_for_turn(place, home, status, cancel).await?;
    }
    let ids = node.users.range(&request.user).map_err(|error| problem::of_sandbox(&error.into()))?;
    let deadline = Instant::now() + Duration::from_secs(request.limits.timeout_seconds.into());
    let shop = Workshop { node, request, home, address, ids, status, cancel, deadline };
    let app_type = request.input.app_type;
    shop.say(&format!("building {} ({app_type})", request.app));
    let built = match app_type {
        AppType::Static => static_site(&shop, source(&shop).await?).await,
        AppType::Bundle => bundle(&shop).await,
        AppType::Docker => docker::run(&shop).await,
        AppType::Image => image::run(&shop).await,
        AppType::Npm => with_commands(&shop, source(&shop).await?, "node").await,
        AppType::Python => with_commands(&shop, source(&shop).await?, "python").await,
    };
    release::run(&shop, built?).await
}

/// Waits until builds of this user that came before have made room.
async fn wait_for_turn(
    place: &Place,
    home: &Home,
    status: &watch::Sender<BuildStatus>,
    cancel: &CancellationToken,
) -> Result<(), Problem> {
    let told = |behind: usize| {
        let plural = if behind == 1 { "" } else { "s" };
        logs::say(&home.folder, &format!("queued behind {behind} build{plural} of the same user"));
        status.send_replace(BuildStatus::Queued { behind: u32::try_from(behind).unwrap_or(u32::MAX) });
    };
    tokio::select! {
        () = place.turn(told) => {}
        () = cancel.cancelled() => return Err(cancelled()),
    }
    status.send_replace(BuildStatus::Preparing);
    Ok(())
}

/// The upload as the layer of the app's own files.
async fn source(shop: &Workshop<'_>) -> Result<Layer, Problem> {
    let archive = shop.request.input.source.clone();
    in_store(shop, move |node| {
        Ok(node.store.layer_from_archive(node.store.open_blob(&archive)?, APP_FOLDER, APP_ID)?)
    })
    .await
}

async fn static_site(shop: &Workshop<'_>, source: Layer) -> Result<BuildStatus, Problem> {
    let image = in_store(shop, move |node| {
        let path = node.store.unpack_layers(std::slice::from_ref(&source))?.remove(0);
        if std::fs::read_dir(path.join(APP_FOLDER.trim_start_matches('/')))
            .is_ok_and(|mut found| found.next().is_none())
        {
            return Ok(None);
        }
        let labels = [(LABEL_TYPE, "static".to_owned())];
        Ok(Some(node.store.compose(None, &[source], &|config| label(config, &labels))?))
    });
    let image = image.await?.ok_or_else(|| {
        Problem::new(ErrorCode::NothingToRun, "the folder is empty").hint("deploy a folder with an index.html")
    })?;
    shop.say("static files, nothing to build");
    Ok(BuildStatus::Done { image, dependencies_reused: false, workload: Workload::Site })
}

async fn bundle(shop: &Workshop<'_>) -> Result<BuildStatus, Problem> {
    let archive = shop.request.input.source.clone();
    let imported = in_store(shop, move |node| {
        let allow = &node.config.bundles;
        let image = node.store.import_bundle_archive(node.store.open_blob(&archive)?, allow)?;
        let spec = spec_of_image(&node.store.image(&image)?)?;
        Ok((image, spec.map(|spec| notes(&spec, allow)).unwrap_or_default()))
    });
    let (image, notes) = imported.await?;
    for note in notes {
        shop.say(&note);
    }
    shop.say("bundle imported, nothing to build");
    Ok(BuildStatus::Done { image, dependencies_reused: false, workload: Workload::Web })
}

async fn with_commands(shop: &Workshop<'_>, source: Layer, stack: &'static str) -> Result<BuildStatus, Problem> {
    let base = in_store(shop, move |node| Ok(node.store.tagged(&format!("stack/{stack}"))?)).await?;
    let base = base.ok_or_else(|| {
        Problem::new(ErrorCode::HostUnfit, format!("this node has no base image {stack}"))
            .hint(format!("make it with: drowse-agent stack build {stack}"))
    })?;
    let tools = Tools::of(shop, stack, &base).await?;
    let layer = source.clone();
    let folder = in_store(shop, move |node| Ok(node.store.unpack_layers(&[layer])?.remove(0))).await?;
    let app_type = shop.request.input.app_type;
    let source_folder = Source::new(folder).started_by(shop.request.input.start.clone());
    let found = tokio::task::spawn_blocking(move || detect::detect(app_type, &source_folder)).await;
    let found = found.map_err(|error| Problem::new(ErrorCode::Internal, error.to_string()))??;
    for note in &found.notes {
        shop.say(note);
    }
    let mut layers = Vec::new();
    let mut reused = false;
    let mut has_source = false;
    if let Some(install) = &found.install {
        if install.is_cacheable {
            let (layer, was_there) = dependencies(shop, &tools, install).await?;
            layers.push(layer);
            reused = was_there;
        } else {
            // Installing needs the source itself: one layer holds what both made of it.
            let (image, keep) = (compose(shop, &tools.image, vec![source.clone()]).await?, install.keep);
            let written = tools.told(shop.run(&image, &install.shown, &install.script).await)?;
            layers.extend([source.clone(), capture(shop, written, &[keep, "app"]).await?]);
            has_source = true;
        }
    }
    if !has_source {
        layers.push(source);
    }
    if let Some(build) = &found.build {
        let image = compose(shop, &tools.image, layers.clone()).await?;
        let written = tools.told(shop.run(&image, &build.shown, &build.script).await)?;
        layers.push(capture(shop, written, build.keep).await?);
    }
    let (image, workload) = match found.serves {
        Serves::Process { start, origin } => {
            shop.say(&format!("start command ({origin}): {start}"));
            (finish(shop, base, layers, start, origin).await?, Workload::Web)
        }
        Serves::Site { folders } => (site_of(shop, layers, folders).await?, Workload::Site),
    };
    shop.say("the image is ready");
    Ok(BuildStatus::Done { image, dependencies_reused: reused, workload })
}

/// The image of a site that a build left in one of `folders`.
async fn site_of(shop: &Workshop<'_>, layers: Vec<Layer>, folders: &'static [&'static str]) -> Result<Digest, Problem> {
    let place = shop.home.folder.join("site");
    let made = in_store(shop, move |node| {
        // The newest layer first: what the build wrote, and only then what was there before.
        let unpacked = node.store.unpack_layers(&layers)?;
        let app = APP_FOLDER.trim_start_matches('/');
        let index = |layer: &PathBuf, folder: &str| {
            open_in(std::slice::from_ref(layer), &format!("{APP_FOLDER}/{folder}/index.html")).is_some()
        };
        let found = unpacked
            .iter()
            .rev()
            .find_map(|layer| folders.iter().find(|folder| index(layer, folder)).map(|folder| (layer, *folder)));
        let Some((layer, folder)) = found else { return Ok(None) };
        let io = |action| {
            let path = place.clone();
            move |source| SandboxError::Io { action, path, source }
        };
        remove_folder(&place).map_err(io("remove"))?;
        std::fs::create_dir_all(&place).map_err(io("make"))?;
        sites::copy_site(layer, &layer.join(app).join(folder), &place.join(app)).map_err(io("copy"))?;
        let site = node.store.capture_layer(&place, IdRange::IDENTITY, &|_| true)?;
        remove_folder(&place).map_err(io("remove"))?;
        let labels = [(LABEL_TYPE, "static".to_owned())];
        Ok(Some((node.store.compose(None, &[site], &|config| label(config, &labels))?, folder)))
    });
    let Some((image, folder)) = made.await? else {
        let detail = format!("the build left no index.html in {}", folders.join(", "));
        let hint = "if it is a server, add a \"start\" script to package.json or a Procfile; if it is a site, have \
                    its build write to dist";
        return Err(shop.explained(Problem::new(ErrorCode::NothingToRun, detail).hint(hint)));
    };
    shop.say(&format!("{folder} is served as a static site"));
    Ok(image)
}

/// The layer of dependencies: from an earlier build with the same lists, or made now.
async fn dependencies(shop: &Workshop<'_>, tools: &Tools, install: &Install) -> Result<(Layer, bool), Problem> {
    let tag = key::tag(&tools.image, &install.script, &install.files);
    let wanted = tag.clone();
    let cached = in_store(shop, move |node| {
        let Some(image) = node.store.tagged(&wanted)? else { return Ok(None) };
        let layer = node.store.image(&image)?.layers.into_iter().next();
        node.store.tag_with_notes(&wanted, &image, cleanup::used_now())?;
        Ok(layer)
    });
    // A cached layer that cannot be read is made again.
    if let Ok(Some(layer)) = cached.await {
        shop.say("dependencies reused: nothing in their lists has changed");
        return Ok((layer, true));
    }
    let (folder, files) = (shop.home.folder.join("manifests"), install.files.clone());
    let lists = in_store(shop, move |node| {
        write_lists(&folder, &files)?;
        let layer = node.store.capture_layer(&folder, IdRange::IDENTITY, &|_| true)?;
        remove_folder(&folder).map_err(|source| SandboxError::io("remove", &folder, source))?;
        Ok(layer)
    });
    let image = compose(shop, &tools.image, vec![lists.await?]).await?;
    let written = tools.told(shop.run(&image, &install.shown, &install.script).await)?;
    let layer = capture(shop, written, &[install.keep]).await?;
    let kept = layer.clone();
    in_store(shop, move |node| {
        let image = node.store.compose(None, &[kept], &|_| {})?;
        Ok(node.store.tag_with_notes(&tag, &image, cleanup::used_now())?)
    })
    .await?;
    Ok((layer, false))
}

/// The lists of dependencies alone, as the app's own files.
fn write_lists(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<(), SandboxError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| SandboxError::io(action, &path, source)
    };
    remove_folder(folder).map_err(io("remove", folder))?;
    let app = folder.join(APP_FOLDER.trim_start_matches('/'));
    std::fs::create_dir_all(&app).map_err(io("make", &app))?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).map_err(io("open", folder))?;
    std::fs::set_permissions(&app, std::fs::Permissions::from_mode(0o755)).map_err(io("open", &app))?;
    chown(&app, Some(APP_ID), Some(APP_ID)).map_err(io("change the owner of", &app))?;
    for (name, content) in files {
        let path = app.join(name);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io("make", folder))?;
        }
        std::fs::write(&path, content).map_err(io("write", &path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).map_err(io("open", &path))?;
        chown(&path, Some(APP_ID), Some(APP_ID)).map_err(io("change the owner of", &path))?;
    }
    Ok(())
}

async fn compose(shop: &Workshop<'_>, base: &Digest, layers: Vec<Layer>) -> Result<Digest, Problem> {
    let base = base.clone();
    in_store(shop, move |node| Ok(node.store.compose(Some(&node.store.image(&base)?), &layers, &|_| {})?)).await
}

async fn finish(
    shop: &Workshop<'_>,
    base: Digest,
    layers: Vec<Layer>,
    start: String,
    origin: String,
) -> Result<Digest, Problem> {
    let app_type = shop.request.input.app_type;
    in_store(shop, move |node| {
        let labels =
            [(LABEL_TYPE, app_type.to_string()), (LABEL_START, start.clone()), (LABEL_START_ORIGIN, origin.clone())];
        let base = node.store.image(&base)?;
        Ok(node.store.compose(Some(&base), &layers, &|config| {
            label(config, &labels);
            let mut inner = config.config().clone().unwrap_or_default();
            inner.set_user(Some(format!("{APP_ID}:{APP_ID}")));
            inner.set_working_dir(Some(APP_FOLDER.to_owned()));
            config.set_config(Some(inner));
        })?)
    })
    .await
}

fn label(config: &mut ImageConfiguration, labels: &[(&str, String)]) {
    let mut inner = config.config().clone().unwrap_or_default();
    let mut all = inner.labels().clone().unwrap_or_default();
    all.extend(labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    inner.set_labels(Some(all));
    config.set_config(Some(inner));
}

/// What a step wrote below `folders`, as a layer; tools' own caches in the home folder are left out.
async fn capture(shop: &Workshop<'_>, written: Written, folders: &[&'static str]) -> Result<Layer, Problem> {
    let (ids, folders) = (shop.ids, folders.to_vec());
    let layer = in_store(shop, move |node| {
        let keep =
            |path: &Path| folders.iter().any(|folder| path.starts_with(folder) || Path::new(folder).starts_with(path));
        let is_cache =
            |path: &Path| [".cache", ".npm", ".config"].iter().any(|name| path == Path::new("app").join(name));
        Ok(node.store.capture_layer(written.folder(), ids, &|path| keep(path) && !is_cache(path))?)
    });
    layer.await
}

/// Work on the store beside the runtime.
pub(super) async fn in_store<T: Send + 'static>(
    shop: &Workshop<'_>,
    work: impl FnOnce(&Node) -> Result<T, SandboxError> + Send + 'static,
) -> Result<T, Problem> {
    let node = shop.node.clone();
    blocking(move || work(&node)).await.map_err(|error| problem::of_sandbox(&error))
}
