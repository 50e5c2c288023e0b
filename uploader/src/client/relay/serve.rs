//! Connections of a relay.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use super::activity::Activity;
use super::caches::Caches;
use super::pass;

/// How long answers that are on their way may take when the relay is to end.
const DRAIN: Duration = Duration::from_secs(5);
/// How long to wait when no connection can be taken, for want of file descriptors.
const SHORT_OF_FILES: Duration = Duration::from_millis(100);

/// Serves caches until `stop` resolves, or until nothing has been asked for as long as `idle`.
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
                Ok((stream, _)) => {
                    // Narinfos are small: each is to leave at once.
                    let _ = stream.set_nodelay(true);
                    let (caches, activity) = (caches.clone(), activity.clone());
                    let service = service_fn(move |request| {
                        let (caches, running) = (caches.clone(), activity.begin());
                        async move {
                            Ok::<_, std::convert::Infallible>(pass::answer(&caches, request, running).await)
                        }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that breaks off is its own business.
                    tokio::spawn(connections.watch(connection));
                }
                Err(_) => tokio::time::sleep(SHORT_OF_FILES).await,
            },
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(DRAIN, connections.shutdown()).await;
}
