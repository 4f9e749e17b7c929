//! The cases, each of them one line.

use std::path::Path;

use tar::EntryType;

use super::Door::{Bundle, Layer, Upload};
use super::costly::{
    gzip, gzip_in_parts, headers, zeros, zeros_after_the_end, zstd, zstd_in_parts, zstd_with_a_huge_window,
};
use super::{Archive, Case, Door, record};

const ALL: &[Door] = &[Layer, Bundle, Upload];
/// Those that keep hard links and special files.
const IMAGES: &[Door] = &[Layer, Bundle];

const ABSOLUTE: &str = "its name is absolute";
const CONTENT_OF_NO_FILE: &str = "only regular files may have content";
const DELETES_NOTHING: &str = "it deletes nothing that could be there";
const DEVICE: &str = "device nodes are not allowed in images";
const EARLIER_FOLDER: &str = "an earlier entry made it a folder with content";
const FOR_ALL: &str = "a pax header for all entries may not give them a name, a link or a size";
const LINK_MISSING: &str = "its hard link names nothing before it";
const LINK_OUTSIDE: &str = "its hard link leads outside the archive";
const LINK_UNFIT: &str = "its hard link names nothing before it that can be linked";
const LOOP: &str = "the way to it leads through a loop of symbolic links";
const NO_FOLDER: &str = "the way to it leads through something that is no folder";
const NO_NUMBER: &str = "its pax header holds a number that is none";
const NUL: &str = "its name holds a NUL";
const ONLY_PLAIN: &str = "only files, folders and symbolic links can be uploaded";
const OUTSIDE: &str = "the way to it leads outside through a symbolic link";
const OWNER: &str = "its owner is larger than any user id";
const PART_TOO_LONG: &str = "a part of its name has more than 255 bytes";
const PAX: &str = "its pax header is malformed";
const PAX_TWICE: &str = "its pax header says one thing twice";
const ROOT: &str = "the root must be a folder";
const SIZES: &str = "its pax header and its own header give two sizes";
const SPARSE: &str = "sparse entries are not supported";
const SYMLINK: &str = "its link target is empty, too long or holds a NUL";
const TOO_DEEP: &str = "it is more than 256 folders deep";
const TOO_LONG: &str = "its name has more than 4095 bytes";
const TWO_HEADERS: &str = "two headers of one kind describe the same entry";
const TWO_LINKS: &str = "its headers give two link targets";
const TWO_NAMES: &str = "its headers give two names";
const UNKNOWN: &str = "its type is unknown";
const UPWARDS: &str = "its name leads upwards with \"..\"";
const WHITEOUT: &str = "names that begin with .wh. have a meaning in images";

/// Offsets of a header's fields (POSIX.1-2008, pax, "ustar Header Block").
const SIZE_FIELD: usize = 124;
const SUM_FIELD: usize = 148;

#[derive(Default)]
struct Cases(Vec<Case>);

impl Cases {
    /// An entry that is refused by name.
    fn entry(&mut self, doors: &'static [Door], entry: &str, reason: &str, archive: Archive) {
        let shown: String = match entry.char_indices().nth(200) {
            Some((end, _)) => format!("{}…", &entry[..end]),
            None => entry.to_owned(),
        };
        self.whole(doors, &format!("archive entry {shown:?} is refused: {reason}"), archive.end());
    }

    /// An archive that is refused as a whole.
    fn whole(&mut self, doors: &'static [Door], error: &str, archive: Vec<u8>) {
        self.0.push(Case { doors, error: error.to_owned(), archive });
    }
}

/// Every case. `outside` is a folder made by [`make_canary`](super::make_canary), which some try to reach by
/// its own name.
#[must_use]
pub fn corpus(outside: &Path) -> Vec<Case> {
    let mut cases = Cases::default();
    names(&mut cases);
    links(&mut cases, &outside.display().to_string());
    contradictions(&mut cases);
    powers(&mut cases);
    broken(&mut cases);
    cases.0
}

/// The cases that take a while to make, and to refuse.
#[must_use]
pub fn bombs() -> Vec<Case> {
    let mut cases = Cases::default();
    that_cost(&mut cases);
    cases.0
}

