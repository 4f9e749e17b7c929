//! Host names as visitors write them, brought to the one form that the table is keyed by.

/// The longest host name (RFC 1035), in octets.
const LONGEST: usize = 253;

/// A host name in lower case, without port and trailing dot. It lives on the stack: every request
/// makes one.
#[derive(Clone, Copy)]
pub(crate) struct HostKey {
    bytes: [u8; LONGEST],
    length: u8,
}

/// The text is not a host with an optional port (RFC 9110, section 7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotAHost;

impl HostKey {
    /// Reads the value of a `Host` header or of `:authority`.
    pub(crate) fn parse(authority: &[u8]) -> Result<Self, NotAHost> {
        let (host, port) = match authority {
            [b'[', rest @ ..] => {
                let end = rest.iter().position(|b| *b == b']').ok_or(NotAHost)?;
                (&authority[..end + 2], &authority[end + 2..])
            }
            _ => authority.split_at(authority.iter().position(|b| *b == b':').unwrap_or(authority.len())),
        };
        match port {
            [] => {}
            [b':', digits @ ..] if digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) => {}
            _ => return Err(NotAHost),
        }
        let literal = host.first() == Some(&b'[');
        let host = if literal { host } else { host.strip_suffix(b".").unwrap_or(host) };
        if host.is_empty() || host.len() > LONGEST {
            return Err(NotAHost);
        }
        let mut key = Self { bytes: [0; LONGEST], length: u8::try_from(host.len()).map_err(|_| NotAHost)? };
        for (to, from) in key.bytes.iter_mut().zip(host) {
            let allowed = from.is_ascii_alphanumeric()
                || matches!(from, b'-' | b'.' | b'_')
                || literal && matches!(from, b'[' | b']' | b':');
            if !allowed {
                return Err(NotAHost);
            }
            *to = from.to_ascii_lowercase();
        }
        Ok(key)
    }

    /// The name.
    pub(crate) fn as_str(&self) -> &str {
        // Only ASCII was let in.
        std::str::from_utf8(&self.bytes[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl PartialEq for HostKey {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl std::fmt::Debug for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(text: &str) -> Option<String> {
        HostKey::parse(text.as_bytes()).ok().map(|key| key.as_str().to_owned())
    }

    #[test]
    fn port_case_and_trailing_dot_make_no_difference() {
        for written in [
            "shop.drowse.localhost",
            "SHOP.Drowse.localhost:8080",
            "shop.drowse.localhost.",
            "shop.drowse.localhost.:80",
            "shop.drowse.localhost:",
        ] {
            assert_eq!(key(written).as_deref(), Some("shop.drowse.localhost"), "{written}");
        }
        assert_eq!(key("[::1]:8080").as_deref(), Some("[::1]"));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            ".",
            ":80",
            "a b",
            "a/b",
            "user@host",
            "host:port",
            "host:123456",
            "host:80:80",
            "[::1",
            "[::1]x",
            "a\0b",
            "a,b",
            "ho%73t",
        ] {
            assert_eq!(key(bad), None, "{bad:?}");
        }
        assert_eq!(key(&"a".repeat(254)), None);
    }

    proptest! {
        #[test]
        fn a_written_name_and_its_variants_have_one_key(name in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z0-9]{1,20}){0,4}", port in proptest::option::of(any::<u16>()), dot: bool, upper: bool) {
            let mut written = if upper { name.to_ascii_uppercase() } else { name.clone() };
            if dot { written.push('.'); }
            if let Some(port) = port { written.push_str(&format!(":{port}")); }
            prop_assert_eq!(key(&written), Some(name));
        }

        #[test]
        fn no_bytes_panic_and_a_key_is_a_fixed_point(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(first) = HostKey::parse(&bytes) {
                prop_assert!(first.as_str().bytes().all(|b| b.is_ascii_graphic() && !b.is_ascii_uppercase()));
                if !first.as_str().ends_with('.') {
                    prop_assert_eq!(HostKey::parse(first.as_str().as_bytes()), Ok(first));
                }
            }
        }
    }
}
