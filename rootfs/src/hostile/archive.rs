//! Tar archives as no honest program writes them.

use tar::{EntryType, Header};

/// A tar archive, entry by entry, with names as they are given.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    owner: u64,
}

impl Archive {
    /// One without an entry, whose files will belong to root.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One whose files will belong to this id.
    #[must_use]
    pub fn owned(owner: u64) -> Self {
        Self { bytes: Vec::new(), owner }
    }

    /// A file.
    #[must_use]
    pub fn file(self, name: &str, content: &str) -> Self {
        self.with_mode(name, 0o644, content)
    }

    /// A file with this mode.
    #[must_use]
    pub fn with_mode(self, name: &str, mode: u32, content: &str) -> Self {
        self.raw(EntryType::Regular, name.as_bytes(), b"", mode, content.len() as u64, content.as_bytes())
    }

    /// A folder.
    #[must_use]
    pub fn folder(self, name: &str) -> Self {
        self.raw(EntryType::Directory, name.as_bytes(), b"", 0o755, 0, b"")
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, name.as_bytes(), target.as_bytes(), 0o777, 0, b"")
    }

    /// A hard link.
    #[must_use]
    pub fn hardlink(self, name: &str, target: &str) -> Self {
        self.raw(EntryType::Link, name.as_bytes(), target.as_bytes(), 0o644, 0, b"")
    }

    /// A device node, a pipe, or what else needs nothing but a name.
    #[must_use]
    pub fn special(self, kind: EntryType, name: &str) -> Self {
        self.raw(kind, name.as_bytes(), b"", 0o666, 0, b"")
    }

    /// A pax header for the coming entry.
    #[must_use]
    pub fn pax(self, key: &str, value: &[u8]) -> Self {
        self.pax_raw(&record(key, value))
    }

    /// A pax header for the coming entry, whose records are these bytes.
    #[must_use]
    pub fn pax_raw(self, records: &[u8]) -> Self {
        self.raw(EntryType::XHeader, b"pax", b"", 0o644, records.len() as u64, records)
    }

    /// A pax header for all entries that come.
    #[must_use]
    pub fn pax_for_all(self, key: &str, value: &[u8]) -> Self {
        let record = record(key, value);
        self.raw(EntryType::XGlobalHeader, b"pax", b"", 0o644, record.len() as u64, &record)
    }

    /// A long name for the coming entry.
    #[must_use]
    pub fn long_name(self, name: &[u8]) -> Self {
        self.raw(EntryType::GNULongName, b"././@LongLink", b"", 0o644, name.len() as u64, name)
    }

    /// A long link target for the coming entry.
    #[must_use]
    pub fn long_link(self, target: &[u8]) -> Self {
        self.raw(EntryType::GNULongLink, b"././@LongLink", b"", 0o644, target.len() as u64, target)
    }

    /// A file whose name is in two parts, as POSIX's own form has it.
    #[must_use]
    pub fn prefixed(self, prefix: &str, name: &str) -> Self {
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_mode(0o644);
        if let Some(ustar) = header.as_ustar_mut() {
            put(&mut ustar.prefix, prefix.as_bytes());
            put(&mut ustar.name, name.as_bytes());
        }
        header.set_cksum();
        self.block(header.as_bytes())
    }

    /// Any entry at all; `size` is what the header says, whatever `content` has.
    #[must_use]
    pub fn raw(self, kind: EntryType, name: &[u8], link: &[u8], mode: u32, size: u64, content: &[u8]) -> Self {
        let mut header = self.header(kind, name, link, mode);
        header.set_size(size);
        header.set_cksum();
        self.block(header.as_bytes()).block(content)
    }

    /// A file whose header's field at `offset` holds `field`.
    #[must_use]
    pub fn with_field(self, name: &str, offset: usize, field: &[u8]) -> Self {
        let mut header = self.header(EntryType::Regular, name.as_bytes(), b"", 0o644);
        header.set_size(0);
        header.as_mut_bytes()[offset..offset + field.len()].copy_from_slice(field);
        header.set_cksum();
        self.block(header.as_bytes())
    }

    /// Bytes as they are, filled up to whole blocks.
    #[must_use]
    pub fn block(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self
    }

    /// The whole archive.
    #[must_use]
    pub fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }

    /// As far as it goes, without its end.
    #[must_use]
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }

    fn header(&self, kind: EntryType, name: &[u8], link: &[u8], mode: u32) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(self.owner);
        header.set_gid(self.owner);
        header.set_mtime(1_600_000_000);
        let old = header.as_old_mut();
        put(&mut old.name, name);
        put(&mut old.linkname, link);
        header
    }
}

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// A pax record, with its length before it.
#[must_use]
pub fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = key.len() + value.len() + 3;
    let mut length = body + 1;
    while body + length.to_string().len() != length {
        length += 1;
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}
