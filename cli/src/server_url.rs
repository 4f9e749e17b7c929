//! The address of a controller that is reached by HTTP with a token.
//!
//! Without TLS a token must not leave the machine, so only loopback addresses are taken; `ssh -L`
//! brings a distant controller to loopback.

use std::net::IpAddr;

use drowse_api::Problem;
use drowse_api::client::Client;
use http::Uri;

use crate::failure::bad_request;

/// `http://HOST[:PORT]` with a host on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerUrl {
    text: String,
    authority: String,
    host: String,
}

impl ServerUrl {
    /// Checks an address such as `http://api.drowse.localhost:8080`.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let example = "write it like http://api.drowse.localhost:8080";
        let uri: Uri =
            with_scheme.parse().map_err(|_| bad_request(format!("{text:?} is not an address")).hint(example))?;
        let Some(authority) = uri.authority() else {
            return Err(bad_request(format!("{text:?} has no host")).hint(example));
        };
        if uri.scheme_str() != Some("http") {
            return Err(bad_request(format!("{text:?}: only http:// is supported, over loopback"))
                .hint(ssh_hint(authority.host())));
        }
        if uri.path() != "/" || uri.query().is_some() || authority.as_str().contains('@') {
            return Err(bad_request(format!("{text:?} has more than host and port")).hint(example));
        }
        let (name, port) = (authority.host(), authority.port_u16().unwrap_or(80));
        let Some(address) = loopback(name) else {
            let detail = format!("{name} is another machine, and a token must not travel there without TLS");
            return Err(bad_request(detail).hint(ssh_hint(name)));
        };
        Ok(Self {
            text: format!("http://{}", authority.as_str()),
            authority: std::net::SocketAddr::new(address, port).to_string(),
            host: authority.as_str().to_owned(),
        })
    }

    /// A client with this token.
    pub fn client(&self, token: String) -> Client {
        Client::tcp(&self.authority, &self.host, Some(token))
    }

    /// As it is shown and saved.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn loopback(host: &str) -> Option<IpAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => address.is_loopback().then_some(address),
        // RFC 6761, section 6.3: these names are always loopback.
        Err(_) if bare == "localhost" || bare.ends_with(".localhost") => Some(IpAddr::from([127, 0, 0, 1])),
        Err(_) => None,
    }
}

fn ssh_hint(host: &str) -> String {
    format!("ssh -N -L 9480:127.0.0.1:9480 {host}, and then http://localhost:9480 as the address")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_are_taken_and_keep_their_host() {
        let url = ServerUrl::parse("http://api.drowse.localhost:8080/").expect("taken");
        assert_eq!((url.authority.as_str(), url.host.as_str()), ("127.0.0.1:8080", "api.drowse.localhost:8080"));
        assert_eq!(ServerUrl::parse("localhost:9480").expect("taken").as_str(), "http://localhost:9480");
        assert_eq!(ServerUrl::parse("http://[::1]:9480").expect("taken").authority, "[::1]:9480");
        assert_eq!(ServerUrl::parse("http://127.0.0.1").expect("taken").authority, "127.0.0.1:80");
    }

    #[test]
    fn a_token_never_travels_in_the_clear() {
        let refused = ServerUrl::parse("http://drowse.example.org").expect_err("refused");
        assert!(refused.hint.expect("a hint").contains("ssh -N -L 9480:127.0.0.1:9480 drowse.example.org"));
        for bad in [
            "http://10.0.0.1",
            "http://localhost.example.org",
            "https://localhost",
            "http://u:p@localhost",
            "http://localhost/x",
            "http://",
            "",
        ] {
            assert!(ServerUrl::parse(bad).is_err(), "{bad}");
        }
    }
}
