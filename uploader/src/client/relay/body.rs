//! The body of an answer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::activity::RunningRequest;
use crate::http;

/// How long a cache may send nothing in the middle of an answer. The same as `stalled-download-timeout` in the lines
/// for clients that `larder client` prints.
const STALL_TIMEOUT: Duration = Duration::from_secs(15);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: a text of the relay, or the body that a cache sends.
pub(super) enum Body {
    /// A text of the relay; `None` after it was sent.
    Text(Option<Bytes>),
    /// The body from a cache. A stalled body ends with an error; Nix then resumes the download or reports a failure.
    Forwarded { body: http::Body, stall: Pin<Box<Sleep>>, running: RunningRequest },
}

impl Body {
    /// A text of the relay.
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::Text(Some(text.into()))
    }

    /// Forwards a body. The request counts as running until the body is sent.
    pub(super) fn forwarded(body: http::Body, running: RunningRequest) -> Self {
        Self::Forwarded { body, stall: Box::pin(sleep(STALL_TIMEOUT)), running }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut *self {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Forwarded { body, stall, running } => {
                let frame = Pin::new(body).poll_frame(context);
                if frame.is_ready() {
                    // The client has taken the frame before: the server asks for frames as it can send them.
                    running.progress();
                    stall.as_mut().reset(Instant::now() + STALL_TIMEOUT);
                    return frame;
                }
                stall
                    .as_mut()
                    .poll(context)
                    .map(|()| Some(Err("the cache stopped in the middle of an answer".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Forwarded { body, .. } => http_body::Body::is_end_stream(body),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Forwarded { body, .. } => http_body::Body::size_hint(body),
        }
    }
}
