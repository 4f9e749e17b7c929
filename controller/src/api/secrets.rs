//! The secrets of an app: set, removed and listed by name. No call answers with a value.

use std::collections::BTreeMap;

use axum::Json as Answered;
use axum::extract::{Path, State};
use drowse_api::platform::{SecretView, SecretsPatch};
use drowse_api::secrets::MAX_SECRET;
use drowse_api::{ErrorCode, Problem, variable};
use drowse_seal::Sealed;
use jiff::Timestamp;

use super::Api;
use super::access::Caller;
use super::answer::{Answer, SecretJson, bad_request};
use super::apps::{MAX_ENV, of_variable, refuse_during_a_rollback, renewed, told};
use crate::desired::{Desired, Step};
use crate::model::{App, Cause, Secret};

pub(super) async fn list(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Answer<Answered<Vec<SecretView>>> {
    let desired = api.ledger.desired();
    Ok(Answered(views(&caller.app(&desired, &name)?.secrets)))
}

fn views(secrets: &BTreeMap<String, Secret>) -> Vec<SecretView> {
    secrets.iter().map(|(name, secret)| SecretView { name: name.clone(), set: secret.set }).collect()
}

pub(super) async fn change(
    caller: Caller,
    State(api): State<Api>,
    Path(name): Path<String>,
    SecretJson(patch): SecretJson<SecretsPatch>,
) -> Answer<Answered<Vec<SecretView>>> {
    check(&patch)?;
    let app = caller.app(&api.ledger.desired(), &name)?.name.clone();
    let seal = |(name, value): (&str, &str)| Ok((name.to_owned(), api.vault.seal(&app, name, value)?));
    let sealed: BTreeMap<String, Sealed> = patch.set.reveal().map(seal).collect::<Result<_, Problem>>()?;
    let now = Timestamp::now();
    let secrets = api.ledger.update(|desired| {
        let app = caller.app(desired, &name)?;
        let secrets = patched(app, &sealed, &patch.unset, now)?;
        if sealed.is_empty() && secrets == app.secrets {
            return Ok((Step::default(), secrets));
        }
        let step = with_secrets(desired, app, secrets.clone(), now)?;
        let names: Vec<_> = sealed.keys().chain(&patch.unset).map(String::as_str).collect();
        Ok((told(step, app, &caller, &format!("secrets changed ({})", names.join(", "))), secrets))
    });
    Ok(Answered(views(&secrets.await?)))
}

fn check(patch: &SecretsPatch) -> Result<(), Problem> {
    for (name, value) in patch.set.reveal() {
        variable::check(name, value).map_err(of_variable)?;
        if value.is_empty() {
            return Err(bad_request(format!("the value of {name} is empty")).hint("`drowse secret unset` removes one"));
        }
        if value.len() > MAX_SECRET {
            let detail = format!("the value of {name} has {} bytes; the limit is {MAX_SECRET}", value.len());
            return Err(Problem::new(ErrorCode::TooLarge, detail));
        }
    }
    Ok(())
}

fn patched(
    app: &App,
    sealed: &BTreeMap<String, Sealed>,
    unset: &[String],
    now: Timestamp,
) -> Result<BTreeMap<String, Secret>, Problem> {
    if let Some(name) = sealed.keys().find(|name| app.env.contains_key(*name)) {
        let detail = format!("{name} is a variable of {}, whose value can be read", app.name);
        return Err(Problem::new(ErrorCode::Conflict, detail).hint(format!("drowse env unset {} {name}", app.name)));
    }
    let mut secrets = app.secrets.clone();
    unset.iter().for_each(|name| drop(secrets.remove(name)));
    secrets.extend(sealed.iter().map(|(name, sealed)| (name.clone(), Secret { sealed: sealed.clone(), set: now })));
    let size: usize = secrets.iter().map(|(name, secret)| name.len() + secret.sealed.size()).sum();
    if size > MAX_ENV {
        let detail = format!("the secrets would have {size} bytes when sealed; the limit is {MAX_ENV}");
        return Err(Problem::new(ErrorCode::TooLarge, detail));
    }
    Ok(secrets)
}

/// The step that gives an app these secrets, and new instances where it runs.
pub(crate) fn with_secrets(
    desired: &Desired,
    app: &App,
    secrets: BTreeMap<String, Secret>,
    now: Timestamp,
) -> Result<Step, Problem> {
    refuse_during_a_rollback(app)?;
    renewed(desired, App { secrets, ..app.clone() }, Cause::Secrets, now)
}
