//! Cookies that an app must not set: those for the domain that all apps share.
//!
//! A cookie for the shared domain would be sent to every other app, and could be planted there.

use http::header::{HeaderMap, HeaderValue, SET_COOKIE};

/// Drops every `Set-Cookie` meant for the shared domain or for a domain above it.
pub(crate) fn drop_shared(headers: &mut HeaderMap, shared: &str) {
    if !headers.contains_key(SET_COOKIE) {
        return;
    }
    if !headers.get_all(SET_COOKIE).iter().any(|value| is_shared(value.as_bytes(), shared)) {
        return;
    }
    let kept: Vec<HeaderValue> =
        headers.get_all(SET_COOKIE).iter().filter(|value| !is_shared(value.as_bytes(), shared)).cloned().collect();
    headers.remove(SET_COOKIE);
    for value in kept {
        headers.append(SET_COOKIE, value);
    }
}

/// Whether any `Domain` attribute (RFC 6265, section 5.2.3) names the shared domain or one above
/// it. Browsers take the last of several; refusing on any is the safe reading of all of them.
fn is_shared(cookie: &[u8], shared: &str) -> bool {
    cookie.split(|b| *b == b';').skip(1).any(|attribute| {
        let mut halves = attribute.splitn(2, |b| *b == b'=');
        let name = halves.next().unwrap_or_default().trim_ascii();
        let Some(value) = halves.next() else { return false };
        name.eq_ignore_ascii_case(b"domain") && covers(value, shared.as_bytes())
    })
}

/// Whether a cookie with this `Domain` would be sent to the shared domain itself.
fn covers(value: &[u8], shared: &[u8]) -> bool {
    let value = value.trim_ascii();
    let value = value.strip_prefix(b"\"").unwrap_or(value);
    let value = value.strip_suffix(b"\"").unwrap_or(value);
    let value = value.strip_prefix(b".").unwrap_or(value);
    let value = value.strip_suffix(b".").unwrap_or(value);
    if value.is_empty() || value.len() > shared.len() {
        return false;
    }
    let (above, tail) = shared.split_at(shared.len() - value.len());
    tail.eq_ignore_ascii_case(value) && (above.is_empty() || above.ends_with(b"."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SHARED: &str = "apps.example.com";

    #[test]
    fn only_cookies_for_the_shared_domain_are_dropped() {
        let mut headers = HeaderMap::new();
        for cookie in [
            "a=1; Domain=apps.example.com",
            "b=2; Path=/",
            "c=3; domain = .APPS.example.com ; Secure",
            "d=4; Domain=shop.apps.example.com",
            "e=5; Domain=example.com",
            "f=6; Domain=\"apps.example.com\"",
            "g=domain; Path=/; HttpOnly",
            "h=7; Domain=shop.apps.example.com; Domain=apps.example.com.",
            "i=8; Domain=",
            "Domain=apps.example.com",
        ] {
            headers.append(SET_COOKIE, HeaderValue::from_static(cookie));
        }
        drop_shared(&mut headers, SHARED);
        let kept: Vec<&[u8]> = headers.get_all(SET_COOKIE).iter().map(|v| &v.as_bytes()[..1]).collect();
        assert_eq!(kept, [b"b", b"d", b"g", b"i", b"D"]);
    }

    proptest! {
        #[test]
        fn a_domain_attribute_is_found_however_it_is_written(
            spaces in "[ \t]{0,3}", dot in "\\.?", cased in proptest::collection::vec(any::<bool>(), 16),
            before in "(; (Path=/[a-z]*|Secure|Max-Age=[0-9]{1,5})){0,3}", after in "(; [A-Za-z]{1,10}){0,2}",
        ) {
            let written: String = SHARED.chars().zip(cased).map(|(c, up)| if up { c.to_ascii_uppercase() } else { c }).collect();
            let cookie = format!("id=1{before};{spaces}dOmAiN{spaces}={spaces}{dot}{written}{spaces}{after}");
            prop_assert!(is_shared(cookie.as_bytes(), SHARED), "{}", cookie);
        }

        #[test]
        fn a_cookie_for_the_own_host_or_for_none_is_kept(app in "[a-z][a-z0-9-]{2,20}", value in "[ -:<-~]{0,30}") {
            let own = format!("id={value}; Domain={app}.{SHARED}; Path=/");
            let none = format!("id={value}; Path=/");
            prop_assert!(!is_shared(own.as_bytes(), SHARED));
            prop_assert!(!is_shared(none.as_bytes(), SHARED));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            is_shared(&bytes, SHARED);
        }
    }
}
