//! Sending of all requests to an S3 server.
//!
//! larder composes and sends the requests itself, with the SDK's signatures, credentials, addressing rules and connections.
//! The SDK's own client needs half as much processor time again for a push of many small paths.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_LENGTH, HeaderName, HeaderValue, USER_AGENT};
use larder_hook::fault::point;
use tokio::time::Instant;

use super::expiry::{self, Manner, OldSignatures};
use super::reply::{Failure, Reply, Signature};
use super::request::{Request, md5};
use super::retry::{Attempts, asked_for, asks_for_less};
use super::signer::Signer;
use super::throttle::{GivenUp, Throttle};
use super::upload_body::{self, Progress};
use super::xml::read::{self as xml, Fault};
use crate::base::error::{Cause, chain};
use crate::bucket::interface::Fence;
use crate::http::{self as transport, ReadError, SendError, Transport, diagnosis};

/// The longest time in which the sending of a body makes no progress.
const STALL: Duration = Duration::from_secs(30);
/// The slowest transfer of a request's body that is accepted, in bytes per second.
const SLOWEST: u64 = 32 << 10;
/// The longest body of a refusal that is read, in bytes.
const MAX_FAULT: u64 = 256 << 10;
/// The time limit for the body of a refusal.
const REFUSAL: Duration = Duration::from_secs(60);
const AGENT: &str = concat!("larder/", env!("CARGO_PKG_VERSION"));

/// Signs requests, sends them, and repeats them if that may help.
#[derive(Debug)]
pub(super) struct Sender {
    pub(super) transport: Transport,
    pub(super) signer: Signer,
    /// The URL of the bucket, without a slash at its end.
    pub(super) bucket: String,
    /// How often a request is sent before its failure is reported.
    pub(super) attempts: u32,
    /// Limits concurrent requests when the server asks for fewer.
    pub(super) throttle: Throttle,
    pub(super) old_signatures: OldSignatures,
}

