//! Hostile archives and layouts at the doors of the store: refused, and nothing is left of them.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::bundle::AllowList;
use crate::digest;
use crate::hostile::{Case, Door, bombs, corpus, make_canary};
use crate::testing::{Archive, in_full, is_root, picture};

/// A store, and beside it what must not change.
struct Arena {
    folder: TempDir,
    store: ImageStore,
}

impl Arena {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        make_canary(&folder.path().join("outside"));
        let store = ImageStore::open(&folder.path().join("images")).expect("a store");
        Self { folder, store }
    }

    /// What is in the store.
    fn left(&self) -> Vec<String> {
        let folders = ["tmp", "layers", "blobs/sha256"].map(|folder| self.store.dir().join(folder));
        let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).expect("reads"));
        entries.map(|entry| entry.expect("reads").path().display().to_string()).collect()
    }

    fn outside(&self) -> PathBuf {
        self.folder.path().join("outside")
    }

    /// What comes of the archive at this door.
    fn receive(&self, case: &Case, door: Door) -> Result<(), StoreError> {
        let path = self.folder.path().join("archive");
        fs::write(&path, &case.archive).expect("written");
        let archive = File::open(&path).expect("opens");
        match door {
            Door::Upload => self.store.layer_from_archive(archive, "app", 1000).map(drop),
            Door::Bundle => self.store.import_bundle_archive(archive, &AllowList::default()).map(drop),
            Door::Layer => {
                let (blob, size) = self.store.put_blob(archive, None, 1 << 30)?;
                let (diff_id, media_type) = (digest::of(&case.archive), MediaType::ImageLayer);
                let unpacked =
                    self.store.unpack_layers(&[Layer { blob: blob.clone(), size, diff_id, media_type }]).map(drop);
                // It was there before.
                fs::remove_file(self.store.dir().join("blobs/sha256").join(blob.hex())).expect("removed");
                unpacked
            }
        }
    }
}

