//! Builds a stack: packages into a folder, the folder into a layer, the layer into an image.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use drowse_api::{Digest, MemoryBytes};

use super::differs::differs;
use super::files::{finish, io_error};
use super::run::{require, run};
use super::{NOTE_BELOW, NOTE_RECIPE, NOTE_SIZE, Recipe, StackError, apt, npm};
use crate::overlay::IdRange;
use crate::store::ImageStore;

/// Parts of packages that no app reads.
const LEFT_OUT: [&str; 5] =
    ["/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*", "/usr/share/lintian/*"];

/// Makes the image of a stack, unless the store has one of the same recipe, and tags it
/// `stack/NAME`. `progress` is told in short sentences what is being done.
///
/// # Errors
/// When this is not root, mmdebstrap is missing or fails, or apt has no source for the packages;
/// nothing is left behind.
pub fn build(recipe: &Recipe, store: &ImageStore, progress: &dyn Fn(&str)) -> Result<Digest, StackError> {
    let name = format!("stack/{}", recipe.name);
    let below = recipe.over.as_deref().map(|below| built(below, store, progress)).transpose()?;
    // The agent's process may sweep: it waits until the image has its name.
    let _sweeps = store.hold_off_sweeps()?;
    if let Some(tag) = store.tags()?.into_iter().find(|tag| tag.name == name)
        && tag.notes.get(NOTE_RECIPE) == Some(&recipe.hash)
        && tag.notes.get(NOTE_BELOW).map(String::as_str) == below.as_ref().map(Digest::as_str)
        && let Ok(image) = store.image(&tag.image)
    {
        store.unpack(&image)?;
        progress(&format!("stack {} is up to date", recipe.name));
        return Ok(tag.image);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(StackError::NotRoot);
    }
    let work = store.temporary_folder()?;
    let root = work.path().join("root");
    debootstrap(recipe, work.path(), &root, &mut |line| progress(&format!("{}: {line}", recipe.name)))?;
    if let Some(wanted) = &recipe.npm {
        progress(&format!("{}: fetching npm {}", recipe.name, wanted.version));
        npm::install(wanted, &root)?;
    }
    finish(&root, recipe)?;
    progress(&format!("{}: packing the layer", recipe.name));
    let below_image = below.as_ref().map(|below| store.image(below)).transpose()?;
    let layers = below_image.as_ref().map(|below| store.unpack(below)).transpose()?.unwrap_or_default();
    let layer = store.capture_layer(&root, IdRange::IDENTITY, &|path| differs(&root, &layers, path))?;
    let size = disk_usage(&root)?;
    let image = store.compose(below_image.as_ref(), &[layer], &|image| {
        let mut config = image.config().clone().unwrap_or_default();
        config.set_env(Some(recipe.env.iter().map(|(name, value)| format!("{name}={value}")).collect()));
        config.set_labels(Some(recipe.labels.clone().into_iter().collect()));
        config.set_user(Some(recipe.user.name.clone()));
        config.set_working_dir(Some(recipe.user.home.clone()));
        config.set_cmd(Some(vec![recipe.user.shell.clone()]));
        image.set_config(Some(config));
    })?;
    let notes = [(NOTE_RECIPE, recipe.hash.clone()), (NOTE_SIZE, size.0.to_string())];
    let below = below.map(|below| (NOTE_BELOW, below.as_str().to_owned()));
    let notes = notes.into_iter().chain(below).map(|(key, value)| (key.to_owned(), value)).collect();
    store.tag_with_notes(&name, &image, notes)?;
    progress(&format!("stack {} is ready: {size} unpacked", recipe.name));
    Ok(image)
}

/// The stack that another is a layer over: whichever the store has, also one that was imported.
fn built(name: &str, store: &ImageStore, progress: &dyn Fn(&str)) -> Result<Digest, StackError> {
    match store.tagged(&format!("stack/{name}"))? {
        Some(image) => Ok(image),
        None => build(&super::load(name)?, store, progress),
    }
}

/// Takes the image of stack `name` from an OCI image layout instead (a folder, or an archive of one), unpacks
/// it and tags it; `reference` chooses one of several images. The next [`build`] of this name takes its place.
///
/// # Errors
/// When there is no stack of this name, or the layout is not one, is damaged or lacks the image.
pub fn import(name: &str, layout: &Path, reference: Option<&str>, store: &ImageStore) -> Result<Digest, StackError> {
    let recipe = super::load(name)?;
    let _sweeps = store.hold_off_sweeps()?;
    let image = store.import_layout(layout, reference)?;
    let mut size = MemoryBytes::default();
    for layer in store.unpack(&store.image(&image)?)? {
        size.0 += disk_usage(&layer)?.0;
    }
    let notes = [(NOTE_SIZE.to_owned(), size.0.to_string())];
    store.tag_with_notes(&format!("stack/{}", recipe.name), &image, notes.into())?;
    Ok(image)
}

/// Puts packages into the new folder `root`; `work` is for files of its own.
fn debootstrap(recipe: &Recipe, work: &Path, root: &Path, line: &mut dyn FnMut(&str)) -> Result<(), StackError> {
    let sources = work.join("debian.sources");
    let text = apt::sources(Path::new("/etc"), &recipe.suite)?;
    fs::write(&sources, text).map_err(|source| io_error("write", &sources, source))?;
    require("mmdebstrap", "mmdebstrap")?;
    // It mounts /proc, /sys and /dev into the folder. In a mount namespace of its own they end with
    // it, even if it is killed: whoever removes the folder then never reaches the host through them.
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "--", "mmdebstrap"]);
    command.env("LC_ALL", "C").args(["--mode=root", "--format=directory"]);
    command.arg("--variant=essential").arg(format!("--include={}", recipe.packages.join(",")));
    // apt's own user could not reach the store's folder.
    command.args(["--aptopt=APT::Sandbox::User \"root\"", "--aptopt=APT::Install-Recommends \"false\""]);
    command.args(apt::transport_options().iter().map(|option| format!("--aptopt={option}")));
    command.args(LEFT_OUT.iter().map(|path| format!("--dpkgopt=path-exclude={path}")));
    if !recipe.purge.is_empty() {
        let hook = format!("chroot \"$1\" dpkg --purge {} >&2", recipe.purge.join(" "));
        command.arg(format!("--customize-hook={hook}"));
    }
    command.arg(&recipe.suite).arg(root).arg(&sources);
    run(command, "util-linux", &mut |text| {
        if let Some(step) = text.strip_prefix("I: ") {
            line(step);
        }
    })?;
    Ok(())
}

/// What a folder takes on disk; files with several names count once.
fn disk_usage(root: &Path) -> Result<MemoryBytes, StackError> {
    let mut seen: HashMap<u64, u64> = HashMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|source| io_error("read", &folder, source))?;
        for entry in entries {
            let path = entry.map_err(|source| io_error("read", &folder, source))?.path();
            let metadata = fs::symlink_metadata(&path).map_err(|source| io_error("look at", &path, source))?;
            seen.insert(metadata.ino(), metadata.blocks() * 512);
            if metadata.is_dir() {
                folders.push(path);
            }
        }
    }
    Ok(MemoryBytes(seen.values().sum()))
}
