//! The store as its users see it, on the real file system and with real overlays.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::digest;
use crate::overlay::{IdRange, OverlayPlan};
use crate::testing::{Archive, is_root, picture};

const HOST: IdRange = IdRange { first: 6_553_600, count: 65_536 };

fn store() -> (TempDir, ImageStore) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = ImageStore::open(&folder.path().join("images")).expect("a store");
    (folder, store)
}

/// A layer of this archive, as a builder elsewhere would have made it.
fn layer(store: &ImageStore, archive: Archive) -> Layer {
    let bytes = archive.end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).expect("compresses");
    let (blob, size) = store.put_blob(&gzip.finish().expect("compresses")[..], None, 1 << 20).expect("a blob");
    Layer { blob, size, diff_id: digest::of(&bytes), media_type: MediaType::ImageLayerGzip }
}

fn file(folder: &Path, bytes: &[u8]) -> File {
    let path = folder.join("archive");
    fs::write(&path, bytes).expect("a file");
    File::open(path).expect("a file")
}

fn left_behind(store: &ImageStore) -> usize {
    fs::read_dir(store.dir().join("tmp")).expect("tmp").count()
}

#[test]
fn a_blob_with_another_digest_or_too_many_bytes_is_refused_and_leaves_nothing() {
    let (_folder, store) = store();
    let other = digest::of(b"other");
    let error = store.put_blob(&b"content"[..], Some(&other), 100).expect_err("another digest");
    assert!(matches!(error, StoreError::WrongDigest { .. }), "{error}");
    assert!(matches!(store.put_blob(&b"content"[..], None, 6), Err(StoreError::TooLarge { .. })));
    assert!(!store.has_blob(&other) && !store.has_blob(&digest::of(b"content")));
    assert_eq!(left_behind(&store), 0);
    let (digest, size) = store.put_blob(&b"content"[..], None, 7).expect("stored");
    assert_eq!(
        (size, std::io::read_to_string(store.open_blob(&digest).expect("open")).expect("read")),
        (7, "content".into())
    );
}

#[test]
fn a_tag_moves_and_survives_opening_again() {
    let (folder, store) = store();
    let first = store.compose(None, &[], &|_| {}).expect("an image");
    let second = store.compose(None, &[], &|image| {
        image.set_author(Some("us".to_owned()));
    });
    let second = second.expect("an image");
    store.tag("stack/python", &first).expect("tagged");
    store.tag("stack/python", &second).expect("tagged");
    store.tag("deps/1", &first).expect("tagged");
    let again = ImageStore::open(&folder.path().join("images")).expect("opens");
    assert_eq!(again.tagged("stack/python").expect("reads"), Some(second));
    assert_eq!(again.tags().expect("reads").len(), 2);
    again.untag("deps/1").expect("untagged");
    assert_eq!(store.tagged("deps/1").expect("reads"), None);
    assert!(matches!(store.tag("x", &digest::of(b"nothing")), Err(StoreError::Missing { .. })));
}

#[test]
fn a_corrupted_index_is_named_and_not_overwritten() {
    let (folder, store) = store();
    let path = store.dir().join("index.json");
    fs::write(&path, "{ this is no index").expect("a file");
    let error = store.tags().expect_err("corrupted").to_string();
    assert!(error.contains("index.json is not a valid image index"), "{error}");
    let image = store.compose(None, &[], &|_| {}).expect("an image");
    assert!(store.tag("a", &image).is_err());
    assert!(ImageStore::open(&folder.path().join("images")).is_err());
    assert_eq!(fs::read_to_string(&path).expect("reads"), "{ this is no index");
}

#[test]
fn a_damaged_manifest_is_not_believed() {
    let (_folder, store) = store();
    let image = store.compose(None, &[], &|_| {}).expect("an image");
    fs::write(store.dir().join("blobs/sha256").join(image.hex()), "{}").expect("written");
    assert!(matches!(store.image(&image), Err(StoreError::WrongDigest { .. })));
}

