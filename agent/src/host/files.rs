//! The files that a sandbox shows in place of its image's: names, resolver, users, authorities.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use drowse_launcher::InjectedFile;
use drowse_rootfs::IdRange;

use super::error::SandboxError;
use super::image::{read_in, with_host_ids};
use crate::config::Config;

/// Where Debian and its kin keep the bundle of certificate authorities.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What is written for one sandbox.
#[derive(Debug)]
pub struct Shown<'a> {
    /// Where the files are kept.
    pub folder: &'a Path,
    /// The image's layers.
    pub layers: &'a [PathBuf],
    /// The host ids of its users.
    pub ids: IdRange,
    /// The name inside.
    pub host_name: &'a str,
    /// The address inside.
    pub address: Ipv4Addr,
    /// Whether processes have the image's ids there: its own list of users is right then.
    pub root_inside: bool,
}

/// Writes the files of a sandbox, and says where they appear.
///
/// # Errors
/// If one cannot be written.
pub fn write(config: &Config, shown: &Shown<'_>) -> Result<Vec<InjectedFile>, SandboxError> {
    std::fs::create_dir_all(shown.folder).map_err(|source| SandboxError::io("make", shown.folder, source))?;
    let passwd = read_in(shown.layers, "/etc/passwd").unwrap_or_default();
    let group = read_in(shown.layers, "/etc/group").unwrap_or_default();
    let (name, address) = (shown.host_name, shown.address);
    let mut texts = vec![
        ("/etc/hosts", format!("127.0.0.1 localhost\n{address} {name}\n")),
        ("/etc/hostname", format!("{name}\n")),
        ("/etc/resolv.conf", resolv_conf(config)),
    ];
    if !passwd.is_empty() && !shown.root_inside {
        texts.push(("/etc/passwd", with_host_ids(&passwd, shown.ids, &[2, 3])));
        texts.push(("/etc/group", with_host_ids(&group, shown.ids, &[2])));
    }
    let mut files = Vec::new();
    for (path, text) in texts {
        let host_path = shown.folder.join(Path::new(path).file_name().unwrap_or_default());
        // Written into and not renamed over: a standing sandbox shows this very file.
        std::fs::write(&host_path, text).map_err(|source| SandboxError::io("write", &host_path, source))?;
        files.push(InjectedFile { path: path.into(), host_path });
    }
    files.extend(
        config.ca_bundle.as_ref().map(|bundle| InjectedFile { path: CA_BUNDLE.into(), host_path: bundle.clone() }),
    );
    Ok(files)
}

/// The resolver file for sandboxes: the configured one, or the host's with what works from inside.
#[must_use]
pub fn resolv_conf(config: &Config) -> String {
    if let Some(path) = &config.resolv_conf {
        return std::fs::read_to_string(path).unwrap_or_else(|error| {
            tracing::warn!("cannot read resolv_conf {}: {error}", path.display());
            String::new()
        });
    }
    // systemd-resolved listens on the host's loopback, which no sandbox reaches: its upstream file does.
    let candidates = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"].map(std::fs::read_to_string);
    let usable =
        candidates.into_iter().flatten().find(|text| resolvers(text).iter().any(|address| !address.is_loopback()));
    let text = usable.unwrap_or_default();
    let usable = |line: &&str| !is_loopback_resolver(line);
    text.lines().filter(usable).map(|line| format!("{line}\n")).collect()
}

/// The name servers that a resolver file names.
#[must_use]
pub fn resolvers(text: &str) -> Vec<IpAddr> {
    text.lines().filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok()).collect()
}

fn is_loopback_resolver(line: &str) -> bool {
    resolvers(line).iter().any(IpAddr::is_loopback)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_and_loopback_ones_known() {
        let text = "# comment\nnameserver 10.0.0.53\nsearch example\nnameserver\t127.0.0.53\n";
        assert_eq!(resolvers(text).len(), 2);
        assert!(is_loopback_resolver("nameserver 127.0.0.53"));
        assert!(!is_loopback_resolver("search 127.0.0.53"));
    }
}
