//! Keeps the last known addresses on disk, beside the way of whoever waits for them.
//!
//! Pictures that come while one is being written are written as one. What sleeps may be let go of only
//! when it is kept that it sleeps (a router that starts from the file must not send requests to it);
//! that something woke may be kept late: a router that does not know it yet asks the agent and waits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use drowse_api::agent::EndpointsPicture;
use tokio::sync::{mpsc, watch};

use crate::saved::Saved;

/// How much longer it rests than it wrote, so that a crowd that falls asleep costs few writes.
const REST: u32 = 4;
const LONGEST_REST: Duration = Duration::from_millis(250);

/// A picture with its number; later ones have higher ones.
pub(crate) type Numbered = (u64, Arc<EndpointsPicture>);

/// What became of all pictures up to this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// They are on disk.
    Yes(u64),
    /// They are not.
    No(u64),
}

/// Writes the newest picture, again and again, until nobody has any more.
pub(crate) async fn keep(saved: Saved, mut wanted: watch::Receiver<Numbered>, told: mpsc::Sender<Kept>) {
    while wanted.changed().await.is_ok() {
        let (number, picture) = wanted.borrow_and_update().clone();
        let (file, began) = (saved.clone(), Instant::now());
        let written = tokio::task::spawn_blocking(move || file.write(&*picture)).await;
        let kept = match written {
            Ok(Ok(())) => Kept::Yes(number),
            Ok(Err(error)) => {
                tracing::warn!(%error, "new addresses could not be saved");
                Kept::No(number)
            }
            Err(error) => {
                tracing::error!(%error, "saving new addresses broke off");
                Kept::No(number)
            }
        };
        if told.send(kept).await.is_err() {
            return;
        }
        tokio::time::sleep((began.elapsed() * REST).min(LONGEST_REST)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drowse_api::InstanceId;

    fn picture(name: &str) -> Arc<EndpointsPicture> {
        let mut picture = EndpointsPicture::default();
        picture.ready.insert(InstanceId::parse(name).expect("an id"), "10.0.0.1:1".parse().expect("one"));
        Arc::new(picture)
    }

    #[tokio::test]
    async fn many_pictures_are_few_writes_and_the_last_is_on_disk_when_it_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let saved = Saved::new(folder.path(), "endpoints.json", "drowse-test");
        let (pictures, wanted) = watch::channel((0, Arc::default()));
        let (told, mut outcome) = mpsc::channel(1);
        let task = tokio::spawn(keep(saved.clone(), wanted, told));
        for number in 1..=200 {
            pictures.send_replace((number, picture(&format!("i{number}"))));
        }
        let mut writes = 0;
        loop {
            writes += 1;
            if outcome.recv().await.expect("told") == Kept::Yes(200) {
                break;
            }
        }
        assert!(writes <= 3, "{writes} writes of what came at once");
        assert_eq!(saved.read::<EndpointsPicture>().expect("reads").as_ref(), Some(&*picture("i200")));
        std::fs::remove_dir_all(folder.path()).expect("removed");
        pictures.send_replace((201, picture("late")));
        assert_eq!(outcome.recv().await, Some(Kept::No(201)));
        drop(pictures);
        task.await.expect("it ends with its sender");
    }
}
