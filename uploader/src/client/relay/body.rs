//! Answers on their way.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::activity::Running;
use crate::http;

/// For how long a cache may send nothing in the middle of an answer, as `stalled-download-timeout` in what larder gives
/// clients.
const STALL: Duration = Duration::from_secs(15);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer: a text of the relay's own, or what a cache sends.
pub(super) enum Body {
    /// All of it.
    Text(Option<Bytes>),
    /// A stream, cut off when it stalls; Nix then goes on where it stopped, or tells that it failed.
    Passed { body: http::Body, stall: Pin<Box<Sleep>>, _running: Running },
}

impl Body {
    pub(super) fn text(text: impl Into<Bytes>) -> Self {
        Self::Text(Some(text.into()))
    }

    /// `running` is held until the body has gone.
    pub(super) fn passed(body: http::Body, running: Running) -> Self {
        Self::Passed { body, stall: Box::pin(sleep(STALL)), _running: running }
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
            Self::Passed { body, stall, .. } => {
                let frame = Pin::new(body).poll_frame(context);
                if frame.is_ready() {
                    stall.as_mut().reset(Instant::now() + STALL);
                    return frame;
                }
                stall.as_mut().poll(context).map(|()| Some(Err("the cache stopped in the middle".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Passed { body, .. } => http_body::Body::is_end_stream(body),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64)),
            Self::Passed { body, .. } => http_body::Body::size_hint(body),
        }
    }
}
