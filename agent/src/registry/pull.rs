//! One image: its manifest, chosen for this machine, then what the manifest names. The store has the whole of it
//! or, for an image, nothing: parts that came before an end are swept with what nobody needs.

use std::io;
use std::net::IpAddr;

use bytes::Bytes;
use drowse_api::{Digest, ImageReference, MemoryBytes};
use drowse_rootfs::{ImageStore, StoreError};
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use oci_spec::image::{Arch, Descriptor, ImageIndex, ImageManifest, Os};
use tokio::time::timeout;

use super::RegistryError;
use super::access::{Challenge, Login};
use super::connection::{Connections, SILENCE};
use crate::received::Received;

/// The largest manifest, index or configuration (as registries limit them).
const LARGEST_DOCUMENT: usize = 4 << 20;
/// The most that an image may have, compressed.
const LARGEST_IMAGE: MemoryBytes = MemoryBytes::gib(8);
/// How deep indexes may point to indexes.
const DEEPEST_INDEX: usize = 4;
/// What is taken, the newer form first.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";

/// Whether a registry is on the host's own loopback by its name. Others are not for the agent to ask.
#[must_use]
pub fn is_own(registry: &str) -> bool {
    let host = match registry.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => registry.split_once(':').map_or(registry, |(host, _)| host),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Fetches `wanted` from a registry on the host's own loopback into `store`, unless it is there, and gives its
/// manifest's digest. `login` is `NAME:PASSWORD`; `named` are the registries that may be asked; `say` is told of each
/// layer.
///
/// # Errors
/// In words for the user, without anything that the registry said.
pub async fn pull(
    store: &ImageStore,
    wanted: &ImageReference,
    login: Option<&str>,
    named: &[String],
    say: &(dyn Fn(String) + Send + Sync),
) -> Result<Digest, RegistryError> {
    let registry = wanted.registry().to_owned();
    if !named.iter().any(|named| named.eq_ignore_ascii_case(&registry)) {
        return Err(RegistryError::NotNamed { registry });
    }
    let connections = Connections { registry };
    let mut pull = Pull { store, wanted, login: Login(login), connections, authorization: None };
    pull.image(say).await
}

struct Pull<'a> {
    store: &'a ImageStore,
    wanted: &'a ImageReference,
    login: Login<'a>,
    connections: Connections,
    /// What the registry wanted to be shown.
    authorization: Option<HeaderValue>,
}

