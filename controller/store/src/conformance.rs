//! What every engine must do: one suite, run against each of them.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use crate::memory::Memory;
use crate::sqlite::Sqlite;
use crate::{Batch, Change, Compare, Outcome, Range, Revision, Store, StoreError, Transaction};

/// Makes stores of one engine.
trait Maker {
    /// An empty store; the folder lives as long as it is held.
    fn make() -> (Store, Option<tempfile::TempDir>);
}

struct InMemory;
impl Maker for InMemory {
    fn make() -> (Store, Option<tempfile::TempDir>) {
        (Store::new(Memory::default()), None)
    }
}

struct InFile;
impl Maker for InFile {
    fn make() -> (Store, Option<tempfile::TempDir>) {
        let dir = tempfile::tempdir().expect("folder");
        (Store::new(Sqlite::open(&dir.path().join("db")).expect("opens")), Some(dir))
    }
}

fn put(key: &str, value: &str) -> Change {
    Change::Put { key: key.into(), value: value.as_bytes().to_vec() }
}

fn delete(key: &str) -> Change {
    Change::Delete { key: key.into() }
}

async fn commit(store: &Store, changes: Vec<Change>) -> Revision {
    match store.transact(Transaction { compares: vec![], changes }).await.expect("transacts") {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict { key, .. } => panic!("conflict on {key}"),
    }
}

async fn keys_have_the_revision_of_their_last_change<M: Maker>() {
    let (store, _dir) = M::make();
    assert_eq!(store.get("a").await.expect("gets"), None);
    let first = commit(&store, vec![put("a", "1")]).await;
    let second = commit(&store, vec![put("a", "2"), put("b", "1")]).await;
    assert!(Revision(0) < first && first < second);
    let a = store.get("a").await.expect("gets").expect("exists");
    assert_eq!((a.value.as_slice(), a.created, a.modified), (b"2".as_slice(), first, second));
    commit(&store, vec![delete("a")]).await;
    let again = commit(&store, vec![put("a", "3")]).await;
    let a = store.get("a").await.expect("gets").expect("exists");
    assert_eq!((a.created, a.modified), (again, again));
    assert_eq!(store.revision(), again);
}

async fn a_transaction_whose_compare_fails_changes_nothing<M: Maker>() {
    let (store, _dir) = M::make();
    let made = commit(&store, vec![put("a", "1")]).await;
    let compare = |key: &str, modified| Compare { key: key.into(), modified };
    let stale = Transaction {
        compares: vec![compare("a", made), compare("b", Revision(9))],
        changes: vec![put("a", "2"), put("c", "1")],
    };
    let outcome = store.transact(stale).await.expect("transacts");
    assert_eq!(outcome, Outcome::Conflict { key: "b".into(), modified: Revision(0) });
    assert_eq!(store.list("").await.expect("lists").entries.len(), 1);
    assert_eq!(store.revision(), made);
    let good = Transaction {
        compares: vec![compare("a", made), compare("b", Revision(0))],
        changes: vec![put("a", "2"), put("b", "1")],
    };
    assert!(matches!(store.transact(good).await.expect("transacts"), Outcome::Committed(_)));
}

async fn a_transaction_without_effect_has_no_revision<M: Maker>() {
    let (store, _dir) = M::make();
    let before = commit(&store, vec![put("a", "1")]).await;
    assert_eq!(commit(&store, vec![delete("never")]).await, before);
    assert_eq!(commit(&store, vec![]).await, before);
    assert_eq!(store.revision(), before);
}

async fn a_list_is_sorted_and_can_be_read_in_parts<M: Maker>() {
    let (store, _dir) = M::make();
    commit(&store, vec![put("b/2", ""), put("a/9", ""), put("b/10", ""), put("b/1", ""), put("b0", ""), put("c", "")])
        .await;
    let keys = |page: crate::Page| page.entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    assert_eq!(keys(store.list("b/").await.expect("lists")), ["b/1", "b/10", "b/2"]);
    let range = Range { prefix: "b/".into(), after: Some("b/1".into()), limit: Some(1) };
    assert_eq!(keys(store.list_range(range).await.expect("lists")), ["b/10"]);
    assert_eq!(store.list("").await.expect("lists").entries.len(), 6);
}

