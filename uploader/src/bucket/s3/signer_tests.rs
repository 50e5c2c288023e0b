use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use aws_credential_types::provider::future::ProvideCredentials as Provided;
use bytes::Bytes;

use super::*;

/// Provides numbered credentials with this lifetime.
#[derive(Clone, Debug)]
struct Numbered {
    life: Option<Duration>,
    given: Arc<AtomicU32>,
}

impl ProvideCredentials for Numbered {
    fn provide_credentials<'a>(&'a self) -> Provided<'a>
    where
        Self: 'a,
    {
        Provided::new(async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let number = self.given.fetch_add(1, Ordering::Relaxed);
            let expiry = self.life.map(|life| SystemTime::now() + life);
            Ok(Credentials::new(format!("id{number}"), "secret", Some("token".into()), expiry, "test"))
        })
    }
}

fn signer(life: Option<Duration>) -> (Signer, Arc<AtomicU32>) {
    let given = Arc::new(AtomicU32::new(0));
    let provider = SharedCredentialsProvider::new(Numbered { life, given: Arc::clone(&given) });
    (Signer::new(provider, "us-east-1".into(), "s3".into()), given)
}

fn signer_with(credentials: Credentials) -> Signer {
    Signer::new(SharedCredentialsProvider::new(credentials), "us-east-1".into(), "s3".into())
}

fn header<'a>(request: &'a http::Request<()>, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().expect("text"))
}

#[tokio::test]
async fn valid_credentials_are_loaded_once() {
    for life in [None, Some(Duration::from_secs(60))] {
        let (signer, given) = signer(life);
        futures::future::join_all((0..20).map(|_| signer.prepare())).await;
        assert!(signer.prepare().await.is_ok());
        assert_eq!(given.load(Ordering::Relaxed), 1);
    }
    let (signer, given) = signer(Some(Duration::from_secs(5)));
    for _ in 0..3 {
        signer.prepare().await.expect("credentials");
    }
    assert_eq!(given.load(Ordering::Relaxed), 3);
}