fn new() -> Archive {
    Archive::new()
}

fn names(c: &mut Cases) {
    let upwards = ["../outside/x", "a/../../outside/x", "..", "a/..", "./../x", "a/./../../x", "../", "a//..//x"];
    let absolute = ["/etc/x", "//x", "/", "/../x"];
    let named = upwards.map(|name| (name, UPWARDS)).into_iter().chain(absolute.map(|name| (name, ABSOLUTE)));
    for (name, reason) in named {
        c.entry(ALL, name, reason, new().file(name, "x"));
        c.entry(ALL, name, reason, new().folder(name));
        c.entry(ALL, name, reason, new().symlink(name, "x"));
        c.entry(ALL, name, reason, new().hardlink(name, "x"));
        c.entry(ALL, name, reason, new().special(EntryType::Fifo, name));
        c.entry(ALL, name, reason, new().long_name(format!("{name}\0").as_bytes()).file("harmless", "x"));
        c.entry(ALL, name, reason, new().pax("path", name.as_bytes()).file("harmless", "x"));
    }
    c.entry(ALL, "../outside/x", UPWARDS, new().prefixed("../outside", "x"));
    c.entry(ALL, "/etc/x", ABSOLUTE, new().prefixed("/etc", "x"));
    c.entry(ALL, "a\0b", NUL, new().pax("path", b"a\0b").file("f", "x"));
    c.entry(ALL, "pax", FOR_ALL, new().pax_for_all("path", b"../outside/x").file("f", "x"));
    c.entry(ALL, "pax", FOR_ALL, new().pax_for_all("linkpath", b"/etc/passwd").symlink("f", "x"));
    c.entry(ALL, "pax", FOR_ALL, new().pax_for_all("size", b"1000").file("f", "x"));
    let part = "x".repeat(256);
    c.entry(ALL, &part, PART_TOO_LONG, new().long_name(part.as_bytes()).file("f", "x"));
    c.entry(ALL, &part, PART_TOO_LONG, new().pax("path", part.as_bytes()).file("f", "x"));
    let long = vec!["y".repeat(200); 21].join("/");
    c.entry(ALL, &long, TOO_LONG, new().long_name(long.as_bytes()).file("f", "x"));
    let deep = "d/".repeat(257);
    c.entry(ALL, &deep, TOO_DEEP, new().long_name(deep.as_bytes()).folder("f"));
    c.entry(ALL, &deep, TOO_DEEP, new().folder("d").pax("path", deep.as_bytes()).file("f", ""));
}

