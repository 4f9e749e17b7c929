//! npm as its authors publish it. It is fetched by an npm, which knows where packages are: the
//! machine's own, else Debian's, whose packages are unpacked into a throw-away folder for that. What
//! arrives must have the digest that the recipe names.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::build::{Packages, debootstrap};
use super::files::io_error;
use super::run::run;
use super::{Npm, StackError};
use crate::archive::{ArchiveError, Limits, decompressed};
use crate::digest::Hashed;
use crate::store::StoreError;
use crate::unpack::{self, Policy};

const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Files of the host that fetching needs, where the host has them.
const FROM_HOST: [&str; 5] = ["etc/resolv.conf", "etc/hosts", "etc/npmrc", "root/.npmrc", BUNDLE];

/// Puts npm into the stack's `root`, at /usr/local.
pub(super) fn install(npm: &Npm, suite: &str, work: &Path, root: &Path) -> Result<(), StackError> {
    let package = fetch(npm, suite, work)?;
    let modules = root.join("usr/local/lib/node_modules");
    let unpacked = work.join("npm");
    for folder in [&modules, &unpacked] {
        fs::create_dir_all(folder).map_err(|source| io_error("make", folder, source))?;
    }
    let archive = StoreError::Archive;
    let stream = decompressed(package, Limits::UPLOAD).map_err(|error| archive(ArchiveError::from(error).into()))?;
    unpack::unpack(stream, &unpacked, Policy::Upload { owner: 0 }, Limits::UPLOAD).map_err(archive)?;
    // Packages are published with everything in a folder of this name.
    let (from, to) = (unpacked.join("package"), modules.join("npm"));
    fs::rename(&from, &to).map_err(|source| io_error("move", &from, source))?;
    for folder in ["docs", "man"] {
        let folder = to.join(folder);
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|source| io_error("remove", &folder, source))?;
        }
    }
    for program in ["npm", "npx"] {
        let script = to.join(format!("bin/{program}-cli.js"));
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, executable).map_err(|source| io_error("set the mode of", &script, source))?;
        let link = root.join("usr/local/bin").join(program);
        symlink(format!("../lib/node_modules/npm/bin/{program}-cli.js"), &link)
            .map_err(|source| io_error("link", &link, source))?;
    }
    Ok(())
}

fn fetch(npm: &Npm, suite: &str, work: &Path) -> Result<File, StackError> {
    let destination = work.join("package");
    fs::create_dir_all(&destination).map_err(|source| io_error("make", &destination, source))?;
    let path = destination.join(format!("npm-{}.tgz", npm.version));
    let mut own = Command::new("npm");
    own.arg("--pack-destination").arg(&destination);
    // What it fetches is checked below, so any npm will do; the machine's own takes a second.
    if run(pack(own, npm), "npm", &mut |_| {}).is_err() {
        let folder = work.join("fetch");
        fetch_by_debians(npm, suite, &folder, work)?;
        let fetched = folder.join(format!("tmp/npm-{}.tgz", npm.version));
        fs::rename(&fetched, &path).map_err(|source| io_error("move", &fetched, source))?;
    }
    let open = || File::open(&path).map_err(|source| io_error("open", &path, source));
    let mut hashed = Hashed::new(open()?);
    io::copy(&mut hashed, &mut io::sink()).map_err(|source| io_error("read", &path, source))?;
    let (_, found, _) = hashed.finish();
    if found.hex() != npm.sha256 {
        return Err(StackError::WrongNpm {
            version: npm.version.clone(),
            expected: npm.sha256.clone(),
            found: found.hex().to_owned(),
        });
    }
    open()
}

/// Debian's npm, unpacked into a throw-away folder and run there.
fn fetch_by_debians(npm: &Npm, suite: &str, folder: &Path, work: &Path) -> Result<(), StackError> {
    // base-files has the links /lib and /lib64, without which nothing finds the dynamic loader.
    let packages = Packages { suite, variant: "extract", names: "base-files,npm".to_owned(), purge: &[] };
    debootstrap(&packages, work, folder, &mut |_| {})?;
    for name in FROM_HOST {
        let from = Path::new("/").join(name);
        let to = folder.join(name);
        if from.exists() {
            let parent = to.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(|source| io_error("make", parent, source))?;
            fs::copy(&from, &to).map_err(|source| io_error("copy", &from, source))?;
        }
    }
    let mut command = Command::new("chroot");
    command.arg(folder).args(["/usr/bin/node", "/usr/share/nodejs/npm/bin/npm-cli.js", "--pack-destination=/tmp"]);
    command.env("HOME", "/root").env("NODE_EXTRA_CA_CERTS", Path::new("/").join(BUNDLE));
    Ok(run(pack(command, npm), "coreutils", &mut |_| {})?)
}

fn pack(mut npm_command: Command, npm: &Npm) -> Command {
    npm_command.args(["--update-notifier=false", "pack"]).arg(format!("npm@{}", npm.version)).current_dir("/");
    npm_command
}
