//! The elements of the table's set, by netlink: the program `nft` takes milliseconds to come up, and one
//! element is added at every start. Rules are still text for `nft`; this knows one set of one form.
//!
//! The messages are those of linux/netfilter/nf_tables.h; changes are made by a batch, which the kernel
//! takes whole or not at all.

use std::io;
use std::net::Ipv4Addr;

use rtnetlink::sys::{Socket, protocols::NETLINK_NETFILTER};

use super::error::NetworkError;
use super::table::{COUNTED, LINKS, REFUSED};

/// What one link may send from: an element of the table's set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    pub link: String,
    pub address: Ipv4Addr,
}

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;
const GET_ELEMENTS: u16 = SUBSYSTEM << 8 | 13;
const DELETE_ELEMENTS: u16 = SUBSYSTEM << 8 | 14;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
/// A list that changed while it was read.
const INTERRUPTED: u16 = 0x10;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;

const NESTED: u16 = 0x8000;
const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const DATA_VALUE: u16 = 1;

/// How often a list is read again that changes meanwhile.
const MOST_LOOKS: usize = 20;
/// NFPROTO_INET.
const FAMILY: u8 = 1;
/// IFNAMSIZ: a name fills so much of a key.
const NAME_SIZE: usize = 16;
const KEY_SIZE: usize = NAME_SIZE + 4;
/// Bytes of a message's head, and of the family's behind it.
const HEAD: usize = 16;
const FAMILY_HEAD: usize = 4;

/// Adds an element; one that is there is no error.
pub(super) fn add(table: &str, element: &Element) -> Result<(), NetworkError> {
    let mut batch = Batch::new();
    batch.change(NEW_ELEMENTS, CREATE, table, LINKS, &[element.key().to_vec()]);
    batch.send("a new element")
}

/// Deletes elements, whether they are there or not: what an agent before this one began when it was
/// killed may end only now. Added first, in the same batch, since deleting what is gone is an error.
pub(super) fn delete(table: &str, elements: &[Element]) -> Result<(), NetworkError> {
    if elements.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    let keys: Vec<Vec<u8>> = elements.iter().map(|element| element.key().to_vec()).collect();
    // What was counted of a link is not the next one's of that name.
    let mut links: Vec<Vec<u8>> = keys.iter().map(|key| key[..NAME_SIZE].to_vec()).collect();
    links.sort_unstable();
    links.dedup();
    for (set, keys) in [(LINKS, &keys), (COUNTED[0], &links), (COUNTED[1], &links), (REFUSED, &links)] {
        batch.change(NEW_ELEMENTS, CREATE, table, set, keys);
        batch.change(DELETE_ELEMENTS, 0, table, set, keys);
    }
    batch.send("the end of elements")
}

/// Deletes the elements that `is_meant`; none are no error, nor is a table that is gone.
pub(super) fn remove(table: &str, is_meant: impl Fn(&Element) -> bool) -> Result<(), NetworkError> {
    let meant: Vec<Element> = elements(table)?.into_iter().filter(|element| is_meant(element)).collect();
    delete(table, &meant)
}

/// Every element of the set; none if there is no table.
pub(super) fn elements(table: &str) -> Result<Vec<Element>, NetworkError> {
    for _ in 1..MOST_LOOKS {
        if let (found, true) = look(table)? {
            return Ok(found);
        }
    }
    look(table).map(|(found, _)| found)
}

/// The elements, and whether nothing changed while the kernel listed them.
fn look(table: &str) -> Result<(Vec<Element>, bool), NetworkError> {
    const WHAT: &str = "the list of elements";
    let socket = open()?;
    let mut question = Vec::new();
    message(&mut question, GET_ELEMENTS, REQUEST | DUMP, 1, |body| {
        attribute(body, LIST_TABLE, &terminated(table));
        attribute(body, LIST_SET, &terminated(LINKS));
    });
    socket.send(&question, 0).map_err(NetworkError::Socket)?;
    let (mut found, mut is_whole) = (Vec::new(), true);
    loop {
        let (received, _) = socket.recv_from_full().map_err(NetworkError::Socket)?;
        let mut rest = received.as_slice();
        while let Some((Head { kind, flags, .. }, body, after)) = next_message(rest) {
            rest = after;
            is_whole &= flags & INTERRUPTED == 0;
            match kind {
                NEW_ELEMENTS => found.extend(read_elements(body)),
                DONE => return Ok((found, is_whole)),
                ERROR => match error_of(body) {
                    Some(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(refused(WHAT, &error)),
                    _ => return Ok((found, is_whole)),
                },
                _ => {}
            }
        }
    }
}

/// Changes that the kernel makes together.
struct Batch {
    bytes: Vec<u8>,
    /// Those that are answered.
    changes: usize,
}

impl Batch {
    fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), changes: 0 };
        batch.border(BATCH_BEGIN);
        batch
    }

    fn border(&mut self, kind: u16) {
        let start = self.bytes.len();
        message(&mut self.bytes, kind, REQUEST, 0, |_| {});
        // Of no family; the two bytes behind it name the subsystem.
        self.bytes[start + HEAD] = 0;
        self.bytes[start + HEAD + 2..start + HEAD + 4].copy_from_slice(&SUBSYSTEM.to_be_bytes());
    }

    fn change(&mut self, kind: u16, flags: u16, table: &str, set: &str, keys: &[Vec<u8>]) {
        self.changes += 1;
        let sequence = u32::try_from(self.changes).unwrap_or(u32::MAX);
        message(&mut self.bytes, kind, REQUEST | ACKNOWLEDGE | flags, sequence, |body| {
            attribute(body, LIST_TABLE, &terminated(table));
            attribute(body, LIST_SET, &terminated(set));
            nested(body, LIST_ELEMENTS, |list| {
                for each in keys {
                    nested(list, LIST_ELEMENT, |one| {
                        nested(one, ELEMENT_KEY, |key| attribute(key, DATA_VALUE, each));
                    });
                }
            });
        });
    }

    fn send(mut self, what: &'static str) -> Result<(), NetworkError> {
        self.border(BATCH_END);
        let socket = open()?;
        socket.send(&self.bytes, 0).map_err(NetworkError::Socket)?;
        let mut answered = 0;
        loop {
            let (received, _) = socket.recv_from_full().map_err(NetworkError::Socket)?;
            let mut rest = received.as_slice();
            while let Some((Head { kind, sequence, .. }, body, after)) = next_message(rest) {
                rest = after;
                if kind != ERROR {
                    continue;
                }
                if let Some(error) = error_of(body) {
                    return Err(refused(what, &error));
                }
                answered += usize::from(sequence > 0);
            }
            if answered >= self.changes {
                return Ok(());
            }
        }
    }
}

