//! Sweeps: nothing that is needed is ever lost, and what is left in the end is what is needed.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::testing::Archive;

const NO_GRACE: Duration = Duration::ZERO;

fn store() -> (TempDir, ImageStore) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = ImageStore::open(&folder.path().join("images")).expect("a store");
    (folder, store)
}

/// A layer with one file that says `name`.
fn layer(store: &ImageStore, name: &str) -> Layer {
    let me = u64::from(rustix::process::geteuid().as_raw());
    let bytes = Archive::owned(me).file("name", name).end();
    let (blob, size) = store.put_blob(&bytes[..], None, 1 << 20).expect("a blob");
    Layer { diff_id: blob.clone(), blob, size, media_type: MediaType::ImageLayer }
}

fn image(store: &ImageStore, base: Option<&Image>, names: &[&str]) -> Digest {
    let layers: Vec<Layer> = names.iter().map(|name| layer(store, name)).collect();
    store.compose(base, &layers, &|_| {}).expect("an image")
}

fn roots(images: &[&Digest], blobs: &[&Digest]) -> Roots {
    let set = |digests: &[&Digest]| digests.iter().map(|digest| (*digest).clone()).collect();
    Roots { images: set(images), blobs: set(blobs) }
}

fn retain(store: &ImageStore, roots: Roots, grace: Duration) -> Removed {
    store.retain::<StoreError>(|| Ok(roots), grace).expect("sweeps").expect("nobody is in the way")
}

fn names(store: &ImageStore, folder: &str) -> HashSet<String> {
    let entries = std::fs::read_dir(store.dir().join(folder)).expect("reads");
    entries.map(|entry| entry.expect("reads").file_name().to_string_lossy().into_owned()).collect()
}

/// All that an image is made of, found by reading it and not by the sweep's own way.
fn parts(store: &ImageStore, image: &Digest) -> (HashSet<String>, HashSet<String>) {
    let image = store.image(image).expect("it is whole");
    let config = image.manifest.config().digest().digest().to_owned();
    let mut blobs = HashSet::from([image.digest.hex().to_owned(), config]);
    blobs.extend(image.layers.iter().map(|layer| layer.blob.hex().to_owned()));
    (blobs, image.layers.iter().map(|layer| layer.diff_id.hex().to_owned()).collect())
}

#[test]
fn tags_and_roots_are_kept_with_all_they_are_made_of_and_nothing_else() {
    let (_folder, store) = store();
    let base = image(&store, None, &["base"]);
    let app = image(&store, Some(&store.image(&base).expect("is there")), &["app"]);
    let other = image(&store, None, &["other", "base"]);
    store.tag("stack/base", &base).expect("tagged");
    for image in [&base, &app, &other] {
        store.unpack(&store.image(image).expect("is there")).expect("unpacks");
    }
    let (upload, _) = store.put_blob(&b"upload"[..], None, 10).expect("put");
    let (spent, _) = store.put_blob(&b"spent"[..], None, 10).expect("put");

    let removed = retain(&store, roots(&[&app], &[&upload]), NO_GRACE);
    assert_eq!((removed.blobs, removed.layers), (4, 1), "manifest, configuration, one layer, one upload");
    assert!(store.has_blob(&upload) && !store.has_blob(&spent));
    assert!(store.image(&other).is_err());
    assert_eq!(store.unpack(&store.image(&app).expect("whole")).expect("there").len(), 2);
    store.untag("stack/base").expect("untagged");
    retain(&store, roots(&[&app], &[]), NO_GRACE);
    assert!(store.image(&base).is_err() && store.image(&app).is_ok());
    retain(&store, Roots::default(), NO_GRACE);
    assert_eq!((names(&store, "blobs/sha256").len(), names(&store, "layers").len()), (0, 0));
}

