//! Accepts the connections of a relay.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};

use super::activity::Activity;
use super::caches::Caches;
use super::connections::Connections;
use super::respond::respond;

/// How long running answers may take when the relay ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be without a request, and how long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// The largest head of a request in bytes. Those of Nix have less than 1 KiB.
const MAX_HEAD: usize = 16 << 10;
/// How long a client may take nothing of an answer. Longer than a cache may take to begin its answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(60);
/// How long to wait after a failure to accept a connection, for example because of too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves caches until `stop` resolves, or until no request has come for `idle`.
pub async fn serve(
    listener: TcpListener,
    caches: Arc<Caches>,
    idle: Option<Duration>,
    stop: impl Future<Output = ()>,
) {
    let activity = Arc::new(Activity::default());
    let (connections, drain) = (Arc::new(Connections::default()), GracefulShutdown::new());
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = activity.idle(idle) => break,
            accepted = accept(&listener, &connections) => match accepted {
                Ok(stream) => serve_connection(stream, &caches, &activity, &connections, &drain),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, drain.shutdown()).await;
}

/// Accepts a connection when there is room for it.
async fn accept(listener: &TcpListener, connections: &Connections) -> std::io::Result<TcpStream> {
    connections.room().await;
    Ok(listener.accept().await?.0)
}

/// Starts a task that answers the requests of a connection.
fn serve_connection(
    stream: TcpStream,
    caches: &Arc<Caches>,
    activity: &Arc<Activity>,
    connections: &Arc<Connections>,
    drain: &GracefulShutdown,
) {
    // Narinfos are small, and the client waits for each of them.
    let _ = stream.set_nodelay(true);
    // A connection without an address is closed already.
    let Ok(local) = stream.local_addr() else { return };
    let (caches, activity, open) = (caches.clone(), activity.clone(), connections.open());
    let own = open.activity();
    let service = service_fn(move |request| {
        let (caches, running) = (caches.clone(), Activity::begin([activity.clone(), own.clone()]));
        async move { Ok::<_, Infallible>(respond(&caches, local.ip(), request, running).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let connection = drain.watch(connection);
    tokio::spawn(async move {
        let own = open.activity();
        // The result is not used: a client may break a connection off.
        tokio::select! {
            _ = connection => {}
            () = own.stalled(CLIENT_TIMEOUT) => {}
            () = open.closed() => {}
        }
    });
}
