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
use super::respond::respond;

/// How long running answers may take when the relay ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
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
    let connections = GracefulShutdown::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = activity.idle(idle) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => serve_connection(stream, &caches, &activity, &connections),
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, connections.shutdown()).await;
}

/// Starts a task that answers the requests of a connection.
fn serve_connection(
    stream: TcpStream,
    caches: &Arc<Caches>,
    activity: &Arc<Activity>,
    connections: &GracefulShutdown,
) {
    // Narinfos are small, and the client waits for each of them.
    let _ = stream.set_nodelay(true);
    let (caches, activity) = (caches.clone(), activity.clone());
    let service = service_fn(move |request| {
        let (caches, running) = (caches.clone(), activity.begin());
        async move { Ok::<_, Infallible>(respond(&caches, request, running).await) }
    });
    let connection =
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service);
    // The task's result is not used: a client may break a connection off.
    tokio::spawn(connections.watch(connection));
}
