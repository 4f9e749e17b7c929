//! Who calls, and what they may.
//!
//! By the Unix socket, which root and the members of its group can open: root, this program's own
//! user and members of the admin group, if there is one, may do everything, the router's user may
//! follow routes, others need a token. By TCP: only a token.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequestParts};
use drowse_api::{ErrorCode, Problem, UserId};
use http::header;
use http::request::Parts;
use jiff::Timestamp;
use tokio::time::Instant;

use super::Api;
use super::answer::{Answer, Refusal};
use crate::desired::Desired;
use crate::model::{App, User};
use crate::peer::Peer;
use crate::tokens;

/// Wrong tokens that are answered as such in one window; further ones are only told to wait.
const ATTEMPTS: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

/// Counts wrong tokens over all callers: they all come from this host, and a right token is never
/// refused because of them.
#[derive(Debug, Default)]
pub struct Attempts(
    // Held for a comparison, never across an await.
    Mutex<Option<(Instant, u32)>>,
);

impl Attempts {
    /// Counts one more; whether that is too many.
    fn is_too_many(&self, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (start, count) = window.filter(|(start, _)| now.duration_since(*start) < WINDOW).unwrap_or((now, 0));
        *window = Some((start, count.saturating_add(1)));
        count >= ATTEMPTS
    }
}

/// Someone who may use the API.
#[derive(Debug, Clone)]
pub struct Caller {
    /// As whom.
    pub user: UserId,
    /// That user's name.
    pub name: String,
    /// How they were let in.
    pub by: String,
    /// Whether other users' things are theirs too.
    pub is_admin: bool,
}

impl Caller {
    /// Whether they may see and change `app`.
    #[must_use]
    pub fn owns(&self, owner: &UserId) -> bool {
        self.is_admin || self.user == *owner
    }

    /// The app, if it exists and is theirs.
    ///
    /// # Errors
    /// `not-found` for both: whether someone else's app exists is nobody's business.
    pub fn app<'a>(&self, desired: &'a Desired, name: &str) -> Result<&'a App, Problem> {
        let app = desired.apps.get(name).filter(|app| self.owns(&app.owner));
        app.map(AsRef::as_ref).ok_or_else(|| {
            let shown: String = name.chars().take(80).collect();
            Problem::new(ErrorCode::NotFound, format!("there is no app {shown:?}")).hint("`drowse ls` shows your apps")
        })
    }
}

/// Whether this peer may do everything. The router's user is let to the socket by its group, which
/// may be the admin group: that gives it no more than its own calls.
fn may_do_everything(peer: &Peer, own_uid: u32, admin_gid: Option<u32>, router_uid: u32) -> bool {
    matches!(peer, Peer::Unix { uid, groups }
        if *uid == 0 || *uid == own_uid || *uid != router_uid && admin_gid.is_some_and(|gid| groups.contains(&gid)))
}

fn is_admin(api: &Api, peer: &Peer) -> bool {
    let own = rustix::process::geteuid().as_raw();
    may_do_everything(peer, own, api.config.admin_gid, api.config.router_uid)
}

fn peer(parts: &Parts) -> Peer {
    parts.extensions.get::<ConnectInfo<Peer>>().map_or(Peer::Unknown, |ConnectInfo(peer)| peer.clone())
}

fn bearer(parts: &Parts) -> Option<&str> {
    let value = parts.headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The user that the first start made.
///
/// # Errors
/// If there is none, which cannot be after the first start.
pub fn first_user(desired: &Desired) -> Result<&User, Problem> {
    let first = desired.users.iter().min_by_key(|user| user.created);
    first.map(AsRef::as_ref).ok_or_else(|| Problem::new(ErrorCode::Internal, "there is no user"))
}

impl FromRequestParts<Api> for Caller {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Answer<Self> {
        let desired = api.ledger.desired();
        let Some(text) = bearer(parts) else {
            if !is_admin(api, &peer(parts)) {
                let problem = Problem::new(ErrorCode::Unauthenticated, "this call needs a token");
                return Err(problem.hint("as root on the host: `drowse token create`; then `drowse login`").into());
            }
            let user = first_user(&desired)?;
            let (user, name) = (user.id.clone(), user.name.clone());
            return Ok(Self { user, name, by: "unix socket".to_owned(), is_admin: true });
        };
        let token = tokens::find(&desired, text, Timestamp::now());
        let user = token.and_then(|token| desired.users.get(token.user.as_str()));
        let (Some(token), Some(user)) = (token, user) else {
            let problem = if api.attempts.is_too_many(Instant::now()) {
                Problem::new(ErrorCode::Exhausted, "too many wrong tokens: wait 10 seconds")
            } else {
                let problem = Problem::new(ErrorCode::Unauthenticated, "the token is unknown, expired or revoked");
                problem.hint("make a new one with `drowse token create`")
            };
            return Err(problem.into());
        };
        Ok(Self { user: user.id.clone(), name: user.name.clone(), by: token.label.clone(), is_admin: false })
    }
}

/// A router of this platform.
#[derive(Debug, Clone, Copy)]
pub struct RouterPeer;

impl FromRequestParts<Api> for RouterPeer {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Answer<Self> {
        let peer = peer(parts);
        if is_admin(api, &peer) || matches!(peer, Peer::Unix { uid, .. } if uid == api.config.router_uid) {
            return Ok(Self);
        }
        let detail = "only the router may do this, by the controller's Unix socket";
        Err(Problem::new(ErrorCode::Forbidden, detail).hint("router_uid in controller.toml names its user").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_ourselves_and_the_admin_group_need_no_token() {
        let may =
            |uid, groups: &[u32]| may_do_everything(&Peer::Unix { uid, groups: groups.to_vec() }, 990, Some(27), 991);
        assert!(may(0, &[]) && may(990, &[990]) && may(1000, &[1000, 27]));
        assert!(!may(1000, &[1000]));
        assert!(!may_do_everything(&Peer::Unix { uid: 1000, groups: vec![0, 27] }, 990, None, 991));
        assert!(!may(991, &[991, 27]), "the router");
        assert!(!may_do_everything(&Peer::Tcp(([127, 0, 0, 1], 1).into()), 990, Some(27), 991));
        assert!(!may_do_everything(&Peer::Unknown, 990, Some(27), 991));
    }

    #[test]
    fn wrong_tokens_are_limited_for_a_while() {
        let (attempts, start) = (Attempts::default(), Instant::now());
        for _ in 0..ATTEMPTS {
            assert!(!attempts.is_too_many(start));
        }
        assert!(attempts.is_too_many(start));
        assert!(!attempts.is_too_many(start + WINDOW));
    }
}