#[test]
fn what_was_just_put_and_what_is_held_is_kept_and_what_was_left_behind_is_not() {
    let (_folder, store) = store();
    let (young, _) = store.put_blob(&b"young"[..], None, 10).expect("put");
    retain(&store, Roots::default(), Duration::from_hours(1));
    assert!(store.has_blob(&young));

    let held = image(&store, None, &["held"]);
    let hold = store.hold();
    let found = store.image(&held).expect("found");
    store.unpack(&found).expect("unpacks");
    retain(&store, Roots::default(), NO_GRACE);
    assert!(store.layer_path(&found.layers[0].diff_id).is_dir());
    drop(hold);
    assert!(store.image(&held).is_ok());
    std::fs::create_dir(store.dir().join("tmp/gone-1")).expect("made");
    let old = store.dir().join("tmp/blob-old");
    let file = std::fs::File::create(&old).expect("made");
    file.set_modified(std::time::SystemTime::now() - Duration::from_hours(48)).expect("dated");
    std::fs::write(store.dir().join("tmp/blob-new"), "").expect("made");
    retain(&store, Roots::default(), NO_GRACE);
    assert!(store.image(&held).is_err());
    assert_eq!(names(&store, "tmp"), HashSet::from(["blob-new".to_owned()]));
}

#[test]
fn what_becomes_a_root_while_a_sweep_goes_on_is_not_lost() {
    let (_folder, store) = store();
    let hold = store.hold();
    let made = image(&store, None, &["made"]);
    let removed = store.retain::<StoreError>(
        || {
            // The build ends after the roots were read: its image is a root from now on.
            drop(hold);
            Ok(Roots::default())
        },
        NO_GRACE,
    );
    assert!(removed.is_ok());
    assert!(store.image(&made).is_ok());
    retain(&store, Roots::default(), NO_GRACE);
    assert!(store.image(&made).is_err());
}

#[test]
fn nothing_is_removed_where_a_root_is_damaged_or_a_stack_is_made() {
    let (_folder, store) = store();
    let (damaged, other) = (image(&store, None, &["a"]), image(&store, None, &["b"]));
    std::fs::write(store.dir().join("blobs/sha256").join(damaged.hex()), "{}").expect("written");
    let swept = store.retain::<StoreError>(|| Ok(roots(&[&damaged], &[])), NO_GRACE);
    assert!(matches!(swept, Err(StoreError::WrongDigest { .. })));
    let lock = store.hold_off_sweeps().expect("held off");
    let swept = store.retain::<StoreError>(|| Ok(Roots::default()), NO_GRACE);
    assert!(matches!(swept, Ok(None)));
    assert!(store.image(&other).is_ok());
    drop(lock);
    assert!(retain(&store, Roots::default(), NO_GRACE).blobs > 0);
}

#[derive(Debug, Clone)]
enum Move {
    Compose { names: Vec<u8>, on: Option<u8> },
    Unpack(u8),
    Tag(u8),
    Untag(u8),
    Root(u8),
    Unroot(u8),
    Upload(u8),
    Sweep,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        3 => (prop::collection::vec(0_u8..6, 0..3), prop::option::of(any::<u8>()))
            .prop_map(|(names, on)| Move::Compose { names, on }),
        2 => any::<u8>().prop_map(Move::Unpack),
        1 => any::<u8>().prop_map(Move::Tag),
        1 => any::<u8>().prop_map(Move::Untag),
        2 => any::<u8>().prop_map(Move::Root),
        1 => any::<u8>().prop_map(Move::Unroot),
        1 => (0_u8..4).prop_map(Move::Upload),
        2 => Just(Move::Sweep),
    ];
    prop::collection::vec(one, 1..30)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn after_any_history_a_sweep_leaves_exactly_what_tags_and_roots_are_made_of(moves in moves()) {
        let (_folder, store) = store();
        let mut images: Vec<Digest> = Vec::new();
        let mut rooted: HashSet<Digest> = HashSet::new();
        let mut uploads: HashSet<Digest> = HashSet::new();
        for step in moves.into_iter().chain([Move::Sweep]) {
            let chosen = |which: u8| images.get(usize::from(which) % images.len().max(1)).cloned();
            match step {
                Move::Compose { names, on } => {
                    let names: Vec<String> = names.iter().map(|name| name.to_string()).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    let base = on.and_then(chosen).and_then(|base| store.image(&base).ok());
                    images.push(image(&store, base.as_ref(), &names));
                }
                Move::Unpack(which) => {
                    if let Some(image) = chosen(which).and_then(|image| store.image(&image).ok()) {
                        store.unpack(&image).expect("unpacks");
                    }
                }
                Move::Tag(which) => {
                    if let Some(image) = chosen(which).filter(|image| store.image(image).is_ok()) {
                        store.tag(&format!("t{}", which % 4), &image).expect("tagged");
                    }
                }
                Move::Untag(which) => store.untag(&format!("t{}", which % 4)).expect("untagged"),
                Move::Root(which) => rooted.extend(chosen(which).filter(|image| store.image(image).is_ok())),
                Move::Unroot(which) => {
                    if let Some(image) = chosen(which) {
                        rooted.remove(&image);
                    }
                }
                Move::Upload(which) => {
                    let (digest, _) = store.put_blob(&[b'u', which][..], None, 10).expect("put");
                    if which % 2 == 0 {
                        uploads.insert(digest);
                    }
                }
                Move::Sweep => {
                    let unpacked = names(&store, "layers");
                    retain(&store, Roots { images: rooted.clone(), blobs: uploads.clone() }, NO_GRACE);
                    let tagged = store.tags().expect("reads").into_iter().map(|tag| tag.image);
                    let (mut blobs, mut layers) = (HashSet::new(), HashSet::new());
                    for image in tagged.chain(rooted.iter().cloned()) {
                        let (more_blobs, more_layers) = parts(&store, &image);
                        blobs.extend(more_blobs);
                        layers.extend(more_layers);
                    }
                    blobs.extend(uploads.iter().map(|upload| upload.hex().to_owned()));
                    prop_assert_eq!(names(&store, "blobs/sha256"), blobs);
                    let left: HashSet<String> = layers.intersection(&unpacked).cloned().collect();
                    prop_assert_eq!(names(&store, "layers"), left);
                }
            }
        }
    }
}

