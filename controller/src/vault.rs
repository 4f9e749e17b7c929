//! The key to the apps' secrets and to the users' logins for registries: outside the store, so that a copy of the
//! database tells none of them.
//!
//! What is secret is sealed when it is set, and opened only in the call that gives it to a node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use drowse_api::secrets::Secrets;
use drowse_api::{AppName, ErrorCode, Problem, UserId};
use drowse_seal::{Key, KeyError, KeyId, Sealed};

use crate::desired::{Desired, Step, removal};
use crate::model::{App, Password, Registry, Release};

/// Why the secrets cannot be used. The controller does not start then: it would run apps without them.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] KeyError),
    /// There is no file, and there are secrets.
    #[error(
        "the key file {path} is missing, and secrets are sealed with key {wanted}: put back the copy of it that was \
         backed up; if there is none, `drowse-controller forget-secrets` removes all secrets and logins for \
         registries, to be set anew"
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// The key.
        wanted: KeyId,
    },
    /// The file holds another key.
    #[error(
        "the key file {path} holds key {found}, and secrets are sealed with key {wanted}: put back the copy of that \
         key that was backed up; if there is none, `drowse-controller forget-secrets` removes all secrets and logins \
         for registries, to be set anew"
    )]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The key in it.
        found: KeyId,
        /// The key that is needed.
        wanted: KeyId,
    },
}

/// The key, or why there is none although nothing needs it yet.
#[derive(Debug, Clone)]
pub struct Vault {
    key: Result<Key, String>,
}

impl Vault {
    /// The key of the file at `path`, which is made if nothing was sealed yet.
    ///
    /// # Errors
    /// If what is sealed cannot be opened with it.
    pub fn open(path: &Path, desired: &Desired) -> Result<Self, VaultError> {
        let wanted: BTreeSet<_> = sealed_values(desired).map(|sealed| &sealed.key).collect();
        match (Key::load(path)?, wanted.first()) {
            (Some(key), _) => match wanted.into_iter().find(|wanted| *wanted != key.id()) {
                None => Ok(Self { key: Ok(key) }),
                Some(wanted) => {
                    let (found, wanted) = (key.id().clone(), wanted.clone());
                    Err(VaultError::Wrong { path: path.to_owned(), found, wanted })
                }
            },
            (None, Some(wanted)) => Err(VaultError::Missing { path: path.to_owned(), wanted: KeyId::clone(wanted) }),
            (None, None) => Ok(Self::make(path)),
        }
    }

    /// Where it cannot be made, only secrets cannot be set.
    fn make(path: &Path) -> Self {
        let key = Key::create(path).map_err(|error| {
            let why = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            let why = format!("{error}{why}");
            tracing::warn!("{why}: secrets cannot be set");
            why
        });
        if let Ok(key) = &key {
            tracing::info!(path = %path.display(), key = %key.id(), "made the key to the secrets: back it up");
        }
        Self { key }
    }

    /// With this key.
    #[must_use]
    pub fn with(key: Key) -> Self {
        Self { key: Ok(key) }
    }

    /// Seals the value of a secret.
    ///
    /// # Errors
    /// `host-unfit` where there is no key.
    pub fn seal(&self, app: &AppName, name: &str, value: &str) -> Result<Sealed, Problem> {
        self.sealed_as(&what(app, name), value)
    }

    /// Seals the password of a login.
    ///
    /// # Errors
    /// `host-unfit` where there is no key.
    pub fn seal_login(&self, user: &UserId, registry: &str, password: &str) -> Result<Sealed, Problem> {
        self.sealed_as(&login(user, registry), password)
    }

    fn sealed_as(&self, what: &str, value: &str) -> Result<Sealed, Problem> {
        let sealed = self.key()?.seal(what, value.as_bytes());
        sealed.map_err(|error| Problem::new(ErrorCode::HostUnfit, format!("the secret cannot be sealed: {error}")))
    }