fn refused_everywhere(cases: &[Case], arena: &Arena) {
    let outside = picture(&arena.outside());
    let mut wrong = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        for door in case.doors {
            let told = arena.receive(case, *door).map_or_else(|error| in_full(&error), |()| "taken".to_owned());
            if !told.contains(&case.error) || told.contains('\n') || told.contains("/images/tmp/") {
                wrong.push(format!("{number} at {door:?}: {told:?} instead of {:?}", case.error));
            }
            wrong.extend(arena.left().into_iter().map(|left| format!("{number} at {door:?} left {left}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(picture(&arena.outside()), outside, "something outside changed");
}

#[test]
fn every_hostile_archive_is_refused_with_its_own_words_and_leaves_nothing() {
    if is_root("every_hostile_archive_is_refused_with_its_own_words_and_leaves_nothing") {
        let arena = Arena::new();
        let cases = corpus(&arena.outside());
        assert!(cases.len() > 300, "{}", cases.len());
        refused_everywhere(&cases, &arena);
    }
}

#[test]
fn every_bomb_is_refused_with_its_own_words_and_leaves_nothing() {
    if is_root("every_bomb_is_refused_with_its_own_words_and_leaves_nothing") {
        refused_everywhere(&bombs(), &Arena::new());
    }
}

/// An image layout that is made to be wrong in one thing.
struct Layout {
    folder: TempDir,
    layer: String,
}

impl Layout {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir_all(folder.path().join("blobs/sha256")).expect("made");
        let mut layout = Self { folder, layer: String::new() };
        layout.layer = layout.blob(&Archive::new().file("hello", "x").end());
        layout.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        layout
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).expect("written");
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.folder.path().join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    fn blob(&self, bytes: &[u8]) -> String {
        let digest = digest::of(bytes).to_string();
        fs::write(self.path(&digest), bytes).expect("written");
        digest
    }

    fn config(&self) -> Value {
        json!({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [self.layer]}})
    }

    fn manifest(&self, config: &str) -> Value {
        json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.described("application/vnd.oci.image.config.v1+json", config),
            "layers": [self.described("application/vnd.oci.image.layer.v1.tar", &self.layer)],
        })
    }

    fn described(&self, media_type: &str, digest: &str) -> Value {
        let size = fs::metadata(self.path(digest)).expect("is there").len();
        json!({"mediaType": media_type, "digest": digest, "size": size})
    }

    /// Writes all that is above `manifest`.
    fn index(&self, manifest: &str) {
        let digest = self.blob(manifest.as_bytes());
        self.index_of(&json!([self.described(MANIFEST, &digest)]));
    }

    fn index_of(&self, manifests: &Value) {
        self.write("index.json", &json!({"schemaVersion": 2, "manifests": manifests}).to_string());
    }

    /// An honest image; the manifest's digest.
    fn honest(&self) -> (String, Value) {
        let config = self.blob(self.config().to_string().as_bytes());
        let manifest = self.manifest(&config);
        self.index(&manifest.to_string());
        (config, manifest)
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What is changed in an honest layout, and what is said of it then.
type Change = (&'static str, fn(&Layout));

const LAYOUTS: [Change; 24] = [
    ("the blob hashes to", |l| fs::write(l.path(&l.layer), vec![b'x'; 2048]).expect("written")),
    ("has 9 bytes, and is said to have 2048", |l| fs::write(l.path(&l.layer), "too short").expect("written")),
    ("the blob hashes to", |l| {
        let (config, _) = l.honest();
        let size = fs::metadata(l.path(&config)).expect("is there").len();
        fs::write(l.path(&config), " ".repeat(size.try_into().expect("small"))).expect("written");
    }),
    ("and is said to have 1000000", |l| changed(l, |m| m["layers"][0]["size"] = json!(1_000_000))),
    (" bytes, and is said to have 1", |l| changed(l, |m| m["config"]["size"] = json!(1))),
    ("the blob hashes to", |l| {
        let config = l.config().to_string().replace(&l.layer, &format!("sha256:{}", "1".repeat(64)));
        l.index(&l.manifest(&l.blob(config.as_bytes())).to_string());
    }),
    ("its manifest has 2 layers, its configuration 1", |l| {
        changed(l, |m| m["layers"] = json!([m["layers"][0], m["layers"][0]]));
    }),
    ("the key \"layers\" stands twice", |l| twice(l, "\"layers\":", "\"layers\":[],\"layers\":")),
    ("the key \"config\" stands twice", |l| twice(l, "\"config\":", "\"config\":{},\"config\":")),
    ("the key \"x\" stands twice", |l| {
        twice(l, "{\"config\"", "{\"annotations\":{\"x\":\"1\",\"x\":\"2\"},\"config\"")
    }),
    ("the key \"layers\" stands twice", |l| twice(l, "\"layers\":", "\"l\\u0061yers\":[],\"layers\":")),
    ("the key \"User\" stands twice", |l| {
        let config = l.config().to_string().replace("\"config\":{}", r#""config":{"User":"1000","User":"0"}"#);
        l.index(&l.manifest(&l.blob(config.as_bytes())).to_string());
    }),
    ("the key \"manifests\" stands twice", |l| {
        let text = fs::read_to_string(l.folder.path().join("index.json")).expect("reads");
        l.write("index.json", &text.replace("\"manifests\":", "\"manifests\":[],\"manifests\":"));
    }),
    ("the key \"imageLayoutVersion\" stands twice", |l| {
        l.write("oci-layout", r#"{"imageLayoutVersion":"1.0.0","imageLayoutVersion":"9"}"#);
    }),
    ("is a manifest and an index at once", |l| changed(l, |m| m["manifests"] = json!([]))),
    ("calls itself", |l| changed(l, |m| m["mediaType"] = json!(INDEX))),
    ("has the type application/octet-stream", |l| {
        changed(l, |m| m["layers"][0]["mediaType"] = json!("application/octet-stream"));
    }),
    ("sha512", |l| changed(l, |m| m["layers"][0]["digest"] = json!(format!("sha512:{}", "0".repeat(128))))),
    ("is not a valid image manifest", |l| {
        changed(l, |m| m["layers"][0]["digest"] = json!("sha256:../../../etc/passwd"))
    }),
    ("choose one of its images by name", |l| {
        let (_, mut manifest) = l.honest();
        let first = l.blob(manifest.to_string().as_bytes());
        manifest["annotations"] = json!({"another": "one"});
        let second = l.blob(manifest.to_string().as_bytes());
        let both = [first, second].map(|digest| {
            let mut described = l.described(MANIFEST, &digest);
            described["platform"] = json!({"architecture": std_arch(), "os": "linux"});
            described
        });
        l.index_of(&json!(both));
    }),
    ("its indexes are nested too deeply", |l| {
        let (_, manifest) = l.honest();
        let mut inner = l.described(MANIFEST, &l.blob(manifest.to_string().as_bytes()));
        for _ in 0..5 {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]}).to_string();
            inner = l.described(INDEX, &l.blob(index.as_bytes()));
        }
        l.index_of(&json!([inner]));
    }),
    ("Too many levels of symbolic links", |l| {
        fs::remove_file(l.path(&l.layer)).expect("removed");
        symlink("/etc/passwd", l.path(&l.layer)).expect("linked");
    }),
    ("is no regular file", |l| {
        fs::remove_file(l.path(&l.layer)).expect("removed");
        fs::create_dir(l.path(&l.layer)).expect("made");
    }),
    ("recursion limit exceeded", |l| l.write("index.json", &"[".repeat(100_000))),
];

fn std_arch() -> String {
    oci_spec::image::Arch::default().to_string()
}

fn changed(layout: &Layout, change: impl Fn(&mut Value)) {
    let (_, mut manifest) = layout.honest();
    change(&mut manifest);
    layout.index(&manifest.to_string());
}

fn twice(layout: &Layout, what: &str, with: &str) {
    let (_, manifest) = layout.honest();
    let text = manifest.to_string();
    assert!(text.contains(what), "{text}");
    layout.index(&text.replacen(what, with, 1));
}

fn import(store: &ImageStore, layout: &Path) -> Result<(), StoreError> {
    let image = store.import_layout(layout, None)?;
    store.unpack(&store.image(&image)?).map(drop)
}

#[test]
fn every_layout_that_lies_or_can_be_read_in_two_ways_is_refused_and_leaves_nothing() {
    if !is_root("every_layout_that_lies_or_can_be_read_in_two_ways_is_refused_and_leaves_nothing") {
        return;
    }
    let honest = Layout::new();
    honest.honest();
    import(&Arena::new().store, honest.folder.path()).expect("an honest one is taken");
    let arena = Arena::new();
    for (number, (error, change)) in LAYOUTS.iter().enumerate() {
        let layout = Layout::new();
        layout.honest();
        change(&layout);
        let told = in_full(&import(&arena.store, layout.folder.path()).expect_err(error));
        assert!(told.contains(error), "{number}: {told:?} instead of {error:?}");
        arena.store.retain::<StoreError>(|| Ok(Roots::default()), std::time::Duration::ZERO).expect("sweeps");
        assert_eq!(arena.left(), Vec::<String>::new(), "left by {number}");
    }
}
