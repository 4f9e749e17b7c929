//! The caller's tokens.

use axum::Json as Answered;
use axum::extract::{Path, State};
use drowse_api::platform::{TokenCreated, TokenRequest, TokenView};
use drowse_api::{ErrorCode, Problem};
use http::StatusCode;
use jiff::Timestamp;

use super::access::Caller;
use super::answer::{Answer, Json};
use super::{Api, views};
use crate::desired::{Step, removal};

pub(super) async fn list(caller: Caller, State(api): State<Api>) -> Answered<Vec<TokenView>> {
    let desired = api.ledger.desired();
    let mut own: Vec<_> =
        desired.tokens.iter().filter(|token| token.user == caller.user).map(|token| views::token(token)).collect();
    own.sort_by_key(|token| token.created);
    Answered(own)
}

pub(super) async fn create(
    caller: Caller,
    State(api): State<Api>,
    Json(request): Json<TokenRequest>,
) -> Answer<(StatusCode, Answered<TokenCreated>)> {
    let (token, secret) = crate::tokens::create(&caller.user, request, Timestamp::now())?;
    let view = views::token(&token);
    api.ledger.update(|_| Ok((Step::new(token.clone()), ()))).await?;
    Ok((StatusCode::CREATED, Answered(TokenCreated { token: view, secret })))
}

pub(super) async fn revoke(
    caller: Caller,
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Answer<Answered<TokenView>> {
    let view = api.ledger.update(|desired| {
        let token = desired.tokens.get(&id).filter(|token| token.user == caller.user);
        let token = token.ok_or_else(|| {
            Problem::new(ErrorCode::NotFound, "there is no such token").hint("`drowse token ls` shows yours")
        })?;
        Ok((Step::new(removal(token.as_ref())), views::token(token)))
    });
    Ok(Answered(view.await?))
}
