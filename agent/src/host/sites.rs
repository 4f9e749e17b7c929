//! Static sites: one file server in a sandbox of its own for the whole node, an address for each site.
//!
//! The server is an instance like any other, with a fixed id that no controller can use; its folder
//! is chosen by the address that a visitor came to. A site is published by a finished folder under
//! that name, and by routing the address to the server's link.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, File};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use drowse_api::image::APP_FOLDER;
use drowse_api::instance::{BootCheck, InstanceSpec, OnBootFailure, Workload};
use drowse_api::secrets::Secrets;
use drowse_api::{AppName, DeploymentId, Digest, Epoch, InstanceId, MemoryBytes, UserId};
use drowse_launcher::Bind;
use drowse_rootfs::{IdRange, ImageStore};
use flate2::Compression;
use flate2::write::GzEncoder;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use sha2::Digest as _;

use super::error::SandboxError;
use super::home::{Home, remove_folder};
use super::node::Node;
use super::sandbox::{Sandboxes, blocking};
use crate::cgroup::{Place, Slice};
use crate::config::Config;
use crate::instance::host::{PORT, Record};
use crate::network::{NetworkError, Owner};

/// The id of the file server's instance.
pub const SITES: &str = "sites";
const PROGRAM: &str = "drowse-sites";
const INSIDE: &str = "/sites";
/// Files by whose ending compression is known to pay.
const COMPRESSED: [&str; 14] =
    ["css", "csv", "htm", "html", "js", "json", "map", "md", "mjs", "svg", "txt", "wasm", "webmanifest", "xml"];
/// Smaller ones fit into one packet as they are; larger ones are no pages.
const WORTH_COMPRESSING: RangeInclusive<u64> = 1_024..=8 << 20;
/// The sum of what is compressed of one site, in bytes: so much takes seconds.
const MOST_COMPRESSED: u64 = 128 << 20;
const SERVER_WAIT: Duration = Duration::from_secs(20);

/// Whether this is the file server.
#[must_use]
pub fn is_server(id: &InstanceId) -> bool {
    id.as_str() == SITES
}

/// Where the file server is.
///
/// # Panics
/// Never: the name is a fixed word that is allowed.
#[must_use]
pub fn sites_home(config: &Config) -> Home {
    Home {
        place: Place::new(Slice::System, SITES).expect("a fixed word"),
        owner: Owner::system(SITES),
        folder: config.data_dir.join("system").join(SITES),
        run: config.run_dir.join("system").join(SITES),
    }
}

/// The folder of all published sites.
fn published(config: &Config) -> PathBuf {
    config.data_dir.join(SITES)
}

/// Whether there are files to serve at `address`.
#[must_use]
pub fn is_published(config: &Config, address: Ipv4Addr) -> bool {
    published(config).join(address.to_string()).is_dir()
}

/// What of the host the file server sees.
pub(super) fn binds(config: &Config, id: &InstanceId) -> Vec<Bind> {
    if !is_server(id) {
        return Vec::new();
    }
    vec![Bind { source: published(config), target: INSIDE.into(), read_only: true, idmap: None, is_disk: false }]
}

/// The file server as an instance.
///
/// # Panics
/// Never: the names are fixed words that are allowed.
#[must_use]
pub fn sites_spec(image: Digest, epoch: Epoch) -> InstanceSpec {
    InstanceSpec {
        controller: None,
        id: InstanceId::parse(SITES).expect("a fixed word"),
        epoch,
        user: UserId::parse("system").expect("a fixed word"),
        app: AppName::parse(PROGRAM).expect("a fixed word"),
        deployment: DeploymentId::parse(SITES).expect("a fixed word"),
        workload: Workload::Web,
        image,
        env: BTreeMap::new(),
        secrets: Secrets::default(),
        limits: Sandboxes::helper_limits(MemoryBytes::mib(256)),
        boot: BootCheck { timeout_seconds: 20, ..BootCheck::default() },
        on_boot_failure: OnBootFailure::Retry,
    }
}