fn links(c: &mut Cases, outside: &str) {
    let ways =
        [outside, "../outside", "..", "a/../../outside", "/", "/proc/self/root", "/proc/self/cwd", "/dev/fd/0/.."];
    for way in ways {
        let start = || new().folder("a").symlink("link", way);
        c.entry(ALL, "link/x", OUTSIDE, start().file("link/x", "x"));
        c.entry(ALL, "link/folder/x", OUTSIDE, start().file("link/folder/x", "x"));
        c.entry(ALL, "link/x", OUTSIDE, start().folder("link/x"));
        c.entry(ALL, "link/x", OUTSIDE, start().symlink("link/x", "y"));
        c.entry(ALL, "chain/x", OUTSIDE, start().symlink("chain", "link").file("chain/x", "x"));
        c.entry(ALL, "a/b/x", OUTSIDE, start().symlink("a/b", "../link").file("a/b/x", "x"));
        c.entry(ALL, "d/x", OUTSIDE, new().folder("a").folder("d").symlink("d", way).file("d/x", "x"));
        c.entry(ALL, "d/x", OUTSIDE, new().folder("a").file("d", "x").symlink("d", way).file("d/x", "x"));
        c.entry(ALL, "d/x", OUTSIDE, new().folder("a").long_link(way.as_bytes()).symlink("d", "a").file("d/x", "x"));
        c.entry(
            ALL,
            "d/x",
            OUTSIDE,
            new().folder("a").pax("linkpath", way.as_bytes()).symlink("d", "a").file("d/x", ""),
        );
        c.entry(IMAGES, "link/pipe", OUTSIDE, start().special(EntryType::Fifo, "link/pipe"));
        c.entry(IMAGES, "stolen", OUTSIDE, start().file("f", "x").hardlink("stolen", "link/secret"));
        c.entry(IMAGES, "h/x", OUTSIDE, start().hardlink("h", "link").file("h/x", "x"));
        c.entry(&[Layer], "link/.wh.secret", OUTSIDE, start().file("link/.wh.secret", ""));
        c.entry(&[Layer], "link/.wh..wh..opq", OUTSIDE, start().file("link/.wh..wh..opq", ""));
    }
    for target in ["../outside/secret", "/etc/passwd", "a/../../outside/secret", "", ".", "./"] {
        c.entry(ALL, "stolen", LINK_OUTSIDE, new().hardlink("stolen", target));
        c.entry(ALL, "stolen", LINK_OUTSIDE, new().long_link(target.as_bytes()).hardlink("stolen", ""));
        c.entry(ALL, "stolen", LINK_OUTSIDE, new().pax("linkpath", target.as_bytes()).hardlink("stolen", "a"));
    }
    c.entry(IMAGES, "stolen", LINK_MISSING, new().hardlink("stolen", "missing"));
    c.entry(IMAGES, "stolen", LINK_UNFIT, new().folder("folder").hardlink("stolen", "folder"));
    c.entry(IMAGES, "stolen", LINK_UNFIT, new().file("folder/x", "").hardlink("stolen", "folder"));
    c.entry(&[Layer], "stolen", LINK_UNFIT, new().file(".wh.gone", "").hardlink("stolen", "gone"));
    c.entry(&[Upload], "stolen", ONLY_PLAIN, new().file("a", "x").hardlink("stolen", "a"));
    c.entry(ALL, "l/x", LOOP, new().symlink("l", "l").file("l/x", "x"));
    c.entry(ALL, "l/x", LOOP, new().symlink("l", "m").symlink("m", "l").file("l/x", "x"));
    let chain = (0..50).fold(new().folder("l50"), |a, n| a.symlink(&format!("l{n}"), &format!("l{}", n + 1)));
    c.entry(ALL, "l0/x", LOOP, chain.file("l0/x", "x"));
    c.entry(ALL, "l/x", NO_FOLDER, new().symlink("l", "nowhere").file("l/x", "x"));
    c.entry(ALL, "l", SYMLINK, new().symlink("l", ""));
    c.entry(ALL, "l", SYMLINK, new().pax("linkpath", b"a\0b").symlink("l", "a"));
    c.entry(ALL, "l", SYMLINK, new().long_link(&[b'x'; 4096]).symlink("l", "a"));
}

