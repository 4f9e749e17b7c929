//! Connections to a registry on the host's loopback: one for each request, to it and to nowhere else.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HOST, HeaderValue, LOCATION, USER_AGENT};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::RegistryError;

/// How long connecting may take, and how long the head of an answer.
const CONNECT: Duration = Duration::from_secs(15);
const HEAD: Duration = Duration::from_secs(60);
/// How long a body may stand still.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// How often a registry may send elsewhere.
const MOST_REDIRECTS: usize = 5;

/// The registry of one image.
pub(super) struct Connections {
    /// As it is written: `HOST:PORT`.
    pub(super) registry: String,
}

impl Connections {
    /// Asks for a path and query, wherever in itself the registry sends.
    pub(super) async fn get(
        &self,
        path: &str,
        accept: Option<&str>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let malformed = |what| RegistryError::Malformed { registry: self.registry.clone(), what };
        let mut path = path.to_owned();
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.ask(&path, accept, authorization).await?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok()?.parse().ok());
            path = to.and_then(|to| self.own_path(&to)).ok_or_else(|| malformed("a redirection to elsewhere"))?;
        }
        Err(malformed("redirections without end"))
    }

    /// Path and query of an address, if it is one of this registry.
    pub(super) fn own_path(&self, uri: &Uri) -> Option<String> {
        let is_own = match (uri.scheme_str(), uri.authority()) {
            (None, None) => true,
            (Some("http"), Some(authority)) => authority.as_str().eq_ignore_ascii_case(&self.registry),
            _ => false,
        };
        uri.path_and_query().filter(|_| is_own).map(ToString::to_string)
    }

    async fn ask(
        &self,
        path: &str,
        accept: Option<&str>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let stream = self.connect().await?;
        let broken = |source| RegistryError::BrokenOff { registry: self.registry.clone(), source };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.into()))?;
        // Ends with its request: when the answer's body has been read or dropped.
        tokio::spawn(connection);
        let mut request = Request::get(path).header(HOST, &self.registry).header(USER_AGENT, "drowse");
        if let Some(accept) = accept {
            request = request.header(ACCEPT, accept);
        }
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(error.into()))?;
        match timeout(HEAD, sender.send_request(request)).await {
            Ok(answer) => answer.map_err(|error| broken(error.into())),
            Err(_) => Err(broken(io::Error::from(io::ErrorKind::TimedOut).into())),
        }
    }

    async fn connect(&self) -> Result<TcpStream, RegistryError> {
        let unreachable = |source| RegistryError::Unreachable { registry: self.registry.clone(), source };
        let late = || unreachable(io::ErrorKind::TimedOut.into());
        let has_port = self.registry.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { self.registry.clone() } else { format!("{}:80", self.registry) };
        let looked_up = timeout(CONNECT, tokio::net::lookup_host(address)).await.map_err(|_| late())?;
        let addresses: Vec<SocketAddr> = looked_up.map_err(unreachable)?.collect();
        if let Some(outside) = addresses.iter().find(|address| !address.ip().is_loopback()) {
            return Err(RegistryError::Plain { registry: self.registry.clone(), address: outside.ip() });
        }
        timeout(CONNECT, TcpStream::connect(&addresses[..])).await.map_err(|_| late())?.map_err(unreachable)
    }

    /// The whole of a small body; none if it is larger.
    pub(super) async fn read(&self, body: Incoming, limit: usize) -> Result<Option<Bytes>, RegistryError> {
        let broken = |source| RegistryError::BrokenOff { registry: self.registry.clone(), source };
        match timeout(SILENCE, Limited::new(body, limit).collect()).await {
            Ok(Ok(whole)) => Ok(Some(whole.to_bytes())),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => Ok(None),
            Ok(Err(error)) => Err(broken(error)),
            Err(_) => Err(broken(io::Error::from(io::ErrorKind::TimedOut).into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_elsewhere_is_not_followed() {
        let connections = Connections { registry: "localhost:5000".to_owned() };
        let own = |text: &str| connections.own_path(&text.parse().expect("an address"));
        assert_eq!(own("/v2/a?x=1").as_deref(), Some("/v2/a?x=1"));
        assert_eq!(own("http://LOCALHOST:5000/v2/b").as_deref(), Some("/v2/b"));
        for elsewhere in ["http://localhost/v2/", "https://localhost:5000/", "http://169.254.169.254/x"] {
            assert_eq!(own(elsewhere), None, "{elsewhere}");
        }
    }
}