impl Element {
    fn key(&self) -> [u8; KEY_SIZE] {
        let mut key = [0; KEY_SIZE];
        let name = self.link.as_bytes();
        let length = name.len().min(NAME_SIZE - 1);
        key[..length].copy_from_slice(&name[..length]);
        key[NAME_SIZE..].copy_from_slice(&self.address.octets());
        key
    }

    fn from_key(key: &[u8]) -> Option<Self> {
        let (name, address) = key.get(..KEY_SIZE)?.split_at(NAME_SIZE);
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
        let address: [u8; 4] = address.try_into().ok()?;
        Some(Self { link: String::from_utf8(name[..end].to_vec()).ok()?, address: address.into() })
    }
}

fn open() -> Result<Socket, NetworkError> {
    Socket::new(NETLINK_NETFILTER).map_err(NetworkError::Socket)
}

fn refused(what: &'static str, error: &io::Error) -> NetworkError {
    NetworkError::Nft { what, message: error.to_string() }
}

/// Appends a message; its length is filled in when its body is known.
fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([FAMILY, 0, 0, 0]);
    body(bytes);
    let length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    with_head(bytes, kind, |bytes| bytes.extend(value));
}

fn nested(bytes: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    with_head(bytes, kind | NESTED, inner);
}

fn with_head(bytes: &mut Vec<u8>, kind: u16, inner: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend(kind.to_ne_bytes());
    inner(bytes);
    let length = u16::try_from(bytes.len() - start).unwrap_or(u16::MAX);
    bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn terminated(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// What the head of a message says.
struct Head {
    kind: u16,
    flags: u16,
    sequence: u32,
}

/// The first message of `bytes`: its head, what is behind that, and what follows the message.
fn next_message(bytes: &[u8]) -> Option<(Head, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?);
    let body = bytes.get(HEAD..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((Head { kind, flags, sequence }, body, after))
}

/// What an answer of the kind [`ERROR`] says; nothing if it says that all is well.
fn error_of(body: &[u8]) -> Option<io::Error> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    (code != 0).then(|| io::Error::from_raw_os_error(-code))
}

fn read_elements(body: &[u8]) -> Vec<Element> {
    let list = find(body.get(FAMILY_HEAD..).unwrap_or_default(), LIST_ELEMENTS).unwrap_or_default();
    let elements = attributes(list).filter(|(kind, _)| *kind == LIST_ELEMENT);
    elements.filter_map(|(_, element)| Element::from_key(find(find(element, ELEMENT_KEY)?, DATA_VALUE)?)).collect()
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_back_as_written() {
        let element = Element { link: "dw-abcdefghijkl".to_owned(), address: Ipv4Addr::new(10, 83, 0, 5) };
        assert_eq!(Element::from_key(&element.key()), Some(element));
        assert_eq!(Element::from_key(&[0; 7]), None);
    }

    #[test]
    fn messages_that_are_cut_or_empty_are_no_messages() {
        assert!(next_message(&[]).is_none());
        let mut bytes = Vec::new();
        message(&mut bytes, NEW_ELEMENTS, REQUEST, 7, |body| attribute(body, LIST_TABLE, b"abcde"));
        assert!(next_message(&bytes[..bytes.len() - 4]).is_none());
        let (head, body, after) = next_message(&bytes).expect("whole");
        assert_eq!((head.kind, head.sequence, after.len()), (NEW_ELEMENTS, 7, 0));
        assert_eq!(find(&body[FAMILY_HEAD..], LIST_TABLE), Some(b"abcde".as_slice()));
        assert_eq!(attributes(&[8, 0, 1]).count(), 0);
    }
}