fn contradictions(c: &mut Cases) {
    c.entry(ALL, "f/x", NO_FOLDER, new().file("f", "x").file("f/x", "x"));
    c.entry(ALL, "d", EARLIER_FOLDER, new().file("d/x", "x").file("d", "x"));
    c.entry(ALL, "d", EARLIER_FOLDER, new().file("d/x", "x").symlink("d", "/etc"));
    c.entry(ALL, "", ROOT, new().symlink("./", "/etc"));
    c.entry(ALL, "", ROOT, new().file("", "x"));
    c.entry(ALL, "f", SIZES, new().pax("size", b"700").file("f", "x"));
    c.entry(ALL, "f", NO_NUMBER, new().pax("size", b"-x").file("f", "x"));
    c.entry(ALL, "f", NO_NUMBER, new().pax("mtime", b"99999999999999999999").file("f", "x"));
    c.entry(ALL, "f", "its owner is negative", new().pax("uid", b"-1").file("f", "x"));
    c.entry(ALL, "f", "its group is negative", new().pax("gid", b"-1").file("f", "x"));
    c.entry(ALL, "f", OWNER, new().pax("uid", b"4294967295").file("f", "x"));
    c.entry(ALL, "f", OWNER, new().pax("uid", b"4294967296").file("f", "x"));
    c.entry(ALL, "f", "its group is larger than any group id", new().pax("gid", b"4294967295").file("f", "x"));
    for malformed in [
        &b"5 path=x\n"[..],
        b"99999 path=../x\n",
        b"-1 path=x\n",
        b"0 path=x\n",
        b"7 path\n",
        b"7 =path\n",
        b" 9 path=x\n",
        b"+11 path=x\n",
        b"9 path=x ",
        b"20 path=a\n10 path=../b\n",
        b"\n",
        b"18446744073709551625 path=x\n",
    ] {
        c.entry(ALL, "f", PAX, new().pax_raw(malformed).file("f", "x"));
    }
    let twice = [record("path", b"a"), record("path", b"../b")].concat();
    c.entry(ALL, "f", PAX_TWICE, new().pax_raw(&twice).file("f", "x"));
    let twice = [record("linkpath", b"a"), record("linkpath", b"/etc")].concat();
    c.entry(ALL, "f", PAX_TWICE, new().pax_raw(&twice).symlink("f", "x"));
    c.entry(ALL, "a", TWO_NAMES, new().long_name(b"a\0").pax("path", b"b").file("f", "x"));
    c.entry(ALL, "f", TWO_LINKS, new().long_link(b"a\0").pax("linkpath", b"/etc").symlink("f", "x"));
    c.entry(ALL, "././@LongLink", TWO_HEADERS, new().long_name(b"a\0").long_name(b"b\0").file("f", "x"));
    c.entry(ALL, "././@LongLink", TWO_HEADERS, new().long_link(b"a\0").long_link(b"b\0").symlink("f", "x"));
    c.entry(ALL, "pax", TWO_HEADERS, new().pax("path", b"a").pax("path", b"b").file("f", "x"));
    c.entry(ALL, "f", SPARSE, new().pax("GNU.sparse.major", b"1").file("f", "x"));
    c.entry(ALL, "f", SPARSE, new().pax("GNU.sparse.realsize", b"1099511627776").file("f", "x"));
    c.entry(ALL, "f", SPARSE, new().special(EntryType::GNUSparse, "f"));
    for kind in [b'M', b'V', b'D', b'N', b'Z', 0x80] {
        c.entry(ALL, "f", UNKNOWN, new().special(EntryType::new(kind), "f"));
    }
    for kind in [EntryType::Symlink, EntryType::Directory, EntryType::Fifo, EntryType::Char, EntryType::Block] {
        c.entry(ALL, "f", CONTENT_OF_NO_FILE, new().raw(kind, b"f", b"x", 0o644, 4, b"data"));
    }
    c.entry(ALL, "f", CONTENT_OF_NO_FILE, new().raw(EntryType::Link, b"f", b"x", 0o644, 4, b"data"));
}

fn powers(c: &mut Cases) {
    for kind in [EntryType::Char, EntryType::Block] {
        c.entry(IMAGES, "sda", DEVICE, new().special(kind, "sda"));
        c.entry(&[Layer], "a/dev/sda", DEVICE, new().special(kind, "a/dev/sda"));
        c.entry(&[Bundle], "dev/sda", DEVICE, new().special(kind, "dev/sda").file("x", ""));
        c.entry(&[Upload], "dev/null", ONLY_PLAIN, new().special(kind, "dev/null"));
    }
    c.entry(&[Upload], "pipe", ONLY_PLAIN, new().special(EntryType::Fifo, "pipe"));
    for name in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        c.entry(&[Layer], name, DELETES_NOTHING, new().folder("a").file(name, ""));
    }
    c.entry(&[Layer], "f/.wh..wh..opq", NO_FOLDER, new().file("f", "x").file("f/.wh..wh..opq", ""));
    c.entry(&[Layer], "l/.wh..wh..opq", LOOP, new().symlink("l", "l").file("l/.wh..wh..opq", ""));
    for name in [".wh.passwd", ".wh...", "a/.wh..wh..opq", ".wh..wh.plnk"] {
        c.entry(&[Bundle, Upload], name, WHITEOUT, new().folder("a").file(name, ""));
        c.entry(&[Bundle, Upload], name, WHITEOUT, new().folder("a").symlink(name, "/etc"));
    }
}

