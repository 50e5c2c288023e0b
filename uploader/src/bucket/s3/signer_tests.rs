use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use aws_credential_types::Credentials;
use aws_credential_types::provider::future::ProvideCredentials as Provided;

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

fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
    all.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().expect("value"))).collect()
}

fn header<'a>(request: &'a http::Request<()>, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.to_str().expect("text"))
}

#[tokio::test]
async fn valid_credentials_are_loaded_once() {
    for life in [None, Some(Duration::from_secs(60))] {
        let (signer, given) = signer(life);
        futures::future::join_all((0..20).map(|_| signer.identity())).await;
        assert!(signer.identity().await.is_ok());
        assert_eq!(given.load(Ordering::Relaxed), 1);
    }
    let (signer, given) = signer(Some(Duration::from_secs(5)));
    for _ in 0..3 {
        signer.identity().await.expect("identity");
    }
    assert_eq!(given.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn refused_credentials_are_loaded_again() {
    let (signer, given) = signer(None);
    for code in ["ExpiredToken", "InvalidAccessKeyId", "AccessDenied", "SlowDown"] {
        signer.identity().await.expect("identity");
        assert!(!signer.heed(code, &HeaderMap::new()), "{code}");
    }
    signer.identity().await.expect("identity");
    assert_eq!(given.load(Ordering::Relaxed), 3);
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
    let signer = Signer::new(SharedCredentialsProvider::new(credentials), "us-east-1".into(), "s3".into());
    let mut request = http::Request::put("https://examplebucket.s3.amazonaws.com/test%24file.text")
        .header("date", "Fri, 24 May 2013 00:00:00 GMT")
        .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
        .body(())
        .expect("request");
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_369_353_600);
    let identity = signer.identity().await.expect("identity");
    let body = SignableBody::Bytes(b"Welcome to Amazon S3.");
    signer.sign(&mut request, body, &identity, time).expect("sign");
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
    let identity = signer.identity().await.expect("identity");
    signer.sign(&mut request, SignableBody::UnsignedPayload, &identity, SystemTime::now()).expect("sign");
    let header = |name| header(&request, name).unwrap_or_default();
    assert_eq!(header("x-amz-security-token"), "token");
    assert!(header("authorization").contains("x-amz-security-token"));
    assert_eq!(header("x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_corrected() {
    let (signer, _) = signer(None);
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
    let off = Duration::from_secs(3600);
    assert!(!signer.set_clock(&headers(&[]), now - off));
    assert!(!signer.set_clock(&headers(&[date, ("age", "3600")]), now - off));
    assert!(!signer.set_clock(&headers(&[date]), now - SKEW));

    let signed_at = |local| {
        let mut request = http::Request::get("http://h/b/k").body(()).expect("request");
        let identity = Identity::from(Credentials::new("id", "secret", None, None, "test"));
        signer.sign(&mut request, SignableBody::Bytes(b""), &identity, local).expect("sign");
        header(&request, "x-amz-date").map(str::to_owned)
    };
    for local in [now - off, now + off] {
        assert!(signer.set_clock(&headers(&[date]), local));
        assert_eq!(signed_at(local).as_deref(), Some("19941106T084937Z"));
        // The same refusal again has another reason.
        assert!(!signer.set_clock(&headers(&[date]), local));
    }
}
