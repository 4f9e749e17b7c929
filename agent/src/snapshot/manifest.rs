//! What a snapshot is of, and the proof that nobody changed it.
//!
//! The manifest is written last and carries the digest of every image; its own keyed digest is made with
//! a key of this node. So a snapshot that is half there, damaged, of another instance or from another node
//! is none. A folder is taken for use once, by a rename.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use drowse_api::{Digest, InstanceId};
use serde::{Deserialize, Serialize};

use super::criu;
use super::tasks::Tasks;
use super::{SnapshotError, Taken, io};
use crate::durable;

const MAGIC: &str = "drowse-snapshot";
const VERSION: u32 = 1;
const NAME: &str = "manifest";
const KEY_BYTES: usize = 32;
/// Images of at least this size are hashed by several threads.
const LARGE: u64 = 1 << 20;

/// The node's key. Never leaves its file.
pub struct Key([u8; KEY_BYTES]);

impl Key {
    /// Reads the key at `path`, made at the first time.
    ///
    /// # Errors
    /// If it cannot be read or made, or has another length.
    pub fn open(path: &Path) -> Result<Self, SnapshotError> {
        if !path.exists() {
            let mut fresh = [0; KEY_BYTES];
            getrandom::fill(&mut fresh).map_err(|error| io("make", path)(std::io::Error::other(error)))?;
            let new = path.with_extension("new");
            let mut file = File::options()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&new)
                .map_err(io("make", &new))?;
            file.write_all(&fresh).and_then(|()| file.sync_all()).map_err(io("write", &new))?;
            std::fs::rename(&new, path).map_err(io("rename", &new))?;
        }
        let bytes = std::fs::read(path).map_err(io("read", path))?;
        let key = bytes.try_into().map_err(|_| SnapshotError::Unusable {
            what: format!("the key {} is damaged: remove it, and apps start cold once", path.display()),
        })?;
        Ok(Self(key))
    }
}

/// What must be the same when a snapshot is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Whose it is.
    pub instance: InstanceId,
    /// The image that its root is made of.
    pub image: Digest,
    /// A digest of the spec that it was started by, secrets included.
    pub spec: String,
    /// The kernel's release and build.
    pub kernel: String,
    /// What the processor can do.
    pub processor: String,
}

impl Subject {
    /// Of an instance on this host, now.
    ///
    /// # Errors
    /// If /proc cannot be read.
    pub fn here(instance: InstanceId, image: Digest, spec: &[u8]) -> Result<Self, SnapshotError> {
        let name = rustix::system::uname();
        let kernel = format!("{} {}", name.release().to_string_lossy(), name.version().to_string_lossy());
        let path = Path::new("/proc/cpuinfo");
        let text = std::fs::read_to_string(path).map_err(io("read", path))?;
        let of_interest = |line: &&str| ["vendor_id", "flags", "Features"].iter().any(|name| line.starts_with(name));
        let first = text.split("\n\n").next().unwrap_or_default();
        let features: Vec<&str> = first.lines().filter(of_interest).collect();
        let processor = blake3::hash(features.join("\n").as_bytes()).to_hex().to_string();
        Ok(Self { instance, image, spec: blake3::hash(spec).to_hex().to_string(), kernel, processor })
    }
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Image {
    size: u64,
    digest: String,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// What it is of.
    pub subject: Subject,
    /// The main process's pid inside.
    pub pid_inside: i32,
    /// The inodes of the pipes that were its standard output and error.
    pub streams: [u64; 2],
    /// What its processes may do.
    pub tasks: Tasks,
    /// The monotonic and the boot-time clock inside at the dump, in nanoseconds.
    pub clocks: [i128; 2],
    /// Random: no other snapshot has it.
    #[serde(default)]
    mark: String,
    images: BTreeMap<String, Image>,
}

#[derive(Serialize, Deserialize)]
struct Sealed {
    /// JSON of the manifest.
    manifest: String,
    /// Its keyed BLAKE3.
    mac: String,
}

impl Manifest {
    /// Of the images in `folder`, which are synced to the disk, as the manifest and the folder then are.
    ///
    /// # Errors
    /// If something cannot be read or written.
    pub fn seal(
        folder: &Path,
        key: &Key,
        subject: Subject,
        (pid_inside, streams): (i32, [u64; 2]),
        tasks: Tasks,
        clocks: [i128; 2],
    ) -> Result<Self, SnapshotError> {
        let mut images = BTreeMap::new();
        for path in images_in(folder)? {
            File::open(&path).and_then(|file| file.sync_all()).map_err(io("sync", &path))?;
            images.insert(name_of(&path), digest(&path, key)?);
        }
        let mut mark = [0; 16];
        getrandom::fill(&mut mark).map_err(|error| io("mark", folder)(std::io::Error::other(error)))?;
        let mark = blake3::hash(&mark).to_hex().to_string();
        let manifest = Self { subject, pid_inside, streams, tasks, clocks, mark, images };
        let text = serde_json::to_string(&manifest).map_err(|error| io("write", folder)(error.into()))?;
        let mac = blake3::keyed_hash(&key.0, text.as_bytes()).to_hex().to_string();
        let sealed = Sealed { manifest: text, mac };
        durable::save(&folder.join(NAME), MAGIC, VERSION, &sealed).map_err(unusable)?;
        Ok(manifest)
    }

