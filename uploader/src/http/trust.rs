//! The certificates that TLS connections trust.

use std::fmt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::base::error::{Area, Error, Result};

/// Certificates that larder trusts in addition to the system's certificates.
#[derive(Clone, Default)]
pub(crate) struct Trust(Option<Vec<u8>>);

impl Trust {
    /// Reads and checks a file of PEM certificates. Fails with a configuration error.
    pub(crate) fn read(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else { return Ok(Self(None)) };
        let fault = || Error::permanent(Area::Config, format!("cannot use the CA file `{}`", file.display()));
        let pem = std::fs::read(file).map_err(|error| fault().because(error))?;
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<_, _>>()
            .map_err(|error| fault().because(error))?;
        if certificates.is_empty() {
            return Err(fault()
                .because("the file has no certificate")
                .hint("the file needs blocks that begin with `-----BEGIN CERTIFICATE-----`"));
        }
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            roots.add(certificate).map_err(|error| fault().because(error))?;
        }
        Ok(Self(Some(pem)))
    }

    /// The certificates in PEM format, if a file gave any.
    pub(super) fn pem(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trust").field(&self.0.as_ref().map(Vec::len)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_certificates_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let file = dir.path().join("ca.pem");
        for text in [
            "",
            "no certificate",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
        ] {
            std::fs::write(&file, text).expect("write");
            let error = Trust::read(Some(&file)).expect_err(text);
            assert_eq!(error.area(), Area::Config, "{error}");
        }
        assert!(Trust::read(Some(&dir.path().join("missing"))).is_err());
    }
}
