//! Bodies of uploads, and the progress of sending them.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::http;

/// The size of the pieces that are handed to the connection, in bytes. Smaller bodies are not watched.
const PIECE: usize = 64 << 10;

/// The number of bytes of a body that the connection has not taken yet.
#[derive(Clone, Debug)]
pub(super) struct Progress(Arc<AtomicUsize>);

/// A body to send. A large body is sent in pieces, whose progress can be watched.
pub(super) fn to_send(bytes: Bytes) -> (http::Body, Option<Progress>) {
    if bytes.len() <= PIECE {
        return (http::Body::from(bytes), None);
    }
    let progress = Progress(Arc::new(AtomicUsize::new(bytes.len())));
    (http::Body::streamed(Pieces { rest: bytes, progress: progress.clone() }), Some(progress))
}

impl Progress {
    /// Returns when the connection took no byte for `span`, at the latest after twice `span`. Never returns if there is no
    /// progress to watch, or the whole body was taken.
    pub(super) async fn stalls(progress: Option<Self>, span: Duration) {
        if let Some(Self(left)) = progress {
            let mut before = left.load(Ordering::Relaxed);
            while before > 0 {
                tokio::time::sleep(span).await;
                match left.load(Ordering::Relaxed) {
                    now if now == before => return,
                    now => before = now,
                }
            }
        }
        std::future::pending().await
    }
}

struct Pieces {
    rest: Bytes,
    progress: Progress,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let size = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(size);
        self.progress.0.store(self.rest.len(), Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether nothing is handed over within `span`, seen for four times as long.
    async fn stalls(progress: &Option<Progress>, span: Duration) -> bool {
        tokio::time::timeout(4 * span, Progress::stalls(progress.clone(), span)).await.is_ok()
    }

    #[tokio::test]
    async fn a_transfer_that_stands_still_is_noticed() {
        // A busy machine makes these waits longer, which changes nothing where nothing moves.
        const SHORT: Duration = Duration::from_millis(20);
        let (_, small) = to_send(Bytes::from_static(b"small"));
        assert!(!stalls(&small, SHORT).await);
        let (_, progress) = to_send(Bytes::from(vec![7; 3 * PIECE + 1]));
        let noticed = Progress::stalls(progress, SHORT);
        tokio::time::timeout(Duration::from_secs(60), noticed).await.expect("a stall is noticed");
    }

    #[tokio::test]
    async fn a_transfer_that_moves_is_no_stall() {
        // Pieces are handed over fifty times as often as somebody looks.
        const SPAN: Duration = Duration::from_millis(500);
        let large = Bytes::from(vec![7; 120 * PIECE + 1]);
        let (mut body, progress) = to_send(large.clone());
        assert_eq!(body.size_hint().exact(), Some(large.len() as u64));
        let watch = tokio::spawn(Progress::stalls(progress.clone(), SPAN));
        let mut sent = Vec::new();
        while let Some(piece) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            sent.extend_from_slice(&piece.expect("piece").into_data().expect("data"));
            tokio::time::sleep(SPAN / 50).await;
        }
        assert_eq!(sent, large);
        assert!(!watch.is_finished());
        watch.abort();
        // A body that is handed over completely does not stall.
        assert!(!stalls(&progress, Duration::from_millis(20)).await);
    }
}
