//! A registry for tests: Debian's docker-registry on loopback, or one that breaks off, and images to push.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const PROGRAM: &str = "/usr/bin/docker-registry";
const LIMIT: Duration = Duration::from_secs(30);
/// The login that a registry with a password takes.
pub const LOGIN: &str = "reader:planted-password";
/// The same, as htpasswd's bcrypt.
const LOGIN_HASH: &str = "reader:$2b$05$eIk6c6ErS.yymVe7hcUdyeI0Y4rSbbcPaklagA0DRK9mSuJVXs5YS\n";

/// A registry, ended when dropped.
pub struct Registry {
    folder: tempfile::TempDir,
    child: Child,
    address: SocketAddr,
}

impl Registry {
    /// Why there can be none.
    ///
    /// # Errors
    /// One sentence on what is missing and how to get it.
    pub fn is_possible() -> Result<(), String> {
        if Path::new(PROGRAM).exists() { Ok(()) } else { Err(format!("{PROGRAM} is missing: scripts/setup --test")) }
    }

    /// One that anybody may use.
    #[must_use]
    pub fn open() -> Self {
        Self::start(false)
    }

    /// One that wants [`LOGIN`].
    #[must_use]
    pub fn with_password() -> Self {
        Self::start(true)
    }

    fn start(has_password: bool) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": folder.path().join("data")}, "delete": {"enabled": true}},
            "http": {"addr": address.to_string()},
        });
        if has_password {
            let path = folder.path().join("htpasswd");
            fs::write(&path, LOGIN_HASH).expect("written");
            config["auth"] = json!({"htpasswd": {"realm": "tests", "path": path}});
        }
        // JSON is YAML.
        fs::write(folder.path().join("config.yml"), config.to_string()).expect("written");
        let child = Command::new(PROGRAM)
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let registry = Self { folder, child, address };
        let began = Instant::now();
        while TcpStream::connect(address).is_err() {
            assert!(began.elapsed() < LIMIT, "the registry never listened");
            std::thread::sleep(Duration::from_millis(10));
        }
        registry
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// A reference to an image in it.
    #[must_use]
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }

    /// Puts an image there; its manifest's digest.
    pub fn push(&self, name: &str, tag: &str, image: &Image) -> String {
        let put = |bytes: &[u8]| {
            let digest = digest(bytes);
            let begun = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), "", &[]);
            let place = begun.header("location").expect("a place for the upload");
            let path = place.split_once("://").map_or(place.as_str(), |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]);
            let separator = if path.contains('?') { '&' } else { '?' };
            let stored =
                self.ask("PUT", &format!("{path}{separator}digest={digest}"), "application/octet-stream", bytes);
            assert_eq!(stored.status, 201, "the registry takes a blob");
            (digest, bytes.len())
        };
        let (config, config_size) = put(image.config.to_string().as_bytes());
        let layers: Vec<Value> = image
            .layers
            .iter()
            .map(|layer| {
                let (digest, size) = put(layer);
                json!({"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": size})
            })
            .collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": kind,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size},
            "layers": layers,
        });
        self.put_manifest(name, tag, kind, &manifest)
    }

    /// Puts an index there whose images are for these machines.
    pub fn push_index(&self, name: &str, tag: &str, images: &[(&str, String)]) -> String {
        let manifests: Vec<Value> = images
            .iter()
            .map(|(machine, digest)| {
                let path = self.manifest_path(digest);
                let size = fs::metadata(path).expect("a manifest").len();
                json!({
                    "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size,
                    "platform": {"os": "linux", "architecture": machine},
                })
            })
            .collect();
        let kind = "application/vnd.oci.image.index.v1+json";
        self.put_manifest(name, tag, kind, &json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}))
    }

    fn put_manifest(&self, name: &str, tag: &str, kind: &str, manifest: &Value) -> String {
        let text = manifest.to_string();
        let stored = self.ask("PUT", &format!("/v2/{name}/manifests/{tag}"), kind, text.as_bytes());
        assert_eq!(stored.status, 201, "the registry takes a manifest: {}", stored.body);
        digest(text.as_bytes())
    }

    fn manifest_path(&self, digest: &str) -> PathBuf {
        let hex = digest.trim_start_matches("sha256:");
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Changes a stored blob, so that the registry sends what does not hash to its name.
    pub fn damage(&self, digest: &str) {
        let path = self.manifest_path(digest);
        let mut bytes = fs::read(&path).expect("a blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(path, bytes).expect("written");
    }

    /// A place in front of it that passes `bytes` of each answer for a blob on, and then breaks off, as long as
    /// `is_broken` says so.
    #[must_use]
    pub fn breaking_off(&self, bytes: usize) -> (SocketAddr, Arc<AtomicBool>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let is_broken = Arc::new(AtomicBool::new(true));
        let (registry, broken) = (self.address, Arc::clone(&is_broken));
        // Ends with the test's process; each connection is one request of the agent.
        std::thread::spawn(move || {
            for visitor in listener.incoming().flatten() {
                let broken = Arc::clone(&broken);
                std::thread::spawn(move || pass(visitor, registry, bytes, &broken));
            }
        });
        (address, is_broken)
    }

    fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        use base64::Engine;
        let login = base64::engine::general_purpose::STANDARD.encode(LOGIN);
        let mut stream = TcpStream::connect(self.address).expect("the registry listens");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {login}\r\nContent-Type: {kind}\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("sent");
        let mut text = Vec::new();
        stream.read_to_end(&mut text).expect("an answer");
        Answer::read(&String::from_utf8_lossy(&text))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The images of a registry, from elsewhere: by TLS, out of a network namespace of its own, which sandboxes reach as they
/// reach the internet. The authority of its certificate is made for it.
pub struct Away {
    child: Child,
    namespace: String,
    address: Ipv4Addr,
    authority: PathBuf,
    _folder: tempfile::TempDir,
}

impl Away {
    /// Serves what is in `registry`, as long as that is there, to who has [`LOGIN`].
    #[must_use]
    pub fn of(registry: &Registry) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // Of the range for tests of networks (RFC 2544), by what no other test of this time has.
        let number = std::process::id() % 16_384;
        let [_, _, third, fourth] = (number * 4).to_be_bytes();
        let [here, address] = [1, 2].map(|last| Ipv4Addr::new(198, 18, third, fourth + last));
        let namespace = format!("drowse-registry-{number}");
        let (outside, inside) = (format!("drg{number}o"), format!("drg{number}i"));
        shell(&format!(
            "ip netns add {namespace} && ip link add {outside} type veth peer name {inside} netns {namespace} && \
             ip addr add {here}/30 dev {outside} && ip link set {outside} up && \
             ip -n {namespace} addr add {address}/30 dev {inside} && ip -n {namespace} link set {inside} up && \
             ip -n {namespace} link set lo up && ip -n {namespace} route add default via {here}"
        ));
        let place = folder.path().display();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30";
        shell(&format!(
            "cd {place} && openssl req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=tests && \
             openssl req -x509 -CA ca.crt -CAkey ca.key {key} -keyout key -out crt -subj /CN=registry \
             -addext subjectAltName=IP:{address} -addext basicConstraints=critical,CA:FALSE"
        ));
        fs::write(folder.path().join("htpasswd"), LOGIN_HASH).expect("written");
        let config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {"filesystem": {"rootdirectory": registry.folder.path().join("data")}},
            "auth": {"htpasswd": {"realm": "tests", "path": folder.path().join("htpasswd")}},
            "http": {
                "addr": format!("{address}:443"),
                "tls": {"certificate": folder.path().join("crt"), "key": folder.path().join("key")},
            },
        });
        fs::write(folder.path().join("config.yml"), config.to_string()).expect("written");
        let child = Command::new("ip")
            .args(["netns", "exec", &namespace, PROGRAM, "serve"])
            .arg(folder.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let away = Self { child, namespace, address, authority: folder.path().join("ca.crt"), _folder: folder };
        let began = Instant::now();
        while TcpStream::connect((address, 443)).is_err() {
            assert!(began.elapsed() < LIMIT, "the registry never listened");
            std::thread::sleep(Duration::from_millis(10));
        }
        away
    }

    /// Its name: its address, at the port of TLS.
    #[must_use]
    pub fn name(&self) -> String {
        self.address.to_string()
    }

    /// The certificate of its authority.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.authority
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The links end with it.
        let _ = Command::new("ip").args(["netns", "delete", &self.namespace]).status();
    }
}

