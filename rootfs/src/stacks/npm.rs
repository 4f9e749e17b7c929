//! npm as its authors publish it. It is fetched by corepack, which comes with Debian's Node and knows
//! where packages are; it is run in the new stack and checks what arrives against the digest that the
//! recipe names.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use super::files::io_error;
use super::run::run;
use super::{Npm, StackError};

/// Where corepack puts it; emptied with the rest of /tmp when the stack is finished.
const CACHE: &str = "tmp/corepack";
const BUNDLE: &str = "tmp/ca-certificates.crt";
/// Files of the host that fetching needs, and where the stack has them meanwhile.
const FROM_HOST: [(&str, &str); 3] = [
    ("/etc/resolv.conf", "etc/resolv.conf"),
    ("/etc/hosts", "etc/hosts"),
    ("/etc/ssl/certs/ca-certificates.crt", BUNDLE),
];

/// Puts npm into the stack's `root`, at /usr/local.
pub(super) fn install(npm: &Npm, root: &Path) -> Result<(), StackError> {
    for (from, to) in FROM_HOST {
        let to = root.join(to);
        if Path::new(from).exists() {
            fs::copy(from, &to).map_err(|source| io_error("write", &to, source))?;
        }
    }
    let mut command = Command::new("chroot");
    command.arg(root).args(["/usr/bin/corepack", "prepare"]);
    command.arg(format!("npm@{}+sha256.{}", npm.version, npm.sha256));
    command.env("COREPACK_HOME", Path::new("/").join(CACHE)).env("NODE_EXTRA_CA_CERTS", Path::new("/").join(BUNDLE));
    command.env("HOME", "/tmp").current_dir("/");
    if let Some(registry) = std::env::var_os("npm_config_registry") {
        command.env("COREPACK_NPM_REGISTRY", registry);
    }
    run(command, "coreutils", &mut |_| {})?;
    let modules = root.join("usr/local/lib/node_modules");
    fs::create_dir_all(&modules).map_err(|source| io_error("make", &modules, source))?;
    let (from, to) = (root.join(CACHE).join("npm").join(&npm.version), modules.join("npm"));
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
