//! Sending the requests of which there are many: those about objects.
//!
//! With the SDK's client for them, a push of many small paths takes half as much processor time again. So these are
//! composed and sent here, with the SDK's signatures, credentials, endpoints and connections; what is rare is left to
//! its client.

use std::error::Error as StdError;
use std::io;
use std::time::{Duration, SystemTime};

use aws_credential_types::provider::error::CredentialsError;
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::http::Headers;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use bytes::{Bytes, BytesMut};
use larder_hook::fault::point;

use super::body::{self, Progress};
use super::request::Request;
use super::retry::{Attempts, asked_for, asks_for_less};
use super::signer::Signer;
use super::throttle::{GivenUp, Throttle, Turn};
use super::xml::{self, Fault};
use crate::base::error::chain;
use crate::http::diagnosis;

/// How long one attempt may take until its answer begins, beside what its body takes.
pub(super) const ATTEMPT: Duration = Duration::from_secs(60);
/// How long the sending of a body may stand still.
const STALL: Duration = Duration::from_secs(30);
/// How long the body of an answer may take.
const ANSWER: Duration = Duration::from_secs(60);
/// The slowest transfer of a body that is waited for, in bytes per second.
const SLOWEST: u64 = 32 << 10;
/// More than any refusal says.
const MAX_FAULT: u64 = 256 << 10;

/// Signs requests, sends them, and sends them again where that may help.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) connector: SharedHttpConnector,
    pub(super) signer: Signer,
    /// The URL of the bucket, without a slash at its end.
    pub(super) bucket: String,
    /// How often a request is sent before its failure is reported.
    pub(super) attempts: u32,
    /// How many requests are on their way where the server wants few.
    pub(super) throttle: Throttle,
}

/// What the server answered, whatever its status.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Headers,
    /// Empty for a HEAD, and for refusals.
    pub(super) body: Bytes,
    /// Empty for what is no refusal, whatever its status.
    pub(super) fault: Fault,
}

impl Reply {
    /// Whether the server did what it was asked. An error may stand in the body of a 200: a server that has begun to
    /// answer cannot take its status back.
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status) && self.fault.code.is_empty()
    }

    /// Status and code, for `match`.
    pub(super) fn answer(&self) -> (u16, &str) {
        (self.status, &self.fault.code)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)
    }

    pub(super) fn etag(&self) -> Option<String> {
        self.header("etag").map(str::to_owned)
    }

    /// The size that the server announced.
    pub(super) fn size(&self) -> Option<u64> {
        self.header("content-length")?.trim().parse().ok()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There was nothing to sign with.
    Credentials(CredentialsError),
    /// What was to be sent is no request.
    Unsendable(String),
    /// None came.
    NoAnswer(Box<dyn StdError + Send + Sync>),
    /// It broke off.
    Broken(String),
    /// It is longer than the limit of the request.
    TooLarge,
    /// It was not sent: the server has refused others again and again, because they are too many.
    SlowedDown,
}

impl Sender {
    /// Sends a request until there is an answer that will not change, or the attempts are used up.
    pub(super) async fn send(&self, request: &Request<'_>) -> Result<Reply, Failure> {
        let url = request.url(&self.bucket);
        let mut attempts = Attempts::at_most(self.attempts);
        loop {
            let outcome = self.throttled(request, &url).await;
            let wait = match &outcome {
                Ok(reply) if reply.is_success() => None,
                Ok(reply) if self.signer.heed(&reply.fault.code, &reply.headers) => attempts.at_once(),
                Ok(reply) => attempts.after_refusal(reply.status, &reply.fault.code, &reply.headers),
                Err(Failure::NoAnswer(error)) => attempts.after_trouble(diagnosis::diagnose(error.as_ref())),
                Err(Failure::Broken(_)) => attempts.after_break(),
                Err(_) => None,
            };
            match wait {
                None => return outcome,
                Some(Duration::ZERO) => {}
                Some(wait) => tokio::time::sleep(wait).await,
            }
        }
    }