#[test]
fn the_same_parts_give_the_same_image() {
    let (_folder, store) = store();
    let make = || {
        store.compose(None, &[], &|image| {
            let mut config = image.config().clone().unwrap_or_default();
            let labels: HashMap<_, _> = (0..20).map(|n| (format!("label-{n}"), n.to_string())).collect();
            config.set_labels(Some(labels));
            image.set_config(Some(config));
        })
    };
    let first = make().expect("an image");
    assert!((0..20).all(|_| make().expect("an image") == first));
}

#[test]
fn a_layer_that_is_not_what_its_image_says_leaves_nothing_behind() {
    if !is_root("a_layer_that_is_not_what_its_image_says_leaves_nothing_behind") {
        return;
    }
    let (_folder, store) = store();
    let mut wrong = layer(&store, Archive::new().file("a", "x"));
    wrong.diff_id = digest::of(b"something else");
    assert!(matches!(store.unpack_layers(std::slice::from_ref(&wrong)), Err(StoreError::WrongDigest { .. })));
    let hostile = layer(&store, Archive::new().file("a", "x").file("../b", "x"));
    let error = store.unpack_layers(std::slice::from_ref(&hostile)).expect_err("hostile");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert_eq!(cause, r#"archive entry "../b" is refused: its name leads upwards with "..""#);
    for bad in [wrong, hostile] {
        assert!(!store.layer_path(&bad.diff_id).exists());
    }
    assert_eq!(left_behind(&store), 0);
}

#[test]
fn a_layer_wanted_by_many_at_once_is_unpacked_once() {
    if !is_root("a_layer_wanted_by_many_at_once_is_unpacked_once") {
        return;
    }
    let (_folder, store) = store();
    let archive = (0..300).fold(Archive::new(), |archive, n| archive.file(&format!("file-{n}"), "content"));
    let wanted = layer(&store, archive);
    let inodes: Vec<u64> = std::thread::scope(|scope| {
        let unpack = || {
            fs::metadata(&store.unpack_layers(std::slice::from_ref(&wanted)).expect("unpacks")[0]).expect("there").ino()
        };
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(unpack)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    assert!(inodes.iter().all(|inode| *inode == inodes[0]));
    assert!(store.inner.unpacking.lock().expect("the lock").is_empty(), "a turn was not forgotten");
    assert_eq!(left_behind(&store), 0);
}

#[test]
fn what_a_crash_left_is_removed_but_not_what_another_process_makes() {
    let (folder, store) = store();
    let dir = folder.path().join("images");
    fs::create_dir(dir.join("tmp/work-x")).expect("a folder");
    let other = ImageStore::open(&dir).expect("opens");
    assert_eq!(left_behind(&other), 1, "removed although the store is open elsewhere");
    drop((store, other));
    assert_eq!(left_behind(&ImageStore::open(&dir).expect("opens")), 0);
}

#[test]
fn an_upload_becomes_a_layer_below_its_prefix() {
    if !is_root("an_upload_becomes_a_layer_below_its_prefix") {
        return;
    }
    let (folder, store) = store();
    let bytes = Archive::owned(501)
        .with_mode("app.py", 0o600, "print()")
        .with_mode("bin/run", 0o700, "x")
        .file(".git/x", "")
        .end();
    for compressed in [bytes.clone(), zstd::encode_all(&bytes[..], 1).expect("compresses")] {
        let layer = store.layer_from_archive(file(folder.path(), &compressed), "/app", 1000).expect("a layer");
        let path = store.unpack_layers(&[layer]).expect("unpacks").remove(0);
        let dated = fs::metadata(path.join("app")).expect("there").mtime();
        assert_eq!(dated, 0, "the same upload is the same layer, whenever it comes");
        let mut names: Vec<_> = picture(&path).into_keys().collect();
        names.sort();
        assert_eq!(names, ["app", "app/app.py", "app/bin", "app/bin/run"].map(PathBuf::from));
        for name in names {
            let metadata = fs::metadata(path.join(&name)).expect("there");
            assert_eq!((metadata.uid(), metadata.gid()), (1000, 1000));
            let is_plain = name.ends_with("app.py");
            assert_eq!(metadata.mode() & 0o7777, if is_plain { 0o644 } else { 0o755 }, "{}", name.display());
        }
    }
    let error = store.layer_from_archive(file(folder.path(), &Archive::new().file("/etc/x", "").end()), "/app", 1000);
    assert!(matches!(error, Err(StoreError::Archive(_))));
    assert_eq!(left_behind(&store), 0);
}

/// An overlay that is unmounted whatever happens.
struct Overlay {
    merged: PathBuf,
}

impl Overlay {
    /// `None` where overlays cannot be mounted.
    fn mount(plan: &OverlayPlan, merged: &Path) -> Option<Self> {
        for folder in [&plan.upper, &plan.work, &merged.to_owned()] {
            fs::create_dir_all(folder).expect("a folder");
        }
        let lowers: Vec<String> = plan.lowers.iter().map(|lower| lower.display().to_string()).collect();
        let options =
            format!("lowerdir={},upperdir={},workdir={}", lowers.join(":"), plan.upper.display(), plan.work.display());
        nix::mount::mount(Some("overlay"), merged, Some("overlay"), nix::mount::MsFlags::empty(), Some(&*options))
            .ok()?;
        Some(Self { merged: merged.to_owned() })
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.merged);
    }
}

#[test]
fn what_was_changed_in_an_overlay_is_the_same_when_its_layer_is_put_on_top() {
    let test = "what_was_changed_in_an_overlay_is_the_same_when_its_layer_is_put_on_top";
    if !is_root(test) {
        return;
    }
    let (folder, store) = store();
    let base = Archive::new()
        .folder("etc")
        .file("etc/gone", "x")
        .file("etc/changed", "old")
        .folder("replaced")
        .file("replaced/old", "x")
        .folder("kept")
        .file("kept/file", "x");
    let base = layer(&store, base);
    let lowers = store.unpack_layers(std::slice::from_ref(&base)).expect("unpacks");
    let merged = folder.path().join("merged");
    let plan = OverlayPlan::new(&lowers, &folder.path().join("instance"), IdRange::IDENTITY);
    let Some(overlay) = Overlay::mount(&plan, &merged) else {
        eprintln!("SKIPPED: {test}: overlays cannot be mounted here");
        return;
    };
    fs::remove_file(merged.join("etc/gone")).expect("removed");
    fs::write(merged.join("etc/changed"), "new").expect("written");
    fs::remove_dir_all(merged.join("replaced")).expect("removed");
    fs::create_dir(merged.join("replaced")).expect("made");
    fs::write(merged.join("replaced/new"), "x").expect("written");
    fs::hard_link(merged.join("replaced/new"), merged.join("replaced/newer")).expect("linked");
    symlink("/nowhere", merged.join("link")).expect("linked");
    fs::write(merged.join("script"), "x").expect("written");
    fs::set_permissions(merged.join("script"), fs::Permissions::from_mode(0o4711)).expect("set");
    chown(merged.join("script"), Some(1000), Some(1001)).expect("given away");
    fs::create_dir(merged.join("left-out")).expect("made");
    fs::write(merged.join("left-out/x"), "x").expect("written");
    let mut expected = picture(&merged);
    drop(overlay);
    let captured =
        store.capture_layer(&plan.upper, IdRange::IDENTITY, &|path| path != Path::new("left-out")).expect("captured");
    let again =
        store.capture_layer(&plan.upper, IdRange::IDENTITY, &|path| path != Path::new("left-out")).expect("captured");
    assert_eq!(captured, again, "the same folder gave two layers");
    let image = store.compose(None, &[base, captured], &|_| {}).expect("an image");
    let layers = store.unpack(&store.image(&image).expect("reads")).expect("unpacks");
    let plan = OverlayPlan::new(&layers, &folder.path().join("second"), IdRange::IDENTITY);
    let _overlay = Overlay::mount(&plan, &merged).expect("mounts");
    expected.retain(|path, _| !path.starts_with("left-out"));
    // Setuid does not come back from a layer.
    if let Some(script) = expected.get_mut(Path::new("script")) {
        *script = script.replace("104711", "100711");
    }
    assert_eq!(picture(&merged), expected);
}

#[test]
fn host_ids_become_the_images_and_others_are_refused() {
    if !is_root("host_ids_become_the_images_and_others_are_refused") {
        return;
    }
    let (folder, store) = store();
    let upper = folder.path().join("upper");
    fs::create_dir(&upper).expect("a folder");
    fs::write(upper.join("mine"), "x").expect("a file");
    chown(&upper, Some(HOST.first), Some(HOST.first)).expect("given away");
    chown(upper.join("mine"), Some(HOST.first + 1000), Some(HOST.first + 1000)).expect("given away");
    let layer = store.capture_layer(&upper, HOST, &|_| true).expect("captured");
    let path = store.unpack_layers(&[layer]).expect("unpacks").remove(0);
    assert_eq!(fs::metadata(path.join("mine")).expect("there").uid(), 1000);
    fs::write(upper.join("foreign"), "x").expect("a file");
    let error = store.capture_layer(&upper, HOST, &|_| true).expect_err("a foreign file");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.starts_with("foreign belongs to the host's 0:0"), "{cause}");
    fs::remove_file(upper.join("foreign")).expect("removed");
    fs::write(upper.join(".wh.passwd"), "").expect("a file");
    assert!(store.capture_layer(&upper, IdRange::IDENTITY, &|_| true).is_err());
    assert_eq!(left_behind(&store), 0);
}

#[test]
fn a_layout_is_imported_from_a_folder_and_from_an_archive() {
    if !is_root("a_layout_is_imported_from_a_folder_and_from_an_archive") {
        return;
    }
    let (folder, from) = store();
    let base = layer(&from, Archive::new().file("hello", "x"));
    let image = from.compose(None, &[base], &|_| {}).expect("an image");
    let other = from.compose(None, &[], &|_| {}).expect("an image");
    from.tag("first", &image).expect("tagged");
    from.tag("second", &other).expect("tagged");
    let to = ImageStore::open(&folder.path().join("to")).expect("a store");
    assert_eq!(to.import_layout(from.dir(), Some("first")).expect("imported"), image);
    assert_eq!(to.unpack(&to.image(&image).expect("reads")).expect("unpacks").len(), 1);
    let error = to.import_layout(from.dir(), None).expect_err("two images").to_string();
    assert!(error.contains("choose one of its images by name: first, second"), "{error}");
    assert!(to.import_layout(from.dir(), Some("third")).is_err());

    let archive = folder.path().join("layout.tar");
    let mut tar = tar::Builder::new(File::create(&archive).expect("a file"));
    for part in ["oci-layout", "index.json", "blobs"] {
        let path = from.dir().join(part);
        if path.is_dir() { tar.append_dir_all(part, path) } else { tar.append_path_with_name(path, part) }
            .expect("added");
    }
    tar.finish().expect("written");
    let third = ImageStore::open(&folder.path().join("third")).expect("a store");
    assert_eq!(third.import_layout(&archive, Some("first")).expect("imported"), image);
    let stack = crate::stacks::import("python", &archive, Some("first"), &third).expect("a stack");
    assert_eq!((stack, third.tagged("stack/python").expect("reads")), (image.clone(), Some(image)));
    let unknown = crate::stacks::import("cobol", &archive, None, &third).expect_err("no such stack").to_string();
    assert!(unknown.contains("there are: python, node"), "{unknown}");
    assert_eq!(left_behind(&third), 0);
}

#[test]
fn a_layout_with_a_wrong_blob_or_a_link_to_the_host_is_refused() {
    let (folder, from) = store();
    let image = from.compose(None, &[], &|_| {}).expect("an image");
    from.tag("it", &image).expect("tagged");
    let to = ImageStore::open(&folder.path().join("to")).expect("a store");
    let config = from.image(&image).expect("reads").manifest.config().digest().to_string();
    let blob = from.dir().join("blobs/sha256").join(config.trim_start_matches("sha256:"));
    let content = fs::read(&blob).expect("reads");
    fs::write(&blob, vec![b' '; content.len()]).expect("written");
    assert!(matches!(to.import_layout(from.dir(), None), Err(StoreError::WrongDigest { .. })));
    fs::remove_file(&blob).expect("removed");
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, content).expect("written");
    symlink(&elsewhere, &blob).expect("linked");
    assert!(matches!(to.import_layout(from.dir(), None), Err(StoreError::Io { action: "open", .. })));
    assert!(to.import_layout(&folder.path().join("missing"), None).is_err());
}

