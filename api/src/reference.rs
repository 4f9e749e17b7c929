//! References to images in registries, as `docker pull` takes them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Digest;

/// The registry of names without one, by its address and by the name in references.
const DEFAULT: (&str, &str) = ("registry-1.docker.io", "docker.io");
/// The tag of references with neither tag nor digest.
const LATEST: &str = "latest";
/// The longest reference.
const LONGEST: usize = 512;

/// `HOST[:PORT]/REPOSITORY[:TAG][@DIGEST]`, checked. A name without a host is Docker Hub's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no image: {rule}")]
pub struct ReferenceError {
    text: String,
    rule: &'static str,
}

impl ImageReference {
    /// Checks a reference.
    ///
    /// # Errors
    /// Names the part that is wrong.
    pub fn parse(text: impl Into<String>) -> Result<Self, ReferenceError> {
        let text = text.into();
        let wrong = |rule| ReferenceError { text: text.chars().take(120).collect(), rule };
        if text.len() > LONGEST {
            return Err(wrong("it is too long"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest).map_err(|_| wrong("write its digest as sha256: and 64 digits"))?;
                (rest, Some(digest))
            }
            None => (text.as_str(), None),
        };
        let (registry, rest) = match rest.split_once('/') {
            Some((host, rest)) if host.contains(['.', ':']) || host == "localhost" => (host, rest),
            _ => (DEFAULT.1, rest),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_registry(registry) {
            return Err(wrong("its registry must be a host name or address, with or without a port"));
        }
        if !path.split('/').all(is_component) {
            return Err(wrong("its name must be words of a-z, 0-9, and single . _ or - between them"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(wrong("its tag must be at most 128 letters, digits, _ . or -"));
        }
        let is_official = registry == DEFAULT.1 && !path.contains('/');
        let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
        // Written out, so that a reference is the same however it was written.
        let tag = tag.or_else(|| digest.is_none().then_some(LATEST)).map(str::to_owned);
        let registry = registry.to_ascii_lowercase();
        Ok(Self { registry, repository, tag, digest })
    }

    /// The registry as it is written, with its port: what a login is for.
    #[must_use]
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Where the registry answers, with the port if one was written.
    #[must_use]
    pub fn address(&self) -> &str {
        if self.registry == DEFAULT.1 { DEFAULT.0 } else { &self.registry }
    }

    /// The name in the registry.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `latest` if there is neither tag nor digest.
    #[must_use]
    pub fn tag(&self) -> &str {
        self.tag.as_deref().unwrap_or(LATEST)
    }

    /// What it must hash to.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl TryFrom<String> for ImageReference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> Self {
        reference.to_string()
    }
}

/// Whether this names a registry: `HOST`, `HOST:PORT`, `[ADDRESS]:PORT`.
#[must_use]
pub fn is_registry(text: &str) -> bool {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_ended = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return is_ended && address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    port.is_none_or(is_port) && host.len() <= 253 && host.split('.').all(is_label)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, as the distribution specification has it.
fn is_component(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators: Vec<&str> = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).collect();
    let is_separator = |text: &&str| matches!(*text, "" | "." | "_" | "__") || text.bytes().all(|b| b == b'-');
    text.bytes().next().is_some_and(is_word)
        && text.bytes().last().is_some_and(is_word)
        && separators.iter().all(is_separator)
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !text.starts_with(['.', '-'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed_as_everybody_does() {
        let digest = "sha256:".to_owned() + &"a".repeat(64);
        for (text, whole, address) in [
            ("nginx", "docker.io/library/nginx:latest", "registry-1.docker.io"),
            ("nginx:1.27-alpine", "docker.io/library/nginx:1.27-alpine", "registry-1.docker.io"),
            ("me/app", "docker.io/me/app:latest", "registry-1.docker.io"),
            ("ghcr.io/me/app:v1", "ghcr.io/me/app:v1", "ghcr.io"),
            ("localhost:5000/a__b/c", "localhost:5000/a__b/c:latest", "localhost:5000"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000"),
        ] {
            let parsed = ImageReference::parse(text).expect(text);
            assert_eq!((parsed.to_string().as_str(), parsed.address()), (whole, address));
            let again = ImageReference::parse(whole).map(|again| again.to_string());
            assert_eq!(again.as_deref(), Ok(whole));
        }
        let pinned = ImageReference::parse(format!("a.example/b@{digest}")).expect("by digest");
        assert_eq!(pinned.to_string(), format!("a.example/b@{digest}"));
        assert_eq!(pinned.digest().map(Digest::as_str), Some(digest.as_str()));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(600);
        let wrong = [
            "",
            "/",
            "App",
            "a//b",
            "a/../b",
            "host.example:0/a",
            "host.example:x/a",
            "a:b:c",
            "a:",
            "a@sha256:12",
            "-a",
            "a b",
            "a_-b",
            "https://a.example/b",
            "[::1/app",
            "a.example/",
            "-.example/a",
            long.as_str(),
        ];
        for text in wrong {
            assert!(ImageReference::parse(text).is_err(), "{text:?} was taken");
        }
    }
}