/// The image that holds the server's program, made from the one beside the agent's. Blocking.
///
/// # Errors
/// If the program is missing or the store refuses.
pub fn sites_image(config: &Config, store: &ImageStore) -> Result<Digest, SandboxError> {
    let program = config.bin_dir.join(PROGRAM);
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| SandboxError::io(action, &path, source)
    };
    let bytes = std::fs::read(&program).map_err(io("read", &program))?;
    let sum: [u8; 32] = sha2::Sha256::digest(&bytes).into();
    let tag = format!("drowse/{PROGRAM}-{}", &Digest::from_sha256(sum).hex()[..16]);
    if let Some(image) = store.tagged(&tag)? {
        return Ok(image);
    }
    std::fs::create_dir_all(&config.data_dir).map_err(io("make", &config.data_dir))?;
    let folder = tempfile::tempdir_in(&config.data_dir).map_err(io("make a folder in", &config.data_dir))?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))
        .map_err(io("open", folder.path()))?;
    let inside = folder.path().join(PROGRAM);
    std::fs::write(&inside, bytes).map_err(io("write", &inside))?;
    std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o755)).map_err(io("open", &inside))?;
    let layer = store.capture_layer(folder.path(), IdRange::IDENTITY, &|_| true)?;
    let image = store.compose(None, &[layer], &|config| {
        let mut inner = config.config().clone().unwrap_or_default();
        let command = [&format!("/{PROGRAM}"), "--root", INSIDE, "--port", &PORT.to_string()].map(ToOwned::to_owned);
        inner.set_entrypoint(Some(command.to_vec()));
        inner.set_user(Some("1000:1000".to_owned()));
        config.set_config(Some(inner));
    })?;
    store.tag(&tag, &image)?;
    Ok(image)
}

/// Publishes a site: its files, then its address. Idempotent.
///
/// # Errors
/// If the image is missing, the files cannot be written, or the server does not stand in time.
pub(super) async fn publish(node: &Node, record: &Record) -> Result<(), SandboxError> {
    let (owned, image, address) = (node.clone(), record.life.spec.image.clone(), record.address);
    blocking(move || {
        let image = owned.store.image(&image)?;
        let layers = owned.store.unpack(&image)?;
        write_files(&published(&owned.config), address, &layers)
    })
    .await?;
    let wait = tokio::time::timeout(SERVER_WAIT, async {
        loop {
            match route(node, address).await {
                // The server's sandbox is being made: its link comes a moment after its init.
                Err(SandboxError::InitGone | SandboxError::Network(NetworkError::NoLink { .. })) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                routed => return routed,
            }
        }
    });
    wait.await.map_err(|_| SandboxError::InitGone)?
}

async fn route(node: &Node, address: Ipv4Addr) -> Result<(), SandboxError> {
    let home = sites_home(&node.config);
    let netns = node.sandboxes.network_of(&home)?;
    let network = node.sandboxes.network.clone();
    blocking(move || Ok(network.add_address(netns.as_fd(), &home.owner, address)?)).await
}

/// Takes a site from the server again. Idempotent.
///
/// # Errors
/// If the address or the files cannot be removed.
pub(super) async fn unpublish(node: &Node, address: Ipv4Addr) -> Result<(), SandboxError> {
    let home = sites_home(&node.config);
    if let Ok(netns) = node.sandboxes.network_of(&home) {
        node.sandboxes.network.remove_address(netns.as_fd(), &home.owner, address).await?;
    }
    let folder = published(&node.config).join(address.to_string());
    blocking(move || remove_folder(&folder).map_err(|source| SandboxError::io("remove", &folder, source))).await
}

/// Routes every published address to a server whose sandbox was made anew.
///
/// # Errors
/// If the kernel refuses one.
pub(super) async fn restore_addresses(node: &Node) -> Result<(), SandboxError> {
    let entries = std::fs::read_dir(published(&node.config)).into_iter().flatten().flatten();
    for entry in entries {
        if let Some(address) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
            route(node, address).await?;
        }
    }
    Ok(())
}

/// Makes the folder that the server's sandbox shows. Blocking.
///
/// # Errors
/// If it cannot be made.
pub fn prepare(config: &Config) -> Result<(), SandboxError> {
    let folder = published(config);
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&folder)
        .map_err(|source| SandboxError::io("make", &folder, source))
}

/// Copies the app's files out of the layers beside their place, and puts them there at once.
fn write_files(sites: &Path, address: Ipv4Addr, layers: &[PathBuf]) -> Result<(), SandboxError> {
    let place = sites.join(address.to_string());
    let beside = sites.join(format!(".new-{address}"));
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| SandboxError::io(action, &path, source)
    };
    remove_folder(&beside).map_err(io("remove", &beside))?;
    new_folder(&beside).map_err(io("make", &beside))?;
    let inside = Path::new(APP_FOLDER).strip_prefix("/").unwrap_or(Path::new(APP_FOLDER));
    for layer in layers {
        // Layers are unpacked by the store, beneath its folder; links in them are not followed here.
        let from = layer.join(inside);
        if from.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
            copy_folder(layer, &from, &beside).map_err(io("copy", &from))?;
        }
    }
    compress_folder(&beside, &mut { MOST_COMPRESSED }).map_err(io("compress the files of", &beside))?;
    if place.exists() {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(rustix::fs::CWD, &beside, rustix::fs::CWD, &place, flags)
            .map_err(|errno| SandboxError::io("replace", &place, errno.into()))?;
        remove_folder(&beside).map_err(io("remove", &beside))
    } else {
        std::fs::rename(&beside, &place).map_err(io("make", &place))
    }
}