    /// Of the snapshot in `folder`, if this node wrote it and it is of `subject`. The images are not looked at.
    ///
    /// # Errors
    /// [`SnapshotError::Unusable`] says what is wrong with it.
    pub fn open(folder: &Path, key: &Key, subject: &Subject) -> Result<Self, SnapshotError> {
        let refused = |what: &str| Err(SnapshotError::Unusable { what: what.to_owned() });
        let sealed: Option<Sealed> = durable::load(&folder.join(NAME), MAGIC, VERSION).map_err(unusable)?;
        let Some(sealed) = sealed else { return refused("it has no manifest") };
        let mac = blake3::keyed_hash(&key.0, sealed.manifest.as_bytes());
        // Compared as hashes, in constant time.
        if blake3::Hash::from_hex(&sealed.mac).ok() != Some(mac) {
            return refused("this node did not write it, or somebody changed it");
        }
        let manifest: Self = serde_json::from_str(&sealed.manifest).map_err(unusable)?;
        let Subject { instance, image, spec, kernel, processor } = subject;
        let of = &manifest.subject;
        let differences = [
            (of.instance != *instance, "it is of another instance"),
            (of.image != *image, "it is of another image"),
            (of.spec != *spec, "the app was started with another environment or other limits"),
            (of.kernel != *kernel, "the kernel is another one now"),
            (of.processor != *processor, "the processor is another one now"),
        ];
        match differences.iter().find(|(differs, _)| *differs) {
            Some((_, what)) => refused(what),
            None => Ok(manifest),
        }
    }

    /// That the images are what was written. `large` chooses: the large ones, which may be looked at while
    /// they are used, or the others, which CRIU must not open before.
    ///
    /// # Errors
    /// [`SnapshotError::Unusable`] names the first that is not.
    pub fn check(&self, folder: &Path, key: &Key, large: bool) -> Result<(), SnapshotError> {
        let unusable = |what: String| Err(SnapshotError::Unusable { what });
        let found: Vec<String> = images_in(folder)?.iter().map(|path| name_of(path)).collect();
        if let Some(name) = found.iter().find(|name| !self.images.contains_key(*name)) {
            return unusable(format!("it has an image too many: {name}"));
        }
        for (name, image) in self.images.iter().filter(|(_, image)| (image.size >= LARGE) == large) {
            let path = folder.join(name);
            let found = match digest(&path, key) {
                Err(SnapshotError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                    return unusable(format!("the image {name} is missing"));
                }
                other => other?,
            };
            if found != *image {
                return unusable(format!("the image {name} is damaged"));
            }
        }
        Ok(())
    }

    /// As its user is to know it.
    #[must_use]
    pub fn taken(&self) -> Taken {
        Taken { size: self.images.values().map(|image| image.size).sum(), mark: self.mark.clone() }
    }