#[test]
fn builds_at_once_with_sweeps_lose_nothing_and_end_at_what_is_needed() {
    const BUILDERS: usize = 4;
    const BUILDS: usize = 40;
    let (_folder, store) = store();
    let base = image(&store, None, &["base"]);
    store.tag("stack/base", &base).expect("tagged");
    let kept: Mutex<HashSet<Digest>> = Mutex::default();
    let (over, sweeps) = (AtomicBool::new(false), AtomicUsize::new(0));
    let lock = || kept.lock().expect("nobody panicked");
    std::thread::scope(|scope| {
        let builders: Vec<_> = (0..BUILDERS)
            .map(|builder| {
                let (store, base, lock) = (&store, &base, &lock);
                scope.spawn(move || {
                    for build in 0..BUILDS {
                        // What the builders make overlaps: one's leavings are another's parts.
                        let (shared, own) = (format!("shared-{}", build % 5), format!("{builder}-{}", build % 3));
                        let hold = store.hold();
                        let base = store.image(base).expect("a tag is always whole");
                        let first = layer(store, &shared);
                        store.unpack_layers(std::slice::from_ref(&first)).expect("unpacks");
                        let second = layer(store, &own);
                        let made = store.compose(Some(&base), &[first, second], &|_| {}).expect("composes");
                        let found = store.image(&made).expect("whole while it is held");
                        for path in store.unpack(&found).expect("unpacks") {
                            assert!(path.join("name").is_file());
                        }
                        lock().insert(made.clone());
                        drop(hold);
                        let found = store.image(&made).expect("whole while it is a root");
                        assert!(store.unpack(&found).expect("unpacks").iter().all(|path| path.join("name").is_file()));
                        if build % 4 != 0 {
                            lock().retain(|image| *image != made);
                        }
                    }
                })
            })
            .collect();
        let sweeper = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let swept =
                    store.retain::<StoreError>(|| Ok(Roots { images: lock().clone(), ..Roots::default() }), NO_GRACE);
                assert!(swept.expect("sweeps").is_some());
                sweeps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let ended: Vec<_> = builders.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        sweeper.join().expect("sweeps to the end");
        assert!(ended.iter().all(Result::is_ok), "a builder lost something");
    });
    assert!(sweeps.load(Ordering::Relaxed) > 10);
    let images = lock().clone();
    retain(&store, Roots { images: images.clone(), ..Roots::default() }, NO_GRACE);
    let (mut blobs, mut layers) = parts(&store, &base);
    for image in &images {
        let (more_blobs, more_layers) = parts(&store, image);
        blobs.extend(more_blobs);
        layers.extend(more_layers);
    }
    assert_eq!(names(&store, "blobs/sha256"), blobs);
    let unpacked = names(&store, "layers");
    assert!(unpacked.is_subset(&layers), "{unpacked:?}");
    assert_eq!(names(&store, "tmp").len(), 0);
}
