//! One event loop: accepts visitors, has them served, and sweeps what it keeps idle.

use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use crate::connection;
use crate::instance::LONGEST_IDLE;
use crate::shared::{Counted, Shared};

const SWEEP: Duration = Duration::from_secs(1);

/// A connection on its way to the worker that has room for it.
pub(crate) struct Handed {
    stream: StdStream,
    peer: SocketAddr,
    counted: Counted,
}

/// One event loop's own things.
pub(crate) struct Worker {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) inboxes: Vec<UnboundedSender<Handed>>,
}

impl Worker {
    /// Serves until the router has drained or ends.
    pub(crate) async fn run(self, listeners: Vec<StdListener>, mut inbox: UnboundedReceiver<Handed>) {
        let this = Arc::new(self);
        for listener in listeners {
            match TcpListener::from_std(listener) {
                Ok(listener) => drop(tokio::spawn(Arc::clone(&this).accept(listener))),
                Err(error) => tracing::error!(%error, "a listener cannot be used"),
            }
        }
        let shared = Arc::clone(&this.shared);
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                Some(handed) = inbox.recv() => match TcpStream::from_std(handed.stream) {
                    Ok(stream) => this.take(stream, handed.peer, handed.counted),
                    Err(error) => tracing::warn!(%error, "a connection was lost between two event loops"),
                },
                _ = sweep.tick() => this.sweep(),
                () = shared.ending.cancelled() => return,
            }
        }
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let shared = &self.shared;
        loop {
            let ended = shared.ended.notified();
            if shared.connections() >= shared.limits.connections {
                // Those who knock now wait in the kernel's queue.
                tokio::select! {
                    () = ended => continue,
                    () = shared.draining.cancelled() => return,
                }
            }
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shared.draining.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.place(stream, peer),
                Err(error) => {
                    // Out of descriptors, most likely: those that end make room.
                    tracing::warn!(%error, "cannot accept a visitor");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Gives a connection to the worker with the fewest.
    fn place(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let to = self.shared.calmest(self.index);
        let counted = Counted::new(Arc::clone(&self.shared), to);
        if to == self.index {
            self.take(stream, peer, counted);
        } else if let Ok(stream) = stream.into_std() {
            // It fails only when that worker is gone, which is at the end.
            let _ = self.inboxes[to].send(Handed { stream, peer, counted });
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, counted: Counted) {
        let shared = Arc::clone(&self.shared);
        let worker = self.index;
        tokio::spawn(async move {
            let _counted = counted;
            if let Err(error) = connection::serve(shared, worker, stream, peer).await {
                tracing::trace!(%peer, %error, "a visitor's connection ended");
            }
        });
    }

    fn sweep(&self) {
        let now = Instant::now();
        for instance in self.shared.picture.load().instances.values() {
            instance.sweep(self.index, now, LONGEST_IDLE);
        }
        self.shared.api.sweep(self.index, now, LONGEST_IDLE);
    }
}