/// The answer to a request that was signed with `signature`.
fn refusal(status: u16, code: &str, headers: &[(&'static str, &str)], signature: &Signature) -> Reply {
    let fault = Fault { code: code.into(), message: String::new() };
    let headers = headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
    Reply { status, headers: headers.collect(), body: Bytes::new(), fault, signature: signature.clone() }
}

#[tokio::test]
async fn a_request_is_signed_with_new_credentials_after_the_old_ones_were_refused() {
    for (status, code, again) in [
        (400, "ExpiredToken", true),
        (403, "InvalidAccessKeyId", true),
        (403, "SignatureDoesNotMatch", true),
        (403, "AccessDenied", false),
        (503, "SlowDown", false),
    ] {
        let (signer, given) = signer(None);
        let first = signer.prepare().await.expect("credentials");
        let refused = refusal(status, code, &[], &first);
        assert_eq!(signer.heed(&refused).await, again, "{code}");
        // Requests that were signed before do not load the credentials again.
        assert_eq!(signer.heed(&refused).await, again, "{code}");
        let second = signer.prepare().await.expect("credentials");
        assert_eq!(second.credentials != first.credentials, again, "{code}");
        assert_eq!(given.load(Ordering::Relaxed), 1 + u32::from(again), "{code}");
    }
}

#[tokio::test]
async fn a_request_with_refused_credentials_is_not_repeated_while_the_provider_has_no_others() {
    let signer = signer_with(Credentials::new("id", "secret", None, None, "test"));
    let signature = signer.prepare().await.expect("credentials");
    assert!(!signer.heed(&refusal(403, "InvalidAccessKeyId", &[], &signature)).await);
}

/// The signature is that of the example in the documentation of Signature Version 4 for S3.
#[tokio::test]
async fn signs_as_documented() {
    let credentials = Credentials::new(
        "AKIAIOSFODNN7EXAMPLE",
        "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        None,
        None,
        "test",
    );
    let signer = signer_with(credentials);
    let mut request = http::Request::put("https://examplebucket.s3.amazonaws.com/test%24file.text")
        .header("date", "Fri, 24 May 2013 00:00:00 GMT")
        .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
        .body(())
        .expect("request");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
    let signature = Signature { time, ..signer.prepare().await.expect("credentials") };
    let body = SignableBody::Bytes(b"Welcome to Amazon S3.");
    signer.sign(&mut request, body, &signature, Manner::Headers).expect("sign");
    assert_eq!(
        header(&request, "authorization"),
        Some(
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, \
             SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class, \
             Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        )
    );
    assert_eq!(header(&request, "x-amz-security-token"), None);
}

#[tokio::test]
async fn a_session_token_is_sent_and_signed() {
    let (signer, _) = signer(None);
    let mut request = http::Request::get("http://[::1]:9000/b/k").body(()).expect("request");
    let signature = signer.prepare().await.expect("credentials");
    signer.sign(&mut request, SignableBody::UnsignedPayload, &signature, Manner::Headers).expect("sign");
    let header = |name| header(&request, name).unwrap_or_default();
    assert_eq!(header("x-amz-security-token"), "token");
    assert!(header("authorization").contains("x-amz-security-token"));
    assert_eq!(header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
}

/// The date of the server in the tests, as a header and in seconds since 1970.
const DATE: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
const SECONDS: u64 = 784_111_777;

#[tokio::test]
async fn a_clock_that_is_far_off_is_corrected() {
    let signer = signer_with(Credentials::new("id", "secret", None, None, "test"));
    let server = SystemTime::UNIX_EPOCH + Duration::from_secs(SECONDS);
    let credentials = signer.prepare().await.expect("credentials").credentials;
    let signed = |time| Signature { credentials: credentials.clone(), time, made: Moment::now() };
    let off = Duration::from_secs(3 * 24 * 3600);
    for (status, code, headers, time, corrected) in [
        (403, "RequestTimeTooSkewed", vec![DATE], server - off, true),
        (403, "RequestTimeTooSkewed", vec![DATE], server + off, true),
        // Some servers give another code, and the answer to a HEAD has none.
        (403, "SignatureDoesNotMatch", vec![DATE], server + off, true),
        (403, "", vec![DATE], server + off, true),
        // The clocks agree: the refusal has another reason.
        (403, "RequestTimeTooSkewed", vec![DATE], server - SKEW, false),
        (403, "RequestTimeTooSkewed", vec![], server - off, false),
        (403, "RequestTimeTooSkewed", vec![DATE, ("age", "3600")], server - off, false),
        (503, "SlowDown", vec![DATE], server - off, false),
    ] {
        signer.ahead.store(0, Ordering::Relaxed);
        let refused = refusal(status, code, &headers, &signed(time));
        assert_eq!(signer.heed(&refused).await, corrected, "{refused:?}");
        let differs = signer.now().duration_since(server).map_or(0, |since| since.as_secs());
        assert_eq!(differs < 3600, corrected, "{refused:?}");
        // A request that was sent at the same time is repeated, too.
        assert_eq!(signer.heed(&refused).await, corrected, "{refused:?}");
        // A request with the corrected time is not repeated.
        let time = signer.now();
        assert!(!corrected || !signer.heed(&refusal(status, code, &headers, &signed(time))).await);
    }
}

#[tokio::test]
async fn a_clock_is_adopted_only_where_signatures_would_be_valid_for_longer() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    // The answer to a request that was signed so long ago, with the time of the server and whether that is adopted.
    let now = SystemTime::now();
    for (signed, server, adopted) in [
        (now, now, false),
        (now, now + minutes(3), false),
        (now - minutes(30), now, false),
        // Such a signature expires early, which does no harm.
        (now, now + minutes(6), false),
        (now, now - minutes(6), true),
    ] {
        let (signer, _) = signer(None);
        let signature = Signature { time: signed, ..signer.prepare().await.expect("credentials") };
        let date = httpdate::fmt_http_date(server);
        signer.see_clock(&refusal(200, "", &[("date", &date)], &signature));
        let other = signer.now().duration_since(now).map_or(true, |ahead| ahead > minutes(1));
        assert_eq!(other, adopted, "{signed:?} {server:?}");
    }
}

#[tokio::test]
async fn a_clock_that_jumps_forward_between_two_answers_makes_no_signature_valid_for_longer() {
    let (signer, _) = signer(None);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let now = SystemTime::now();
    // Without an answer, the clock of this machine is all that is known.
    assert_eq!(signer.at(now + minutes(14)), now + minutes(14));
    let signature = signer.prepare().await.expect("credentials");
    signer.see_clock(&refusal(200, "", &[("date", &httpdate::fmt_http_date(now))], &signature));
    assert_eq!(signer.at(now + minutes(2)), now + minutes(2));
    assert!(signer.at(now + minutes(14)) < now + minutes(5));
    assert_eq!(signer.at(now - minutes(14)), now - minutes(14));
}
