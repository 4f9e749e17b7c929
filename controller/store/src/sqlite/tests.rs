//! What holds of the file: durability, and the refusals.

use super::*;
use crate::Store;

fn put(key: &str, value: &[u8]) -> Transaction {
    Transaction { compares: vec![], changes: vec![Change::Put { key: key.into(), value: value.into() }] }
}

async fn filled(path: &Path) {
    let store = Store::new(Sqlite::open(path).expect("opens"));
    for n in 0..50 {
        store.transact(put(&format!("k/{n}"), &[7; 4000])).await.expect("commits");
    }
}

fn refusal(path: &Path) -> StoreError {
    match Sqlite::open(path) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn what_was_committed_is_there_after_reopening() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("drowse.db");
    filled(&path).await;
    let store = Store::new(Sqlite::open(&path).expect("opens"));
    assert_eq!(store.revision(), Revision(50));
    assert_eq!(store.list("k/").await.expect("lists").entries.len(), 50);
    let batch = store.watch("k/", Revision(49)).next().await.expect("watches");
    assert_eq!(batch.revision, Revision(50));
}

#[tokio::test]
async fn a_newer_schema_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("drowse.db");
    filled(&path).await;
    {
        let raw = Connection::open(&path).expect("opens");
        raw.pragma_update(None, "user_version", 9).expect("sets");
        raw.execute("UPDATE meta SET text = '9.9.9' WHERE key = 'written_by'", []).expect("sets");
        raw.pragma_update(None, "journal_mode", "delete").expect("folds the log in");
    }
    let before = std::fs::read(&path).expect("reads");
    let error = refusal(&path);
    assert!(matches!(error, StoreError::NewerSchema { found: 9, .. }), "{error}");
    assert!(error.to_string().contains("written by Drowse 9.9.9; upgrade"), "{error}");
    assert_eq!(std::fs::read(&path).expect("reads"), before);
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("drowse.db");
    filled(&path).await;
    let mut bytes = std::fs::read(&path).expect("reads");
    for page in (4096..bytes.len()).step_by(4096) {
        bytes[page..page + 64].fill(0xee);
    }
    std::fs::write(&path, &bytes).expect("writes");
    let error = refusal(&path);
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert!(error.to_string().contains("nothing was changed"), "{error}");
    assert_eq!(std::fs::read(&path).expect("reads"), bytes);
}

#[test]
fn a_file_that_is_no_database_is_refused_and_nothing_is_overwritten() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("drowse.db");
    std::fs::write(&path, "my diary").expect("writes");
    assert!(matches!(refusal(&path), StoreError::Damaged { .. }));
    assert_eq!(std::fs::read(&path).expect("reads"), b"my diary");
}

#[test]
fn a_database_of_someone_else_is_refused() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("drowse.db");
    Connection::open(&path).and_then(|raw| raw.execute_batch("CREATE TABLE recipes (name)")).expect("makes");
    assert!(matches!(refusal(&path), StoreError::Foreign { .. }));
}

#[test]
fn an_empty_file_of_a_start_that_was_cut_short_becomes_a_database() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("drowse.db");
    std::fs::write(&path, "").expect("writes");
    assert!(Sqlite::open(&path).is_ok());
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("drowse.db");
    filled(&path).await;
    let engine = Sqlite::open(&path).expect("opens");
    // SQLite answers a reached page limit with the same code as a full disk.
    let limit = |raw: &mut Connection| {
        raw.pragma_update(None, "max_page_count", 120).expect("sets");
        Ok(())
    };
    engine.writer.run(limit).await.expect("runs");
    let store = Store::new(engine);
    let mut last = Ok(Outcome::Committed(Revision(0)));
    let mut acknowledged = 0;
    for n in 0..200 {
        last = store.transact(put(&format!("more/{n}"), &[9; 4000])).await;
        if last.is_err() {
            break;
        }
        acknowledged += 1;
    }
    let error = last.expect_err("the disk is full");
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
    assert_eq!(store.list("more/").await.expect("reads").entries.len(), acknowledged);
    assert_eq!(store.list("k/").await.expect("reads").entries.len(), 50);
}
