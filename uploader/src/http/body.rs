//! The bodies of requests and answers.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use aws_smithy_types::body::SdkBody;
use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame, SizeHint};

use crate::base::error::{Cause, chain};

/// The body of a request or of an answer.
pub struct Body(SdkBody);

/// Why a body cannot be read as a whole.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The body is longer than the caller's limit.
    TooLarge,
    /// The body ended before its announced end.
    Broken(Cause),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("it is too large"),
            Self::Broken(cause) => write!(f, "it broke off: {}", chain(&**cause)),
        }
    }
}

impl Body {
    /// A body without bytes.
    pub(crate) fn empty() -> Self {
        Self(SdkBody::empty())
    }

    /// A body that is produced while it is sent.
    pub(crate) fn streamed(
        body: impl http_body::Body<Data = Bytes, Error = Infallible> + Send + Sync + 'static,
    ) -> Self {
        Self(SdkBody::from_body_1_x(body))
    }

    /// Reads the whole body, at most `limit` bytes.
    pub(crate) async fn read(mut self, limit: u64) -> Result<Bytes, ReadError> {
        let mut whole = BytesMut::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut self).poll_frame(context)).await
        {
            let Ok(data) = frame.map_err(ReadError::Broken)?.into_data() else { continue };
            if (whole.len() + data.len()) as u64 > limit {
                return Err(ReadError::TooLarge);
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Cause> {
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut *self).poll_frame(context)).await
        {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    pub(super) fn from_sdk(body: SdkBody) -> Self {
        Self(body)
    }

    pub(super) fn into_sdk(self) -> SdkBody {
        self.0
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self(SdkBody::from(bytes))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        Pin::new(&mut self.0).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.0)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.0)
    }
}

impl fmt::Debug for Body {
    /// Shows no bytes: an answer may hold a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Body").field(&self.0.content_length()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit() {
        assert!(Body::empty().read(0).await.unwrap().is_empty());
        let body = || Body::from(Bytes::from_static(b"four"));
        assert_eq!(body().read(4).await.unwrap(), "four");
        assert!(matches!(body().read(3).await, Err(ReadError::TooLarge)));
    }
}