    /// Waits until the server wants another request.
    pub(super) async fn turn(&self) -> Result<Turn<'_>, Failure> {
        self.throttle.turn().await.map_err(|GivenUp| Failure::SlowedDown)
    }

    /// One attempt, when the server wants it.
    async fn throttled(&self, request: &Request<'_>, url: &str) -> Result<Reply, Failure> {
        let turn = self.turn().await?;
        point("request: before");
        let outcome = self.attempt(request, url).await;
        point("request: answered");
        match &outcome {
            Ok(reply) if asks_for_less(reply.status, &reply.fault.code) => {
                turn.refused(asked_for(&reply.headers));
            }
            Ok(reply) if reply.status < 500 => turn.answered(),
            _ => drop(turn),
        }
        outcome
    }

    async fn attempt(&self, request: &Request<'_>, url: &str) -> Result<Reply, Failure> {
        let identity = self.signer.identity().await.map_err(Failure::Credentials)?;
        let (body, progress) = match &request.body {
            Some(body) => body::to_send(body.bytes.clone()),
            None => (SdkBody::empty(), None),
        };
        let mut message = compose(request, url, body).map_err(Failure::Unsendable)?;
        let payload = request.payload(self.bucket.starts_with("https:"));
        self.signer.sign(&mut message, payload, &identity, SystemTime::now()).map_err(Failure::Unsendable)?;
        let bytes = u64::try_from(request.size()).unwrap_or(u64::MAX);
        let limit = ATTEMPT + Duration::from_secs(bytes / SLOWEST);
        let response = tokio::select! {
            answered = tokio::time::timeout(limit, self.connector.call(message)) => match answered {
                Ok(answered) => answered.map_err(no_answer)?,
                Err(_) => return Err(late(format!("no answer within {} seconds", limit.as_secs()))),
            },
            () = Progress::stalls(progress, STALL) => return Err(late("the transfer stood still".into())),
        };
        reply(response, request).await
    }
}

fn compose(request: &Request<'_>, url: &str, body: SdkBody) -> Result<HttpRequest, String> {
    let mut message = HttpRequest::new(body);
    message.set_method(request.method).map_err(|error| chain(&error))?;
    message.set_uri(url).map_err(|error| chain(&error))?;
    let headers = message.headers_mut();
    for (name, value) in &request.headers {
        headers.try_insert(*name, value.clone().into_owned()).map_err(|error| chain(&error))?;
    }
    headers.insert("user-agent", concat!("larder/", env!("CARGO_PKG_VERSION")));
    Ok(message)
}

fn no_answer(error: ConnectorError) -> Failure {
    if error.is_user() { Failure::Unsendable(chain(&error)) } else { Failure::NoAnswer(error.into()) }
}

fn late(text: String) -> Failure {
    Failure::NoAnswer(io::Error::new(io::ErrorKind::TimedOut, text).into())
}

async fn reply(mut response: HttpResponse, request: &Request<'_>) -> Result<Reply, Failure> {
    let status = response.status().as_u16();
    let body = response.take_body();
    let mut reply = Reply {
        status,
        headers: std::mem::take(response.headers_mut()),
        body: Bytes::new(),
        fault: Fault::default(),
    };
    if request.method == "HEAD" {
        return Ok(reply);
    }
    if reply.is_success() {
        reply.body = read(body, reply.size(), request.limit).await?;
        if request.method != "GET" && !reply.body.is_empty() {
            reply.fault = xml::fault(&reply.body);
        }
    } else if let Ok(body) = read(body, None, MAX_FAULT).await {
        // Where the reason broke off, the status still says something.
        reply.fault = xml::fault(&body);
    }
    Ok(reply)
}

async fn read(body: SdkBody, announced: Option<u64>, limit: u64) -> Result<Bytes, Failure> {
    if announced.is_some_and(|size| size > limit) {
        return Err(Failure::TooLarge);
    }
    let read = async {
        let mut stream = ByteStream::new(body);
        let mut whole = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk =
                chunk.map_err(|error| Failure::Broken(format!("the answer broke off: {}", chain(&error))))?;
            whole.extend_from_slice(&chunk);
            if whole.len() as u64 > limit {
                return Err(Failure::TooLarge);
            }
        }
        match announced {
            Some(size) if size != whole.len() as u64 => {
                Err(Failure::Broken(format!("the answer broke off after {} of {size} bytes", whole.len())))
            }
            _ => Ok(whole.freeze()),
        }
    };
    match tokio::time::timeout(ANSWER, read).await {
        Ok(read) => read,
        Err(_) => Err(Failure::Broken("the answer did not end in time".into())),
    }
}