    /// The password of a login.
    ///
    /// # Errors
    /// `host-unfit` with the registry whose login cannot be read.
    pub fn reveal_login(&self, registry: &Registry) -> Result<String, Problem> {
        let Registry { user, name, username, password, .. } = registry;
        let unreadable = |why: String| {
            let detail = format!("the login for {name} cannot be read: {why}");
            Problem::new(ErrorCode::HostUnfit, detail).hint(format!("drowse registry login {name}"))
        };
        let sealed = match password {
            Password::Sealed(sealed) => sealed,
            Password::Plain(plain) => return Ok(of_user(plain, username).to_owned()),
        };
        let value = self.key()?.open(&login(user, name), sealed).map_err(|error| unreadable(error.to_string()))?;
        String::from_utf8(value).map_err(|_| unreadable("it is no text".to_owned()))
    }

    /// Seals the logins that an older release kept as they are.
    ///
    /// # Errors
    /// `host-unfit` where there is no key.
    pub fn seal_all(&self, desired: &Desired) -> Result<Vec<Step>, Problem> {
        let sealed = desired.registries.iter().filter_map(|registry| {
            let Password::Plain(plain) = &registry.password else { return None };
            let password = of_user(plain, &registry.username);
            let sealed = self.seal_login(&registry.user, &registry.name, password);
            let with = |sealed| Registry { password: Password::Sealed(sealed), ..Registry::clone(registry) };
            Some(sealed.map(|sealed| Step::new(with(sealed))))
        });
        sealed.collect()
    }

    /// The values of an app's secrets.
    ///
    /// # Errors
    /// `host-unfit` with the name of the one that cannot be read.
    pub fn reveal(&self, app: &AppName, sealed: &BTreeMap<String, Sealed>) -> Result<Secrets, Problem> {
        let open = |(name, sealed): (&String, &Sealed)| {
            let unreadable = |why: String| {
                let detail = format!("secret {name} of {app} cannot be read: {why}");
                Problem::new(ErrorCode::HostUnfit, detail).hint("set it again")
            };
            let value = self.key()?.open(&what(app, name), sealed).map_err(|error| unreadable(error.to_string()))?;
            let value = String::from_utf8(value).map_err(|_| unreadable("it is no text".to_owned()))?;
            Ok((name.clone(), value))
        };
        sealed.iter().map(open).collect()
    }

    fn key(&self) -> Result<&Key, Problem> {
        self.key.as_ref().map_err(|why| {
            let problem = Problem::new(ErrorCode::HostUnfit, format!("there is no key to seal secrets with: {why}"));
            problem.hint("the operator names a place for it: secrets_key in controller.toml")
        })
    }
}

/// What a value is sealed as: a record that was moved to another app or name does not open there.
fn what(app: &AppName, name: &str) -> String {
    format!("secret {name} of {app}")
}

/// The same of the password of a login.
fn login(user: &UserId, registry: &str) -> String {
    format!("login of {user} for {registry}")
}

fn of_user<'a>(plain: &'a Secrets, username: &str) -> &'a str {
    plain.reveal().find(|(name, _)| *name == username).map(|(_, password)| password).unwrap_or_default()
}

fn sealed_values(desired: &Desired) -> impl Iterator<Item = &Sealed> {
    let of_apps = desired.apps.iter().flat_map(|app| {
        let of_releases = app.live.iter().chain(&app.pending).flat_map(|release| release.secrets.values());
        app.secrets.values().map(|secret| &secret.sealed).chain(of_releases)
    });
    let of_logins = desired.registries.iter().filter_map(|registry| match &registry.password {
        Password::Sealed(sealed) => Some(sealed),
        Password::Plain(_) => None,
    });
    of_apps.chain(of_logins)
}

/// The steps that remove the logins of all users.
pub fn without_logins(desired: &Desired) -> impl Iterator<Item = Step> + '_ {
    desired.registries.iter().map(|registry| Step::new(removal(registry.as_ref())))
}

/// The app without its secrets, if it has any.
#[must_use]
pub fn without_secrets(app: &App) -> Option<App> {
    let bare =
        |release: &Option<Release>| release.clone().map(|release| Release { secrets: BTreeMap::new(), ..release });
    let without = App { secrets: BTreeMap::new(), live: bare(&app.live), pending: bare(&app.pending), ..app.clone() };
    (without != *app).then_some(without)
}
