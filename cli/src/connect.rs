//! Finds the controller: a named socket, the environment, the saved login, the local socket.

use std::path::{Path, PathBuf};

use drowse_api::client::Client;
use drowse_api::{ErrorCode, Problem};

use crate::failure::Failure;
use crate::login_file;
use crate::server_url::ServerUrl;

/// Where the controller of an installed system listens.
pub const DEFAULT_SOCKET: &str = "/run/drowse-controller/controller.sock";

/// The controller, and how it was found.
#[derive(Debug)]
pub struct Controller {
    /// To call it.
    pub client: Client,
    found: Found,
}

#[derive(Debug)]
enum Found {
    Socket(PathBuf),
    Environment,
    SavedLogin(PathBuf),
}

impl Controller {
    /// The first of: `socket` (`--socket`, `DROWSE_SOCKET`), `DROWSE_URL` with `DROWSE_TOKEN`, the
    /// saved login, the socket of an installed system. Connects to nothing yet.
    ///
    /// # Errors
    /// When an address, a token or the saved login is not usable.
    pub fn find(socket: Option<&Path>) -> Result<Self, Problem> {
        if let Some(path) = socket {
            return Ok(Self { client: Client::unix(path), found: Found::Socket(path.to_owned()) });
        }
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(url) = variable("DROWSE_URL") {
            let url = ServerUrl::parse(&url)?;
            let token = variable("DROWSE_TOKEN").ok_or_else(|| {
                Problem::new(ErrorCode::Unauthenticated, "DROWSE_URL is set and DROWSE_TOKEN is not")
                    .hint("set DROWSE_TOKEN to what `drowse token create` printed")
            })?;
            return Ok(Self { client: url.client(token), found: Found::Environment });
        }
        if let Some(path) = login_file::path()
            && let Some(login) = login_file::load(&path)?
        {
            let url = ServerUrl::parse(&login.url)?;
            return Ok(Self { client: url.client(login.token), found: Found::SavedLogin(path) });
        }
        Ok(Self { client: Client::unix(DEFAULT_SOCKET), found: Found::Socket(DEFAULT_SOCKET.into()) })
    }

    /// Adds what to do to a problem that comes from the way to the controller.
    pub fn explain(&self, failure: Failure) -> Failure {
        let Failure::Problem(mut problem) = failure else { return failure };
        if problem.hint.is_none() {
            // A node that the controller cannot reach has the same code and is another matter.
            let is_controller = problem.detail.contains(&self.client.target());
            problem.hint = match problem.code {
                ErrorCode::Unavailable if is_controller => Some(self.hint_when_unreachable()),
                ErrorCode::Unavailable => Some("drowse doctor".to_owned()),
                ErrorCode::Unauthenticated => Some(self.hint_when_unknown()),
                _ => None,
            };
        }
        Failure::Problem(problem)
    }

    fn hint_when_unreachable(&self) -> String {
        match &self.found {
            Found::Socket(path) => match std::os::unix::net::UnixStream::connect(path) {
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    "sudo drowse …, or drowse login with a token".to_owned()
                }
                _ => "scripts/demo starts a platform; on an installed host: systemctl status drowse-controller; \
                      for a distant one: drowse login --url URL"
                    .to_owned(),
            },
            Found::Environment => "see whether DROWSE_URL is right and its ssh tunnel is up".to_owned(),
            Found::SavedLogin(path) => format!(
                "see whether the ssh tunnel is up; the address comes from {}, and drowse logout forgets it",
                path.display()
            ),
        }
    }

    fn hint_when_unknown(&self) -> String {
        match &self.found {
            Found::Socket(_) => "use root or the admin group on this socket, or drowse login with a token".to_owned(),
            Found::Environment => {
                "see whether DROWSE_TOKEN is right, or make a new one: drowse token create".to_owned()
            }
            Found::SavedLogin(_) => "make a new token (drowse token create) and drowse login again".to_owned(),
        }
    }
}
