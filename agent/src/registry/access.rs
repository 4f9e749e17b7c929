//! Who asks: what a registry wants to be shown before it gives anything, by its `WWW-Authenticate` (RFC 9110,
//! and the token scheme of the distribution project).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Uri;
use http::header::HeaderValue;
use serde::Deserialize;

use super::RegistryError;
use super::connection::Connections;

/// The largest answer of a token server.
const LARGEST_TOKEN: usize = 64 << 10;

/// What a registry asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password.
    Basic,
    /// A token, which this server gives.
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The credentials for one registry, as `NAME:PASSWORD`.
#[derive(Clone, Copy)]
pub(super) struct Login<'a>(pub(super) Option<&'a str>);

impl Login<'_> {
    /// The header that answers a challenge; none if a login is wanted that there is not.
    pub(super) async fn answer(
        self,
        challenge: &Challenge,
        connections: &Connections,
        repository: &str,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let malformed = |what| RegistryError::Malformed { registry: connections.registry.clone(), what };
        let Challenge::Bearer { realm, service } = challenge else { return Ok(self.basic()) };
        let mut query = format!("scope=repository:{repository}:pull");
        if let Some(service) = service {
            query.push_str(&format!("&service={}", encoded(service)));
        }
        let separator = if realm.contains('?') { '&' } else { '?' };
        let uri = format!("{realm}{separator}{query}").parse::<Uri>().ok();
        let path =
            uri.and_then(|uri| connections.own_path(&uri)).ok_or_else(|| malformed("a token server elsewhere"))?;
        let answer = connections.get(&path, None, self.basic().as_ref()).await?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let body = connections.read(answer.into_body(), LARGEST_TOKEN).await?.ok_or_else(|| malformed("a token"))?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| malformed("a token"))?;
        let token = token.token.or(token.access_token).ok_or_else(|| malformed("a token"))?;
        Ok(Some(hidden(&format!("Bearer {token}")).ok_or_else(|| malformed("a token"))?))
    }

    fn basic(self) -> Option<HeaderValue> {
        hidden(&format!("Basic {}", STANDARD.encode(self.0?)))
    }
}

/// A value that no log shows.
fn hidden(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// As part of a query.
fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b':' | b'/');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

impl Challenge {
    /// Reads the header.
    pub(super) fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let value = |wanted: &str| parameters(rest).find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, v)| v);
        Some(Self::Bearer { realm: value("realm")?, service: value("service") })
    }
}

/// `name="value"` with commas between, quotes optional; a comma inside quotes is part of the value.
fn parameters(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', ',']);
        let (name, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        rest = after;
        Some((name.trim().to_owned(), value.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let hub =
            r#"Bearer realm="https://auth.example/token",service="registry.example",scope="repository:a/b:pull,push""#;
        assert_eq!(Challenge::parse(hub), bearer("https://auth.example/token", Some("registry.example")));
        assert_eq!(
            Challenge::parse(r#"bearer service=x, realm="https://a/t?x=1""#),
            bearer("https://a/t?x=1", Some("x"))
        );
        assert_eq!(Challenge::parse(r#"Basic realm="here""#), Some(Challenge::Basic));
        for wrong in ["", "Digest realm=\"x\"", "Bearer service=\"x\"", "Bearer realm=\"x"] {
            assert_eq!(Challenge::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_login_shows_itself_to_no_log() {
        let header = Login(Some("me:planted")).basic().expect("a header");
        assert!(!format!("{header:?}").contains(&STANDARD.encode("me:planted")), "{header:?}");
    }
}
