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

    const SPAN: Duration = Duration::from_millis(100);

    async fn stalls(progress: &Option<Progress>) -> bool {
        tokio::time::timeout(4 * SPAN, Progress::stalls(progress.clone(), SPAN)).await.is_ok()
    }

    #[tokio::test]
    async fn a_transfer_without_progress_is_noticed() {
        let (_, small) = to_send(Bytes::from_static(b"small"));
        assert!(!stalls(&small).await);

        let large = Bytes::from([7; 3 * PIECE + 1].to_vec());
        let (mut body, progress) = to_send(large.clone());
        assert_eq!(body.size_hint().exact(), Some(large.len() as u64));
        assert!(stalls(&progress).await);

        let mut sent = Vec::new();
        let mut moving =
            progress.clone().map(|progress| tokio::spawn(Progress::stalls(Some(progress), SPAN)));
        while let Some(piece) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            sent.extend_from_slice(&piece.expect("piece").into_data().expect("data"));
            tokio::time::sleep(SPAN / 2).await;
        }
        assert_eq!(sent, large);
        assert!(!stalls(&progress).await);
        let watch = moving.take().expect("a large body is watched");
        assert!(!watch.is_finished());
        watch.abort();
    }
}