    /// That it is this one: an older one of the same app, put back, would undo what the app did since.
    ///
    /// # Errors
    /// [`SnapshotError::Unusable`] if it is not.
    pub fn is(&self, taken: &Taken) -> Result<(), SnapshotError> {
        if self.mark == taken.mark {
            return Ok(());
        }
        Err(SnapshotError::Unusable { what: "it is not the last one that was taken".to_owned() })
    }
}

fn unusable(error: impl std::error::Error) -> SnapshotError {
    SnapshotError::Unusable { what: error.to_string() }
}

fn images_in(folder: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let entries = std::fs::read_dir(folder).map_err(io("read", folder))?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(io("read", folder))?.path();
        let is_ours = path.file_name().is_some_and(|name| name == NAME || name == criu::LOG);
        if !is_ours {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn digest(path: &Path, key: &Key) -> Result<Image, SnapshotError> {
    let mut file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path).map_err(io("open", path))?;
    let mut hasher = blake3::Hasher::new_keyed(&key.0);
    let mut buffer = vec![0; 256 << 10];
    let mut size = 0;
    loop {
        match file.read(&mut buffer).map_err(io("read", path))? {
            0 => break,
            length => {
                hasher.update(&buffer[..length]);
                size += length as u64;
            }
        }
    }
    Ok(Image { size, digest: hasher.finalize().to_hex().to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        folder: tempfile::TempDir,
        key: Key,
        subject: Subject,
    }

    fn subject() -> Subject {
        let image = Digest::parse(format!("sha256:{}", "a".repeat(64))).expect("a digest");
        Subject::here(InstanceId::parse("abcdefghij").expect("an id"), image, b"spec").expect("this host")
    }

    fn case() -> Case {
        let folder = tempfile::tempdir().expect("a folder");
        let key = Key::open(&folder.path().join("key")).expect("a key");
        std::fs::create_dir(folder.path().join("images")).expect("a folder");
        let case = Case { folder, key, subject: subject() };
        std::fs::write(case.images().join("core-2.img"), "core").expect("an image");
        std::fs::write(case.images().join("pages-1.img"), vec![7; LARGE as usize]).expect("an image");
        std::fs::write(case.images().join(criu::LOG), "nothing").expect("a log");
        let tasks = Tasks::default();
        Manifest::seal(&case.images(), &case.key, case.subject.clone(), (2, [5, 6]), tasks, [1, 2]).expect("sealed");
        case
    }

    impl Case {
        fn images(&self) -> PathBuf {
            self.folder.path().join("images")
        }

        fn refused(&self) -> String {
            let opened = Manifest::open(&self.images(), &self.key, &self.subject);
            let checked = opened.and_then(|manifest| {
                manifest.check(&self.images(), &self.key, false)?;
                manifest.check(&self.images(), &self.key, true)
            });
            checked.expect_err("it is refused").to_string()
        }
    }

    #[test]
    fn what_was_sealed_is_read_again() {
        let case = case();
        let manifest = Manifest::open(&case.images(), &case.key, &case.subject).expect("opened");
        assert_eq!((manifest.pid_inside, manifest.streams, manifest.taken().size), (2, [5, 6], LARGE + 4));
        manifest.check(&case.images(), &case.key, false).expect("whole");
        manifest.check(&case.images(), &case.key, true).expect("whole");
    }

    #[test]
    fn a_damaged_image_is_named() {
        for (name, contents) in [("core-2.img", b"cure".to_vec()), ("pages-1.img", vec![8; LARGE as usize])] {
            let case = case();
            std::fs::write(case.images().join(name), contents).expect("changed");
            assert!(case.refused().contains(name), "{}", case.refused());
        }
    }

    #[test]
    fn an_image_too_few_or_too_many_is_named() {
        let few = case();
        std::fs::remove_file(few.images().join("core-2.img")).expect("removed");
        assert!(few.refused().contains("core-2.img is missing"), "{}", few.refused());
        let many = case();
        std::fs::write(many.images().join("fs-3.img"), "").expect("planted");
        assert!(many.refused().contains("too many: fs-3.img"), "{}", many.refused());
    }

    #[test]
    fn a_foreign_changed_or_half_snapshot_is_none() {
        let mut foreign = case();
        std::fs::remove_file(foreign.folder.path().join("key")).expect("removed");
        foreign.key = Key::open(&foreign.folder.path().join("key")).expect("another key");
        assert!(foreign.refused().contains("did not write it"), "{}", foreign.refused());
        let half = case();
        std::fs::remove_file(half.images().join(NAME)).expect("removed");
        assert!(half.refused().contains("no manifest"), "{}", half.refused());
        let torn = case();
        std::fs::write(torn.images().join(NAME), "drowse-snapshot v1").expect("torn");
        assert!(torn.refused().contains("damaged"), "{}", torn.refused());
    }

    #[test]
    fn an_older_one_that_was_put_back_is_none() {
        let (older, newer) = (case(), case());
        let open = |case: &Case| Manifest::open(&case.images(), &case.key, &case.subject).expect("whole");
        open(&older).is(&open(&older).taken()).expect("itself");
        let refused = open(&older).is(&open(&newer).taken()).expect_err("another").to_string();
        assert!(refused.contains("not the last one"), "{refused}");
    }

    #[test]
    fn what_it_is_of_must_be_the_same() {
        type Change = fn(&mut Subject);
        let changes: [(Change, &str); 5] = [
            (|subject| subject.image = Digest::from_sha256([9; 32]), "another image"),
            (|subject| subject.instance = InstanceId::parse("another").expect("an id"), "another instance"),
            (|subject| subject.spec.push('x'), "another environment"),
            (|subject| subject.kernel.push('x'), "the kernel"),
            (|subject| subject.processor.push('x'), "the processor"),
        ];
        for (change, wanted) in changes {
            let mut case = case();
            change(&mut case.subject);
            assert!(case.refused().contains(wanted), "{}", case.refused());
        }
    }
}