fn broken(c: &mut Cases) {
    const END: &str = "cannot read the archive: unexpected end of file";
    let whole = || new().file("a", &"x".repeat(3000));
    c.whole(ALL, "cannot read the archive", whole().end()[..100].to_vec());
    c.whole(ALL, "cannot read the archive", whole().end()[..600].to_vec());
    c.whole(ALL, "cannot read the archive", gzip(&whole().end()[..2000]));
    c.whole(ALL, END, new().long_name(b"name\0").end());
    c.whole(ALL, END, new().pax("path", b"x").end());
    let (zipped, packed) = (gzip(&whole().end()), zstd(&whole().end()));
    c.whole(ALL, "cannot read the archive", zipped[..zipped.len() - 9].to_vec());
    c.whole(ALL, "cannot read the archive", zipped[..12].to_vec());
    c.whole(ALL, "cannot read the archive", packed[..packed.len() - 4].to_vec());
    let mut damaged = zipped.clone();
    let sum = damaged.len() - 8;
    damaged[sum] ^= 1;
    c.whole(ALL, "cannot read the archive: corrupt gzip stream does not have a matching checksum", damaged);
    c.whole(ALL, "cannot read the archive", [zipped, b"and more".to_vec()].concat());
    c.whole(ALL, "cannot read the archive", gzip(&packed));
    c.whole(ALL, "cannot read the archive", zstd(&gzip(&whole().end())));
    c.whole(ALL, "cannot read the archive", vec![b'A'; 2048]);
    c.whole(ALL, "cannot read the archive", new().with_field("f", SIZE_FIELD, b"not a number").end());
    c.whole(ALL, "cannot read the archive", new().with_field("f", SIZE_FIELD, &[0xff; 12]).end());
    c.whole(
        ALL,
        "cannot read the archive",
        new().with_field("f", SIZE_FIELD, b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff").end(),
    );
    c.whole(ALL, "cannot read the archive", new().with_field("f", SIZE_FIELD, b"77777777777\0").end());
    let mut wrong_sum = new().file("f", "x").end();
    wrong_sum[SUM_FIELD] ^= 1;
    c.whole(ALL, "cannot read the archive: archive header checksum mismatch", wrong_sum);
    for (magic, name) in [
        (&b"\xfd7zXZ\0"[..], "xz"),
        (b"BZh91AY&SY", "bzip2"),
        (b"PK\x03\x04\x14\0", "zip"),
        (b"\x04\x22\x4d\x18", "lz4"),
        (b"\x5d\0\0\x80\0", "lzma"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"Rar!\x1a\x07", "rar"),
    ] {
        let error = format!("the archive is packed with {name}: send it as plain tar, gzip or zstd");
        c.whole(ALL, &error, magic.iter().copied().chain([7; 600]).collect());
    }
}

fn that_cost(c: &mut Cases) {
    const RATIO: &str = "the archive is refused: it unpacks to more than 200 times its size";
    c.whole(&[Upload], RATIO, gzip(&zeros()));
    c.whole(&[Bundle], RATIO, gzip_in_parts(&zeros()));
    c.whole(&[Layer], RATIO, zstd(&zeros()));
    c.whole(&[Bundle], RATIO, zstd_in_parts(&zeros()));
    c.whole(&[Upload], RATIO, zstd(&zeros_after_the_end()));
    c.whole(&[Bundle], RATIO, zstd(&headers(200_000)));
    c.whole(&[Upload], "the archive is refused: it has more than 200000 entries", headers(200_001));
    c.whole(ALL, "cannot read the archive: Frame requires too much memory for decoding", zstd_with_a_huge_window());
    let claims = |size| new().raw(EntryType::XHeader, b"pax", b"", 0o644, size, b"").end();
    c.whole(&[Layer], "the archive is refused: one of its extended headers is larger than 1 MiB", claims(1 << 40));
    c.whole(
        &[Bundle, Upload],
        "the archive is refused: one of its extended headers is larger than 64 KiB",
        claims(1 << 40),
    );
    let long = new().long_name(&vec![b'x'; (64 << 10) + 1]).file("f", "").end();
    c.whole(&[Bundle, Upload], "the archive is refused: one of its extended headers is larger than 64 KiB", long);
}