/// Puts a compressed copy beside each file that is worth it, as long as there is `room` for more. The
/// site's own copies are left as they are.
fn compress_folder(folder: &Path, room: &mut u64) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        if kind.is_dir() {
            compress_folder(&path, room)?;
            continue;
        }
        let size = entry.metadata()?.len();
        let is_text = path.extension().and_then(|ending| ending.to_str()).is_some_and(|it| COMPRESSED.contains(&it));
        let mut copy = path.clone().into_os_string();
        copy.push(".gz");
        let copy = PathBuf::from(copy);
        if is_text && WORTH_COMPRESSING.contains(&size) && size <= *room && !copy.exists() {
            *room -= size;
            compress(&path, &copy)?;
        }
    }
    Ok(())
}

fn compress(path: &Path, copy: &Path) -> std::io::Result<()> {
    let out = File::options().write(true).create_new(true).mode(0o644).open(copy)?;
    let mut out = GzEncoder::new(out, Compression::default());
    std::io::copy(&mut File::open(path)?, &mut out)?;
    let size = out.finish()?.metadata()?.len();
    // A copy that saves less than a tenth is not worth its place.
    if size > path.metadata()?.len() / 10 * 9 { std::fs::remove_file(copy) } else { Ok(()) }
}

fn new_folder(path: &Path) -> std::io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)
}

/// Copies the files of a site from a folder of an unpacked layer.
///
/// # Errors
/// If a file cannot be read or written.
pub fn copy_site(layer: &Path, from: &Path, to: &Path) -> std::io::Result<()> {
    new_folder(to)?;
    copy_folder(layer, from, to)
}

/// Regular files and folders; a link is shown as what it leads to within the layer, if that is a file.
fn copy_folder(layer: &Path, from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (source, target, kind) = (entry.path(), to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            match new_folder(&target) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => copy_folder(layer, &source, &target)?,
            }
        } else if (kind.is_file() || kind.is_symlink())
            && let Some(mut file) = open_beneath(layer, &source)
        {
            let mut out = File::options().write(true).create(true).truncate(true).mode(0o644).open(&target)?;
            std::io::copy(&mut file, &mut out)?;
        }
    }
    Ok(())
}

fn open_beneath(layer: &Path, path: &Path) -> Option<File> {
    let root = File::open(layer).ok()?;
    let relative = path.strip_prefix(layer).ok()?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file =
        rustix::fs::openat2(&root, relative, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
    let file = File::from(file.ok()?);
    file.metadata().is_ok_and(|meta| meta.is_file()).then_some(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_replaced_whole_and_links_do_not_leave_its_layer() {
        let folder = tempfile::tempdir().expect("folder");
        let (layer, sites) = (folder.path().join("layer"), folder.path().join("sites"));
        std::fs::create_dir_all(layer.join("app/css")).expect("makes");
        std::fs::create_dir_all(&sites).expect("makes");
        std::fs::write(layer.join("app/index.html"), "one").expect("writes");
        std::fs::write(layer.join("app/css/a.css"), "a").expect("writes");
        std::os::unix::fs::symlink("/etc/passwd", layer.join("app/stolen")).expect("links");
        std::os::unix::fs::symlink("index.html", layer.join("app/home")).expect("links");
        let address = Ipv4Addr::new(10, 0, 0, 7);
        std::fs::write(layer.join("app/long.js"), "let a = 1;\n".repeat(1_000)).expect("writes");
        std::fs::write(layer.join("app/photo.jpg"), "x".repeat(10_000)).expect("writes");
        write_files(&sites, address, std::slice::from_ref(&layer)).expect("publishes");
        let site = sites.join("10.0.0.7");
        let packed = File::open(site.join("long.js.gz")).expect("a compressed copy");
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(packed), &mut text).expect("reads");
        assert_eq!(text.len(), 11_000);
        assert!(!site.join("index.html.gz").exists() && !site.join("photo.jpg.gz").exists());
        assert_eq!(std::fs::read_to_string(site.join("home")).expect("reads"), "one");
        assert!(!site.join("stolen").exists());
        std::fs::remove_file(layer.join("app/css/a.css")).expect("removes");
        write_files(&sites, address, &[layer]).expect("publishes again");
        assert!(!site.join("css/a.css").exists());
        assert_eq!(std::fs::read_dir(&sites).expect("reads").count(), 1);
    }
}
