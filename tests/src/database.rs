//! PostgreSQL outside: in a network namespace of its own, which apps reach as they reach the internet.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::wait;
use crate::world::World;

/// A database that ends when this is dropped.
#[derive(Debug)]
pub struct Database {
    namespace: String,
    address: String,
    // Before the folder, which is its own.
    server: Child,
    _folder: tempfile::TempDir,
}

/// Debian's programs of it, if they are installed.
fn programs() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    versions.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists())
}

/// Whether one can be started here, or why not.
///
/// # Errors
/// One sentence on what is missing.
pub fn is_possible() -> std::result::Result<(), String> {
    programs().map(drop).ok_or_else(|| "PostgreSQL is not installed (Debian: postgresql)".to_owned())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}", arguments.join(" "), said.trim());
    Ok(())
}

impl Database {
    /// Starts one for the apps of `world`.
    ///
    /// # Errors
    /// When it does not get ready.
    pub async fn start(world: &World) -> Result<Self> {
        let bin = programs().context("PostgreSQL is not installed")?;
        let number = world.names().address_range.split('.').nth(2).context("a range")?.to_owned();
        let (namespace, host, address) =
            (format!("drowse-db-{number}"), format!("198.18.{number}.1"), format!("198.18.{number}.2"));
        let (near, far) = (format!("dwdb{number}a"), format!("dwdb{number}b"));
        // One that an interrupted run left.
        let _ = run("ip", &["netns", "del", &namespace]);
        run("ip", &["netns", "add", &namespace])?;
        let folder = tempfile::tempdir_in("/var/tmp")?;
        run("chown", &["postgres:", &folder.path().to_string_lossy()])?;
        let data = folder.path().join("data").to_string_lossy().into_owned();
        let prepared = || -> Result<Child> {
            run("ip", &["link", "add", &near, "type", "veth", "peer", "name", &far, "netns", &namespace])?;
            run("ip", &["address", "add", &format!("{host}/30"), "dev", &near])?;
            run("ip", &["link", "set", &near, "up"])?;
            run("ip", &["-n", &namespace, "address", "add", &format!("{address}/30"), "dev", &far])?;
            run("ip", &["-n", &namespace, "link", "set", &far, "up"])?;
            run("ip", &["-n", &namespace, "route", "add", "default", "via", &host])?;
            let initdb = bin.join("initdb").to_string_lossy().into_owned();
            run("runuser", &["-u", "postgres", "--", &initdb, "--no-sync", "--auth=trust", "-D", &data])?;
            let rules = PathBuf::from(&data).join("pg_hba.conf");
            let rules_text = std::fs::read_to_string(&rules)? + "host all all 0.0.0.0/0 trust\n";
            std::fs::write(&rules, rules_text)?;
            let mut server = Command::new("ip");
            server.args([
                "netns",
                "exec",
                &namespace,
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--init-groups",
            ]);
            server.arg(bin.join("postgres")).args([
                "-D",
                &data,
                "-h",
                &address,
                "-k",
                &folder.path().to_string_lossy(),
            ]);
            server.args(["-c", "fsync=off", "-c", "max_connections=20"]).current_dir("/");
            let log = std::fs::File::create(folder.path().join("log"))?;
            Ok(server.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?)
        };
        let server = match prepared() {
            Ok(server) => server,
            Err(error) => {
                let _ = run("ip", &["netns", "del", &namespace]);
                return Err(error);
            }
        };
        let database = Self { namespace, address, server, _folder: folder };
        wait::until("the database accepts connections", Duration::from_secs(60), async || {
            tokio::net::TcpStream::connect((database.address.as_str(), 5432)).await.ok()
        })
        .await;
        Ok(database)
    }

    /// Where apps find it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgresql://postgres@{}/postgres", self.address)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // What postgres calls a fast shutdown.
        let pid = nix::unistd::Pid::from_raw(self.server.id().cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.server.wait();
        // Its link goes with it.
        if let Err(error) = run("ip", &["netns", "del", &self.namespace]) {
            eprintln!("{error:#}");
        }
    }
}
