//! The records of a pax extended header (POSIX.1-2008, pax): `LENGTH KEY=VALUE\n`, where LENGTH
//! counts the whole record. Values may hold any byte, newlines too, so records are cut by their
//! length alone.

/// Splits `header` into keys and values; `None` in place of the first record that is malformed.
pub(super) fn records(mut header: &[u8]) -> impl Iterator<Item = Option<(&[u8], &[u8])>> {
    std::iter::from_fn(move || {
        // Some writers pad the block with NULs.
        if header.is_empty() || header.iter().all(|byte| *byte == 0) {
            return None;
        }
        let record = cut(header);
        header = record.map_or(&[], |(_, _, rest)| rest);
        Some(record.map(|(key, value, _)| (key, value)))
    })
}

fn cut(header: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = header.iter().take(12).position(|byte| *byte == b' ')?;
    // Digits alone: a sign is a number to some readers and none to others.
    let digits = std::str::from_utf8(&header[..space]).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?;
    let length: usize = digits.parse().ok()?;
    if length > header.len() || length < space + 2 {
        return None;
    }
    let (record, rest) = header.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n")?;
    let equals = body.iter().position(|byte| *byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(key: &[u8], value: &[u8]) -> Vec<u8> {
        let body = key.len() + value.len() + 3;
        let mut length = body + 1;
        while body + length.to_string().len() != length {
            length += 1;
        }
        [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
    }

    proptest! {
        #[test]
        fn any_value_survives(key in "[a-z.]{1,20}", value in prop::collection::vec(any::<u8>(), 0..300)) {
            let header = [write(key.as_bytes(), &value), write(b"path", b"x")].concat();
            let read: Vec<_> = records(&header).collect();
            prop_assert_eq!(read, vec![Some((key.as_bytes(), &value[..])), Some((&b"path"[..], &b"x"[..]))]);
        }

        #[test]
        fn garbage_ends(header in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(records(&header).count() <= header.len());
        }
    }
}
