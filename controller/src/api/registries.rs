//! The caller's logins for registries: written, listed without their passwords, removed.

use axum::Json as Answered;
use axum::extract::{Path, State};
use drowse_api::platform::{RegistryLogin, RegistryView};
use drowse_api::reference::is_registry;
use drowse_api::secrets::MAX_SECRET;
use drowse_api::{ErrorCode, Problem};
use jiff::Timestamp;

use super::Api;
use super::access::Caller;
use super::answer::{Answer, SecretJson};
use crate::desired::{Desired, Step, removal};
use crate::model::{Password, Registry};
use crate::vault::Vault;

/// The most logins of one user.
const MOST: usize = 50;
const LONGEST_NAME: usize = 200;

pub(super) async fn list(caller: Caller, State(api): State<Api>) -> Answered<Vec<RegistryView>> {
    Answered(of(&api.ledger.desired(), &caller).map(view).collect())
}

pub(super) async fn put(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    SecretJson(login): SecretJson<RegistryLogin>,
) -> Answer<Answered<RegistryView>> {
    let registry = record(&api.vault, &caller, &name, login)?;
    let shown = view(&registry);
    let put = |desired: &Desired| {
        if of(desired, &caller).filter(|other| other.name != registry.name).count() >= MOST {
            let problem = Problem::new(ErrorCode::Exhausted, format!("there are {MOST} logins already"));
            return Err(problem.hint("drowse registry ls; drowse registry logout HOST"));
        }
        Ok((Step::new(registry.clone()), ()))
    };
    api.ledger.update(put).await?;
    Ok(Answered(shown))
}

pub(super) async fn remove(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<RegistryView>> {
    let removed = api.ledger.update(|desired| {
        let found = of(desired, &caller).find(|registry| registry.name == name.to_ascii_lowercase());
        let found = found.ok_or_else(|| {
            Problem::new(ErrorCode::NotFound, "there is no login for this registry")
                .hint("`drowse registry ls` shows yours")
        })?;
        Ok((Step::new(removal(found)), view(found)))
    });
    Ok(Answered(removed.await?))
}

fn of<'a>(desired: &'a Desired, caller: &'a Caller) -> impl Iterator<Item = &'a Registry> {
    desired.registries.iter().map(AsRef::as_ref).filter(|registry| registry.user == caller.user)
}

fn record(vault: &Vault, caller: &Caller, name: &str, login: RegistryLogin) -> Result<Registry, Problem> {
    let wrong = |what: &str| Problem::new(ErrorCode::BadRequest, what);
    if !is_registry(name) {
        return Err(wrong("a registry is named by its host, with or without a port, as references to images have it"));
    }
    let is_plain = |text: &str| !text.is_empty() && !text.chars().any(char::is_control);
    if !is_plain(&login.username) || login.username.len() > LONGEST_NAME || login.username.contains(':') {
        return Err(wrong("a username has 1 to 200 characters and no colon"));
    }
    let password: Vec<(&str, &str)> = login.password.reveal().collect();
    let [(_, password)] = password[..] else { return Err(wrong("a login has one password")) };
    if !is_plain(password) || password.len() > MAX_SECRET {
        return Err(wrong("a password has 1 to 65536 characters, and none that cannot be seen"));
    }
    let (user, name) = (caller.user.clone(), name.to_ascii_lowercase());
    let password = Password::Sealed(vault.seal_login(&user, &name, password)?);
    Ok(Registry { user, name, username: login.username, password, since: Timestamp::now() })
}

fn view(registry: &Registry) -> RegistryView {
    RegistryView { registry: registry.name.clone(), username: registry.username.clone(), since: registry.since }
}
