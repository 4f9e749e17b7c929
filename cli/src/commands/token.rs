//! `drowse token`: access tokens.

use drowse_api::client::Client;
use drowse_api::platform::{TokenCreated, TokenRequest, TokenView};
use http::Method;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use serde_json::json;

use crate::args::Token;
use crate::failure::{Failure, bad_request};
use crate::show;
use crate::terminal::{Format, Terminal};

/// Makes, lists or removes tokens.
pub async fn run(args: Token, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    match args {
        Token::Create { label, expires } => create(label, expires, client, terminal).await,
        Token::Ls => list(client, terminal).await,
        Token::Rm { id } => {
            let _: serde_json::Value = client.call(Method::DELETE, &format!("/v1/tokens/{id}"), None::<&()>).await?;
            match terminal.format() {
                Format::Json => terminal.json(&json!({ "removed": id })),
                Format::Human => terminal.line(&format!("{id} is removed")),
            }
        }
    }
}

async fn create(label: String, expires: Option<Span>, client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let expires = expires.map(from_now).transpose()?;
    let request = TokenRequest { label, expires };
    let made: TokenCreated = client.call(Method::POST, "/v1/tokens", Some(&request)).await?;
    if terminal.format() == Format::Json {
        return terminal.json(&made);
    }
    // The secret alone on standard output, so that it can be piped to where it is needed.
    terminal.line(&made.secret)?;
    let until = made.token.expires.map(|at| format!(", valid until {}", show::date(at))).unwrap_or_default();
    terminal.note(&format!("Token {}{until}. It is shown this once.", made.token.id));
    terminal.note("Use it with: drowse login --url URL --token-stdin");
    Ok(())
}

async fn list(client: &Client, terminal: &Terminal) -> Result<(), Failure> {
    let tokens: Vec<TokenView> = client.get("/v1/tokens").await?;
    if terminal.format() == Format::Json {
        return terminal.json(&tokens);
    }
    if tokens.is_empty() {
        terminal.note("No tokens. Make one: drowse token create LABEL");
        return Ok(());
    }
    let rows: Vec<_> = tokens
        .iter()
        .map(|token| {
            let expires = token.expires.map_or_else(|| "never".to_owned(), show::exactly);
            vec![token.id.to_string(), token.label.clone(), show::moment(token.created, terminal), expires]
        })
        .collect();
    terminal.table(&["TOKEN", "LABEL", "CREATED", "EXPIRES"], &rows)
}

fn from_now(span: Span) -> Result<Timestamp, Failure> {
    let now = Timestamp::now();
    let until = now.to_zoned(TimeZone::UTC).checked_add(span).map(|at| at.timestamp());
    match until {
        Ok(until) if until > now => Ok(until),
        _ => Err(bad_request("a token must be valid for some time").hint("--expires 30d").into()),
    }
}