async fn a_malformed_transaction_is_refused<M: Maker>() {
    let (store, _dir) = M::make();
    for changes in [vec![put("", "x")], vec![put("ü", "x")], vec![put(&"k".repeat(600), "x")]] {
        let error = store.transact(Transaction { compares: vec![], changes }).await.expect_err("bad key");
        assert!(matches!(error, StoreError::BadKey { .. }), "{error}");
    }
    let twice = Transaction { compares: vec![], changes: vec![put("a", "1"), delete("a")] };
    assert!(matches!(store.transact(twice).await, Err(StoreError::DuplicateKey { .. })));
    let large = Change::Put { key: "a".into(), value: vec![0; crate::MAX_VALUE + 1] };
    let large = Transaction { compares: vec![], changes: vec![large] };
    assert!(matches!(store.transact(large).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.revision(), Revision(0));
}

async fn a_watch_tells_everything_once_and_in_order<M: Maker>() {
    let (store, _dir) = M::make();
    let first = commit(&store, vec![put("a/1", "x")]).await;
    commit(&store, vec![put("b/1", "x")]).await;
    let mut watch = store.watch("a/", Revision(0));
    assert_eq!(watch.next().await.expect("watches"), Batch { revision: first, changes: vec![put("a/1", "x")] });
    let waiting = tokio::spawn(async move { (watch.next().await, watch.next().await) });
    commit(&store, vec![put("b/2", "x")]).await;
    let second = commit(&store, vec![put("a/2", "y"), put("b/3", "x"), delete("a/1")]).await;
    let third = commit(&store, vec![put("a/3", "z")]).await;
    let (two, three) = tokio::time::timeout(Duration::from_secs(10), waiting).await.expect("in time").expect("runs");
    assert_eq!(two.expect("watches"), Batch { revision: second, changes: vec![put("a/2", "y"), delete("a/1")] });
    assert_eq!(three.expect("watches"), Batch { revision: third, changes: vec![put("a/3", "z")] });
}

async fn a_long_history_is_watched_to_its_end<M: Maker>() {
    let (store, _dir) = M::make();
    for n in 0..600 {
        commit(&store, vec![put(&format!("k/{n:04}"), "")]).await;
    }
    let mut watch = store.watch("k/", Revision(100));
    for n in 101..=600 {
        assert_eq!(watch.next().await.expect("watches").revision, Revision(n));
    }
}

async fn compaction_forgets_history_but_no_value<M: Maker>() {
    let (store, _dir) = M::make();
    for n in 0..10 {
        commit(&store, vec![put(&format!("k/{n}"), "")]).await;
    }
    store.compact(Revision(6)).await.expect("compacts");
    store.compact(Revision(3)).await.expect("an older compaction is nothing");
    let error = store.watch("k/", Revision(5)).next().await.expect_err("compacted");
    assert!(matches!(error, StoreError::Compacted { asked: Revision(5), oldest: Revision(6) }), "{error}");
    assert_eq!(store.watch("k/", Revision(6)).next().await.expect("watches").revision, Revision(7));
    assert_eq!(store.list("k/").await.expect("lists").entries.len(), 10);
    store.compact(Revision(1000)).await.expect("never beyond the newest");
    let last = store.revision();
    let next = commit(&store, vec![put("k/10", "")]).await;
    assert_eq!(next, Revision(last.0 + 1));
    assert_eq!(store.watch("k/", last).next().await.expect("watches").revision, next);
}

async fn writers_at_once_lose_no_change<M: Maker>() {
    let (store, _dir) = M::make();
    commit(&store, vec![put("n", "0")]).await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..25 {
                    loop {
                        let entry = store.get("n").await.expect("gets").expect("exists");
                        let n: u32 = String::from_utf8(entry.value).expect("text").parse().expect("number");
                        let next = Transaction {
                            compares: vec![Compare { key: "n".into(), modified: entry.modified }],
                            changes: vec![put("n", &(n + 1).to_string())],
                        };
                        if let Outcome::Committed(_) = store.transact(next).await.expect("transacts") {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("runs");
    }
    assert_eq!(store.get("n").await.expect("gets").expect("exists").value, b"100");
}

/// One step of the model test.
#[derive(Debug, Clone)]
enum Step {
    Transact { compares: Vec<(u8, bool)>, changes: Vec<(u8, Option<u8>)> },
    Compact(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let transact = (
        proptest::collection::vec((0_u8..5, any::<bool>()), 0..3),
        proptest::collection::btree_map(0_u8..5, proptest::option::of(any::<u8>()), 0..4),
    )
        .prop_map(|(compares, changes)| Step::Transact { compares, changes: changes.into_iter().collect() });
    proptest::collection::vec(prop_oneof![9 => transact, 1 => any::<u8>().prop_map(Step::Compact)], 1..40)
}

/// A revision's whole state: what a store must be able to be rebuilt to from its watch.
type State = BTreeMap<String, (Vec<u8>, u64)>;

async fn agrees_with_the_model<M: Maker>(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (store, _dir) = M::make();
    let mut states: Vec<State> = vec![State::new()];
    let mut compacted = 0_usize;
    for step in steps {
        match step {
            Step::Compact(revision) => {
                let revision = usize::from(revision).min(states.len() - 1);
                store.compact(Revision(revision as u64)).await.expect("compacts");
                compacted = compacted.max(revision);
            }
            Step::Transact { compares, changes } => {
                let head = states.last().expect("never empty").clone();
                let modified = |key: &str| head.get(key).map_or(0, |(_, modified)| *modified);
                let transaction = Transaction {
                    compares: compares
                        .iter()
                        .map(|(key, holds)| {
                            let key = format!("k{key}");
                            Compare { modified: Revision(modified(&key) + u64::from(!holds)), key }
                        })
                        .collect(),
                    changes: changes
                        .iter()
                        .map(|(key, value)| match value {
                            Some(value) => Change::Put { key: format!("k{key}"), value: vec![*value] },
                            None => delete(&format!("k{key}")),
                        })
                        .collect(),
                };
                let holds = compares.iter().all(|(_, holds)| *holds);
                let next = states.len() as u64;
                let mut after = head.clone();
                let mut has_effect = false;
                for (key, value) in &changes {
                    let key = format!("k{key}");
                    has_effect |= match value {
                        Some(value) => {
                            after.insert(key, (vec![*value], next));
                            true
                        }
                        None => after.remove(&key).is_some(),
                    };
                }
                match store.transact(transaction).await.expect("transacts") {
                    Outcome::Conflict { .. } => prop_assert!(!holds),
                    Outcome::Committed(revision) => {
                        prop_assert!(holds);
                        if has_effect {
                            states.push(after);
                        }
                        prop_assert_eq!(revision, Revision(states.len() as u64 - 1));
                    }
                }
            }
        }
    }
    let head = states.last().expect("never empty");
    let listed: State =
        store.list("k").await.expect("lists").entries.into_iter().map(|e| (e.key, (e.value, e.modified.0))).collect();
    prop_assert_eq!(&listed, head);
    for (revision, state) in states.iter().enumerate() {
        let mut watch = store.watch("k", Revision(revision as u64));
        if revision < compacted {
            let is_refused = matches!(watch.next().await, Err(StoreError::Compacted { .. }));
            prop_assert!(is_refused);
            continue;
        }
        let mut replayed = state.clone();
        for (expected, wanted) in states.iter().enumerate().skip(revision + 1) {
            let batch = watch.next().await.expect("watches");
            prop_assert_eq!(batch.revision, Revision(expected as u64));
            for change in batch.changes {
                match change {
                    Change::Put { key, value } => drop(replayed.insert(key, (value, expected as u64))),
                    Change::Delete { key } => drop(replayed.remove(&key)),
                }
            }
            prop_assert_eq!(&replayed, wanted);
        }
    }
    Ok(())
}

macro_rules! suite {
    ($engine:ident, $maker:ty, $cases:literal; $($test:ident),* $(,)?) => {
        mod $engine {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test::<$maker>().await;
            })*

            proptest! {
                #![proptest_config(ProptestConfig { cases: $cases, ..ProptestConfig::default() })]
                #[test]
                fn agrees_with_the_model(steps in steps()) {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
                    runtime.block_on(super::agrees_with_the_model::<$maker>(steps))?;
                }
            }
        }
    };
}

macro_rules! suites {
    ($($test:ident),* $(,)?) => {
        suite!(memory_engine, InMemory, 256; $($test),*);
        suite!(sqlite_engine, InFile, 48; $($test),*);
    };
}

suites!(
    keys_have_the_revision_of_their_last_change,
    a_transaction_whose_compare_fails_changes_nothing,
    a_transaction_without_effect_has_no_revision,
    a_list_is_sorted_and_can_be_read_in_parts,
    a_malformed_transaction_is_refused,
    a_watch_tells_everything_once_and_in_order,
    a_long_history_is_watched_to_its_end,
    compaction_forgets_history_but_no_value,
    writers_at_once_lose_no_change,
);