impl Pull<'_> {
    async fn image(&mut self, say: &(dyn Fn(String) + Send + Sync)) -> Result<Digest, RegistryError> {
        let mut digest = self.wanted.digest().cloned();
        for _ in 0..DEEPEST_INDEX {
            let (bytes, is_index, found) = self.manifest(digest.as_ref()).await?;
            if is_index {
                digest = Some(self.chosen(&bytes)?);
                continue;
            }
            let manifest: ImageManifest = self.parsed(&bytes, "a manifest")?;
            self.check(&manifest)?;
            self.blob(manifest.config(), "the configuration").await?;
            let count = manifest.layers().len();
            for (at, layer) in manifest.layers().iter().enumerate() {
                say(format!("layer {} of {count}: {}", at + 1, MemoryBytes(layer.size())));
                self.blob(layer, "a layer").await?;
            }
            return self.unpacked(found).await;
        }
        Err(RegistryError::Unfit {
            reference: self.reference(),
            reason: "its indexes are nested too deeply".to_owned(),
        })
    }

    fn reference(&self) -> String {
        self.wanted.to_string()
    }

    fn malformed(&self, what: &'static str) -> RegistryError {
        RegistryError::Malformed { registry: self.connections.registry.clone(), what }
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, bytes: &[u8], what: &'static str) -> Result<T, RegistryError> {
        serde_json::from_slice(bytes).map_err(|_| self.malformed(what))
    }

    /// The document that the tag, or the digest, names, in the store; and whether it is an index.
    async fn manifest(&mut self, digest: Option<&Digest>) -> Result<(Bytes, bool, Digest), RegistryError> {
        let name = digest.map_or_else(|| self.wanted.tag().to_owned(), ToString::to_string);
        let path = format!("manifests/{name}");
        let answer = self.get(&path, Some(MANIFESTS)).await?;
        let kind =
            answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let bytes = self.connections.read(answer.into_body(), LARGEST_DOCUMENT).await?;
        let limit = MemoryBytes(LARGEST_DOCUMENT as u64);
        let too_large = || RegistryError::TooLarge { reference: self.reference(), what: "the manifest", limit };
        let bytes = bytes.ok_or_else(too_large)?;
        let found = self.keep(bytes.clone(), digest, "the manifest").await?;
        // An index may be sent as a plain manifest by careless servers: what is in it counts as well.
        let shape: serde_json::Value = self.parsed(&bytes, "a manifest")?;
        let is_index = kind.contains("index") || kind.contains("list") || shape.get("manifests").is_some();
        Ok((bytes, is_index, found))
    }

    async fn keep(&self, bytes: Bytes, expected: Option<&Digest>, what: &'static str) -> Result<Digest, RegistryError> {
        let (store, wanted) = (self.store.clone(), expected.cloned());
        let kept = tokio::task::spawn_blocking(move || store.put_blob(&bytes[..], wanted.as_ref(), u64::MAX - 1)).await;
        stored(kept, what).map(|(digest, _)| digest)
    }

    /// The manifest of an index for this machine.
    fn chosen(&self, bytes: &[u8]) -> Result<Digest, RegistryError> {
        let index: ImageIndex = self.parsed(bytes, "an index")?;
        let is_here = |found: &&Descriptor| {
            found
                .platform()
                .as_ref()
                .is_some_and(|platform| *platform.os() == Os::Linux && *platform.architecture() == Arch::default())
        };
        let machine = std::env::consts::ARCH;
        let none = || RegistryError::NoPlatform { reference: self.reference(), machine };
        let found = index.manifests().iter().find(is_here).ok_or_else(none)?;
        Digest::parse(found.digest().to_string()).map_err(|_| self.malformed("a digest"))
    }

    /// What would not be run is not fetched.
    fn check(&self, manifest: &ImageManifest) -> Result<(), RegistryError> {
        let unfit = |reason: String| Err(RegistryError::Unfit { reference: self.reference(), reason });
        if let Some(other) = manifest.layers().iter().find(|layer| !layer.media_type().to_string().contains("tar")) {
            return unfit(format!("its layers are no archives ({})", plain(other.media_type().as_ref())));
        }
        let total = manifest.layers().iter().fold(0_u64, |sum, layer| sum.saturating_add(layer.size()));
        if total > LARGEST_IMAGE.0 {
            return Err(RegistryError::TooLarge {
                reference: self.reference(),
                what: "the whole",
                limit: LARGEST_IMAGE,
            });
        }
        Ok(())
    }

    /// A blob in the store: of exactly this size and digest.
    async fn blob(&mut self, descriptor: &Descriptor, what: &'static str) -> Result<(), RegistryError> {
        let digest = Digest::parse(descriptor.digest().to_string()).map_err(|_| self.malformed("a digest"))?;
        if self.store.has_blob(&digest) {
            return Ok(());
        }
        let answer = self.get(&format!("blobs/{digest}"), None).await?;
        let (store, size) = (self.store.clone(), descriptor.size());
        let (chunks, received) = Received::new();
        let writing = tokio::task::spawn_blocking(move || store.put_blob(received, Some(&digest), size));
        let mut body = answer.into_body();
        let mut broken = None;
        loop {
            let chunk = match timeout(SILENCE, body.frame()).await {
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut)),
                Ok(None) => break,
                Ok(Some(Err(error))) => Err(io::Error::other(error)),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => Ok(bytes),
                    Err(_) => continue,
                },
            };
            let chunk = chunk.map_err(|error| {
                let kind = error.kind();
                broken = Some(error);
                io::Error::from(kind)
            });
            // The writer leaves early where there is more than the manifest says.
            if chunks.send(chunk).await.is_err() || broken.is_some() {
                break;
            }
        }
        drop(chunks);
        let written = stored(writing.await, what);
        if let Some(source) = broken {
            return Err(RegistryError::BrokenOff {
                registry: self.connections.registry.clone(),
                source: source.into(),
            });
        }
        written.map(drop)
    }

    /// Unpacked as well: what is hostile in it is told now, and not at a start.
    async fn unpacked(&self, manifest: Digest) -> Result<Digest, RegistryError> {
        let store = self.store.clone();
        let unpacked = tokio::task::spawn_blocking(move || {
            let image = store.image(&manifest)?;
            store.unpack(&image)?;
            Ok(manifest)
        });
        stored(unpacked.await, "an image")
    }

    /// Asks for a path of the repository, with what the registry wants to be shown.
    async fn get(&mut self, path: &str, accept: Option<&str>) -> Result<Response<Incoming>, RegistryError> {
        let repository = self.wanted.repository();
        let path = format!("/v2/{repository}/{path}");
        let registry = self.connections.registry.clone();
        let answer = self.connections.get(&path, accept, self.authorization.as_ref()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return self.accepted(answer);
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE);
        let challenge = challenges.iter().find_map(|header| Challenge::parse(header.to_str().ok()?));
        let challenge = challenge.ok_or_else(|| self.malformed("a wish for no known login"))?;
        let repository = repository.to_owned();
        let Some(authorization) = self.login.answer(&challenge, &self.connections, &repository).await? else {
            return Err(match self.login.0 {
                None => RegistryError::LoginMissing { registry, repository },
                Some(_) => RegistryError::LoginRefused { registry, repository },
            });
        };
        self.authorization = Some(authorization);
        let answer = self.connections.get(&path, accept, self.authorization.as_ref()).await?;
        self.accepted(answer)
    }

    fn accepted(&self, answer: Response<Incoming>) -> Result<Response<Incoming>, RegistryError> {
        let (registry, repository) = (self.connections.registry.clone(), self.wanted.repository().to_owned());
        match answer.status() {
            status if status.is_success() => Ok(answer),
            StatusCode::NOT_FOUND => Err(RegistryError::NoImage { reference: self.reference() }),
            // Docker Hub says so of what does not exist, too.
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(match self.login.0 {
                None => RegistryError::LoginMissing { registry, repository },
                Some(_) => RegistryError::LoginRefused { registry, repository },
            }),
            status => Err(RegistryError::Answer { registry, status: status.as_u16() }),
        }
    }
}

fn stored<T>(
    result: Result<Result<T, StoreError>, tokio::task::JoinError>,
    what: &'static str,
) -> Result<T, RegistryError> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(StoreError::WrongDigest { expected, found })) => {
            Err(RegistryError::WrongDigest { what, expected, found })
        }
        Ok(Err(error)) => Err(error.into()),
        Err(error) => Err(StoreError::Source(io::Error::other(error)).into()),
    }
}

/// Somebody else's word, for a message.
fn plain(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_graphic()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_the_hosts_own() {
        for own in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.9.9.9", "[::1]:5000"] {
            assert!(is_own(own), "{own}");
        }
        for other in ["docker.io", "localhost.example", "10.0.0.1:5000", "[fe80::1]:5000", "127.0.0.1.example"] {
            assert!(!is_own(other), "{other}");
        }
    }
}
