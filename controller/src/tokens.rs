//! Access tokens: `drowse_ID_SECRET`. The secret is 256 random bits, shown once; only its SHA-256 is kept.

use drowse_api::platform::TokenRequest;
use drowse_api::{ErrorCode, Problem, TokenId, UserId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::desired::Desired;
use crate::model::Token;

const PREFIX: &str = "drowse_";
const MAX_LABEL: usize = 100;

/// A new token and what its holder is shown.
///
/// # Errors
/// A label that is empty or too long, an end in the past.
pub fn create(user: &UserId, request: TokenRequest, now: Timestamp) -> Result<(Token, String), Problem> {
    let label = request.label.trim().to_owned();
    if label.is_empty() || label.len() > MAX_LABEL || label.chars().any(char::is_control) {
        let detail = "a token needs a label of 1 to 100 characters that says what it is for";
        return Err(Problem::new(ErrorCode::BadRequest, detail));
    }
    if request.expires.is_some_and(|expires| expires <= now) {
        return Err(Problem::new(ErrorCode::BadRequest, "the token would have expired already"));
    }
    let mut secret = [0_u8; 32];
    getrandom::fill(&mut secret)
        .map_err(|error| Problem::new(ErrorCode::Internal, format!("no random bytes: {error}")))?;
    let secret = URL_SAFE_NO_PAD.encode(secret);
    let id = TokenId::generate();
    let shown = format!("{PREFIX}{id}_{secret}");
    let token = Token { id, user: user.clone(), label, hash: hash(&secret), created: now, expires: request.expires };
    Ok((token, shown))
}

/// The token that `text` is, if it is one. Takes the same time for every wrong secret.
#[must_use]
pub fn find<'a>(desired: &'a Desired, text: &str, now: Timestamp) -> Option<&'a Token> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let token = desired.tokens.get(id);
    let unknown = String::new();
    let is_equal = equal(token.map_or(&unknown, |token| &token.hash), &hash(secret));
    token.map(AsRef::as_ref).filter(|token| is_equal && token.expires.is_none_or(|expires| now < expires))
}

fn hash(secret: &str) -> String {
    drowse_api::Digest::from_sha256(Sha256::digest(secret.as_bytes()).into()).hex().to_owned()
}

/// Compares in a time that depends on the lengths only.
fn equal(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Write;
    use drowse_store::Revision;

    fn request(expires: Option<Timestamp>) -> TokenRequest {
        TokenRequest { label: "laptop".to_owned(), expires }
    }

    #[test]
    fn a_token_is_found_by_its_secret_only() {
        let now = Timestamp::UNIX_EPOCH;
        let (token, secret) = create(&UserId::generate(), request(None), now).expect("creates");
        assert!(!serde_json::to_string(&token).expect("json").contains(secret.rsplit('_').next().expect("secret")));
        let mut desired = Desired::default();
        desired.apply(&Write::from(token.clone()), Revision(1));
        assert_eq!(find(&desired, &secret, now), Some(&token));
        for wrong in
            [format!("{secret}x"), secret.replace("drowse_", ""), format!("drowse_{}_", token.id), String::new()]
        {
            assert_eq!(find(&desired, &wrong, now), None, "{wrong}");
        }
    }

    #[test]
    fn an_expired_token_is_none() {
        let later = Timestamp::from_second(60).expect("a time");
        let (token, secret) =
            create(&UserId::generate(), request(Some(later)), Timestamp::UNIX_EPOCH).expect("creates");
        let mut desired = Desired::default();
        desired.apply(&Write::from(token), Revision(1));
        assert!(find(&desired, &secret, Timestamp::UNIX_EPOCH).is_some());
        assert!(find(&desired, &secret, later).is_none());
    }
}