impl Sender {
    /// Sends a request until there is a final answer, or the attempts are used up. Asks `fence` about each attempt.
    pub(super) async fn send(
        &self,
        request: &Request<'_>,
        fence: Option<&dyn Fence>,
    ) -> Result<Reply, Failure> {
        let url = request.url(&self.bucket);
        let mut attempts = Attempts::at_most(self.attempts);
        loop {
            let outcome = self.throttled(request, &url, fence).await;
            let wait = match &outcome {
                Ok(reply) if reply.is_success() => None,
                Ok(reply) if self.signer.heed(reply).await => attempts.at_once(),
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

    /// Makes one attempt as soon as the throttle allows it.
    async fn throttled(
        &self,
        request: &Request<'_>,
        url: &str,
        fence: Option<&dyn Fence>,
    ) -> Result<Reply, Failure> {
        let turn = match request.must_be_sent {
            true => self.throttle.turn_in_any_case().await,
            false => self.throttle.turn().await.map_err(|GivenUp| Failure::SlowedDown)?,
        };
        point("request: before");
        let outcome = self.attempt(request, url, fence).await;
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

    async fn attempt(
        &self,
        request: &Request<'_>,
        url: &str,
        fence: Option<&dyn Fence>,
    ) -> Result<Reply, Failure> {
        let manner = match fence {
            Some(_) if self.takes_old_signatures().await => Manner::Query,
            _ => Manner::Headers,
        };
        let signature = self.signer.prepare().await.map_err(Failure::Credentials)?;
        self.exchange(request, url, fence, (signature, manner)).await
    }

    /// Whether the server takes old signatures in headers, or does not say.
    async fn takes_old_signatures(&self) -> bool {
        let OldSignatures { taken, asking } = &self.old_signatures;
        if let Some(taken) = taken.get() {
            return *taken;
        }
        let _asking = asking.lock().await;
        if let Some(taken) = taken.get() {
            return *taken;
        }
        match self.asks_for_age().await {
            Some(found) => *taken.get_or_init(|| found),
            None => true,
        }
    }

    /// Finds out whether the server takes old signatures. `None` if it does not answer.
    async fn asks_for_age(&self) -> Option<bool> {
        let old = self.answer_after(expiry::OLD).await?;
        let old = old.answer();
        match expiry::are_taken(old, None) {
            Some(taken) => Some(taken),
            None => expiry::are_taken(old, Some(self.answer_after(Duration::ZERO).await?.answer())),
        }
    }

    /// The answer to a harmless request that was signed so long ago, if it is one.
    async fn answer_after(&self, age: Duration) -> Option<Reply> {
        let request = Request::new(Method::GET, "").query("list-type", "2").query("max-keys", "1");
        let request = request.patience(expiry::PATIENCE);
        let mut signature = self.signer.prepare().await.ok()?;
        signature.time = signature.time.checked_sub(age)?;
        let url = request.url(&self.bucket);
        let reply = self.exchange(&request, &url, None, (signature, Manner::Headers)).await.ok()?;
        is_settled(&reply).then_some(reply).filter(|reply| !asks_for_less(reply.status, &reply.fault.code))
    }

    /// Signs the request, asks the fence, and sends the request.
    async fn exchange(
        &self,
        request: &Request<'_>,
        url: &str,
        fence: Option<&dyn Fence>,
        (signature, manner): (Signature, Manner),
    ) -> Result<Reply, Failure> {
        let (body, progress) = match &request.body {
            Some(body) => upload_body::to_send(body.bytes.clone()),
            None => (transport::Body::empty(), None),
        };
        let unsendable = |cause: Cause| Failure::Unsendable(chain(cause.as_ref()));
        let mut message = compose(request, url, body).map_err(unsendable)?;
        if let (Manner::Query, Some(body)) = (manner, &request.body) {
            let sum = HeaderValue::from_str(&md5(&body.bytes)).map_err(|error| unsendable(error.into()))?;
            message.headers_mut().insert("content-md5", sum);
        }
        let payload = request.payload(self.bucket.starts_with("https:"));
        self.signer.sign(&mut message, payload, &signature, manner).map_err(unsendable)?;
        let passed = fence.map(Fence::pass).transpose().map_err(Failure::Refused)?;
        point("request: passed its fence");
        let bytes = u64::try_from(request.size()).unwrap_or(u64::MAX);
        let limit = request.patience + Duration::from_secs(bytes / SLOWEST);
        let end = Instant::now() + limit;
        let response = tokio::select! {
            answered = tokio::time::timeout_at(end, self.transport.send(message)) => match answered {
                Ok(answered) => answered.map_err(no_answer)?,
                Err(_) => return Err(late(format!("no answer within {} seconds", limit.as_secs()))),
            },
            () = Progress::stalls(progress, STALL) => {
                return Err(late("the transfer of the request made no progress".into()));
            }
        };
        let outcome = reply(response, request, signature, end).await;
        if let Ok(reply) = &outcome {
            self.signer.see_clock(reply);
        }
        if let (Some(fence), Some(passed), Ok(reply)) = (fence, passed, &outcome)
            && is_settled(reply)
        {
            fence.answered(passed);
        }
        outcome
    }
}

/// Whether the answer shows that the server has carried the request out, or will not. After other errors of a server, or of a
/// proxy before it, the request may still be carried out; a 503 counts only if it has a code of S3.
fn is_settled(reply: &Reply) -> bool {
    let code = &reply.fault.code;
    reply.status < 500 && reply.status != 408 || !code.is_empty() && asks_for_less(reply.status, code)
}

fn compose(request: &Request<'_>, url: &str, body: transport::Body) -> Result<transport::Request, Cause> {
    let mut message = http::Request::builder().method(request.method.clone()).uri(url).body(body)?;
    let headers = message.headers_mut();
    for (name, value) in &request.headers {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
    }
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    if matches!(request.method, Method::POST | Method::PUT) && request.size() == 0 {
        // The HTTP stack leaves the length of an empty body out. Some servers refuse such a request without a length.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Ok(message)
}

fn no_answer(error: SendError) -> Failure {
    match error {
        SendError::Unsendable(cause) => Failure::Unsendable(chain(cause.as_ref())),
        SendError::NoAnswer(cause) => Failure::NoAnswer(cause),
    }
}

fn late(text: String) -> Failure {
    Failure::NoAnswer(io::Error::new(io::ErrorKind::TimedOut, text).into())
}

/// Reads the body of an answer until `end`. The bytes of an object may take the time limit of the request once more.
async fn reply(
    response: transport::Response,
    request: &Request<'_>,
    signature: Signature,
    end: Instant,
) -> Result<Reply, Failure> {
    let (head, body) = response.into_parts();
    let mut reply = Reply {
        status: head.status.as_u16(),
        headers: head.headers,
        body: Bytes::new(),
        fault: Fault::default(),
        signature,
    };
    if request.method == Method::HEAD {
        return Ok(reply);
    }
    if reply.is_success() {
        let end = if request.method == Method::GET { Instant::now() + request.patience } else { end };
        reply.body = read(body, reply.size(), request.limit, end).await?;
        // The bytes of an object may look like an error. Other answers may hold an error in spite of their status.
        if (request.method != Method::GET || request.is_about_the_bucket())
            && xml::may_be_a_fault(&reply.body)
        {
            reply.fault = xml::fault(&reply.body);
        }
    } else if let Ok(body) = read(body, None, MAX_FAULT, Instant::now() + REFUSAL).await {
        // If the body of a refusal breaks off, its status still counts.
        reply.fault = xml::fault(&body);
    }
    Ok(reply)
}

async fn read(
    body: transport::Body,
    announced: Option<u64>,
    limit: u64,
    end: Instant,
) -> Result<Bytes, Failure> {
    if announced.is_some_and(|size| size > limit) {
        return Err(Failure::TooLarge);
    }
    let whole = match tokio::time::timeout_at(end, body.read(limit)).await {
        Ok(Ok(whole)) => whole,
        Ok(Err(ReadError::TooLarge)) => return Err(Failure::TooLarge),
        Ok(Err(ReadError::Broken(cause))) => {
            return Err(Failure::Broken(format!("the answer broke off: {}", chain(cause.as_ref()))));
        }
        Err(_) => return Err(Failure::Broken("the answer did not end in time".into())),
    };
    match announced {
        Some(size) if size != whole.len() as u64 => {
            Err(Failure::Broken(format!("the answer broke off after {} of {size} bytes", whole.len())))
        }
        _ => Ok(whole),
    }
}