fn shell(script: &str) {
    let done = Command::new("sh").args(["-c", script]).output().expect("a shell");
    assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Passes one request on, and so much of the answer.
fn pass(visitor: TcpStream, registry: SocketAddr, most: usize, is_broken: &AtomicBool) {
    let Ok(mut upstream) = TcpStream::connect(registry) else { return };
    let mut reader = BufReader::new(&visitor);
    let (mut head, mut is_blob) = (String::new(), false);
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
        is_blob |= head.is_empty() && line.contains("/blobs/");
        let is_end = line.trim().is_empty();
        head.push_str(&line);
        line.clear();
        if is_end {
            break;
        }
    }
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    if upstream.write_all(head.as_bytes()).is_err() {
        return;
    }
    let limit = if is_blob && is_broken.load(Ordering::Relaxed) { most as u64 } else { u64::MAX };
    let _ = std::io::copy(&mut upstream.take(limit), &mut &visitor);
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn read(text: &str) -> Self {
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn header(&self, name: &str) -> Option<String> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    }
}

/// An image that is not anywhere yet.
pub struct Image {
    config: Value,
    layers: Vec<Vec<u8>>,
}

impl Image {
    /// Of busybox with its applets, and these files, `/etc/passwd` among them.
    ///
    /// # Errors
    /// If there is no static busybox.
    #[must_use]
    pub fn busybox(config: Value, files: &[(&str, &str)]) -> Self {
        let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
        let program = fs::read(program.expect("busybox-static, from scripts/setup --test")).expect("busybox");
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, mode: u32, bytes: &[u8]| {
            let mut header = tar::Header::new_gnu();
            header.set_mode(mode);
            header.set_size(bytes.len() as u64);
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, path, bytes).expect("packed");
        };
        add("bin/busybox", 0o755, &program);
        for (path, text) in files {
            add(path.trim_start_matches('/'), 0o644, text.as_bytes());
        }
        for (path, mode) in [("tmp/", 0o1777), ("srv/site/", 0o755)] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(mode);
            header.set_size(0);
            header.set_uid(0);
            header.set_gid(0);
            tar.append_data(&mut header, path, std::io::empty()).expect("packed");
        }
        for applet in ["sh", "id", "cat", "echo", "httpd", "ls", "kill", "sleep", "stat", "touch", "chown", "mkdir"] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("packed");
        }
        Self::of(config, &[tar.into_inner().expect("packed")])
    }

    /// Of these archives.
    #[must_use]
    pub fn of(config: Value, archives: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<String> = archives.iter().map(|archive| digest(archive)).collect();
        let layers = archives.iter().map(|archive| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(archive).expect("packed");
            encoder.finish().expect("packed")
        });
        let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": machine, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Self { config, layers: layers.collect() }
    }

    /// The digest of a layer as it is stored.
    #[must_use]
    pub fn layer(&self, at: usize) -> String {
        digest(&self.layers[at])
    }

    /// As an OCI image layout.
    pub fn write_layout(&self, folder: &Path) {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("folders");
        let put = |bytes: &[u8]| {
            let digest = digest(bytes);
            fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).expect("written");
            json!({"digest": digest, "size": bytes.len()})
        };
        let typed = |kind: &str, mut part: Value| {
            part["mediaType"] = json!(format!("application/vnd.oci.image.{kind}"));
            part
        };
        let config = typed("config.v1+json", put(self.config.to_string().as_bytes()));
        let layers: Vec<Value> = self.layers.iter().map(|layer| typed("layer.v1.tar+gzip", put(layer))).collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        let manifest = typed("manifest.v1+json", put(manifest.to_string().as_bytes()));
        let index = json!({"schemaVersion": 2, "manifests": [manifest]});
        fs::write(folder.join("index.json"), index.to_string()).expect("written");
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("written");
        fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("rights");
    }
}

fn digest(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    let hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