#[derive(Debug, Clone)]
enum Thing {
    File(Vec<u8>, u32),
    Folder(u32),
    Symlink(String),
}

fn things() -> impl Strategy<Value = Vec<(Vec<String>, Thing)>> {
    let name = prop_oneof!["[a-c]", "[a-zA-Z0-9 äß._-]{1,20}", "x{90,200}"]
        .prop_filter("a name that means something", |name| name != "." && name != ".." && !name.starts_with(".wh."));
    let thing = prop_oneof![
        (prop::collection::vec(any::<u8>(), 0..2000), 0_u32..0o1000).prop_map(|(bytes, mode)| Thing::File(bytes, mode)),
        (0o700_u32..0o1000).prop_map(Thing::Folder),
        "[a-z/.]{1,150}".prop_map(Thing::Symlink),
    ];
    prop::collection::vec((prop::collection::vec(name, 1..4), thing), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_folder_survives_the_way_through_a_layer(things in things(), id in 0_u32..65_000) {
        if is_root("a_folder_survives_the_way_through_a_layer") {
            let (folder, store) = store();
            let upper = folder.path().join("upper");
            fs::create_dir(&upper).expect("a folder");
            for (names, thing) in things {
                let path = names.iter().fold(upper.clone(), |path, name| path.join(name));
                if fs::create_dir_all(path.parent().expect("a parent")).is_err() || fs::symlink_metadata(&path).is_ok() {
                    continue;
                }
                match thing {
                    Thing::File(bytes, mode) => {
                        fs::write(&path, bytes).expect("written");
                        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
                    }
                    Thing::Folder(mode) => {
                        fs::create_dir(&path).expect("made");
                        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
                    }
                    Thing::Symlink(target) => symlink(target, &path).expect("linked"),
                }
                std::os::unix::fs::lchown(&path, Some(id), Some(id / 2)).expect("given away");
            }
            let layer = store.capture_layer(&upper, IdRange::IDENTITY, &|_| true).expect("captured");
            let unpacked = store.unpack_layers(&[layer]).expect("unpacks").remove(0);
            prop_assert_eq!(picture(&unpacked), picture(&upper));
        }
    }
}

#[test]
fn an_exported_layout_is_imported_again_and_a_link_in_its_place_is_not_followed() {
    let (folder, store) = store();
    let layer = layer(&store, Archive::new().file("a", "x"));
    let image = store.compose(None, &[layer], &|_| {}).expect("an image");
    let out = folder.path().join("out");
    store.export_layout(&image, &out.join("layout")).expect("exported");
    let other = ImageStore::open(&folder.path().join("other")).expect("a store");
    assert_eq!(other.import_layout_below(&out, "layout", Some("image")).expect("imported"), image);
    symlink(out.join("layout"), out.join("link")).expect("a link");
    assert!(other.import_layout_below(&out, "link", Some("image")).is_err());
    assert!(other.import_layout_below(&out, "../out/layout", Some("image")).is_err());
}
