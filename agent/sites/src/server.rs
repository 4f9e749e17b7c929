//! Accepts connections, bounded in number and in patience, and lets them finish at the end.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::answer;
use crate::folder::Sites;

/// Further connections wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;

/// How long a connection may take for the head of its next request, idle time included. Longer
/// than a router keeps an idle connection, so that it is the router that closes it.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);

/// The head of a request, in bytes.
const MAX_HEAD: usize = 64 << 10;

/// How long answers may go on after SIGTERM; the agent kills after 30 s.
const DRAIN: Duration = Duration::from_secs(25);

/// After an error of `accept` that is not the connection's: no descriptors, no memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stop`, then lets the answers under way finish.
pub async fn serve(listener: TcpListener, sites: Sites, stop: impl Future<Output = ()>) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (connections, draining) = (TaskTracker::new(), CancellationToken::new());
    let mut stop = pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                connections.spawn(converse(stream, permit, sites.clone(), draining.clone()));
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    draining.cancel();
    connections.close();
    // What has not finished by then is cut off with the runtime.
    let _ = tokio::time::timeout(DRAIN, connections.wait()).await;
}

/// Cancel-safe: a connection is accepted only when there is room for it, as the last step.
async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> io::Result<(TcpStream, Option<OwnedSemaphorePermit>)> {
    // The semaphore is never closed, so there is always a permit in the end.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

async fn converse(stream: TcpStream, permit: Option<OwnedSemaphorePermit>, sites: Sites, draining: CancellationToken) {
    let Some(address) = local_address(&stream) else { return };
    // Small answers go out at once; an error here only costs latency.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let site = sites.at(address);
        async move { Ok::<_, Infallible>(answer(request, site).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A visitor who went away or sent garbage was answered by hyper as far as possible.
    drop((result, permit));
}

fn local_address(stream: &TcpStream) -> Option<Ipv4Addr> {
    match stream.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => address.to_ipv4_mapped(),
    }
}
