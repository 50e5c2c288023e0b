//! Diagnosis of requests without an answer.

use std::error::Error as StdError;
use std::io;

use crate::base::error::{Area, Error, Retry, chain};

/// The causes that need different remedies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The host name has no address.
    NameNotResolved,
    /// No server listens at the address.
    Refused,
    /// The server did not answer in time.
    TimedOut,
    /// The certificate is not trusted, or names another host.
    Certificate,
    /// The server does not speak TLS, or no TLS version that larder speaks.
    Tls,
    /// The connection broke, or the cause is none of the others.
    Broken,
}

/// Finds the cause in an error and its sources.
pub(crate) fn diagnose(error: &(dyn StdError + 'static)) -> Trouble {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    Trouble::Certificate
                }
                _ => Trouble::Tls,
            };
        }
        if let Some(io) = error.downcast_ref::<io::Error>() {
            match io.kind() {
                io::ErrorKind::ConnectionRefused => return Trouble::Refused,
                io::ErrorKind::TimedOut => return Trouble::TimedOut,
                _ => {}
            }
            // `io::Error::source` returns the source of the inner error and skips the inner error itself.
            if let Some(inner) = io.get_ref() {
                next = Some(inner);
                continue;
            }
        }
        let text = error.to_string();
        if text.contains("dns error") || text.contains("failed to lookup address") {
            return Trouble::NameNotResolved;
        }
        if text.contains("timed out") || text.contains("timeout") {
            return Trouble::TimedOut;
        }
        next = error.source();
    }
    Trouble::Broken
}

/// Whether there is no connection to the server, or no answer in time. Otherwise the server took the request.
pub(crate) fn is_unreachable(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect()) {
            return true;
        }
        next = error.source();
    }
    diagnose(error) != Trouble::Broken
}

/// The error of an operation whose request has no answer.
pub(crate) fn explain(what: String, error: &(dyn StdError + 'static)) -> Error {
    let trouble = diagnose(error);
    let retry = match trouble {
        Trouble::Certificate => Retry::Permanent,
        _ => Retry::Transient,
    };
    let cause = chain(error);
    let built = |cause: &str| Error::new(Area::Bucket, retry, what.clone()).because(cause);
    match trouble {
        Trouble::NameNotResolved => built(&format!("the host name is not resolved ({cause})"))
            .hint("check the host in the address, and the DNS of this machine"),
        Trouble::Refused => built(&format!("the connection was refused ({cause})"))
            .hint("check that the server runs, and the port in the address"),
        Trouble::TimedOut => built(&format!("no answer in time ({cause})")),
        Trouble::Certificate => built(&format!("the server's certificate is not accepted ({cause})"))
            .hint("give the certificate of the authority that signed it as the CA file"),
        Trouble::Tls => built(&format!("TLS failed ({cause})"))
            .hint("if the server speaks plain HTTP, write `scheme=http`"),
        Trouble::Broken => built(&cause),
    }
}
