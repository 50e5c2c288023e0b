//! The handshake at the beginning of a conversation: magic numbers, versions, features.

use std::fmt;
use std::io::{Read, Write};

use super::plain_text::plain;
use super::protocol_error::ProtocolError;
use super::stderr;
use super::wire::{read_list, read_string, read_text, read_u64, write_strings, write_u64};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const SERVER_MAGIC: u64 = 0x6478_696f;

/// A version of the worker protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProtocolVersion {
    /// Incompatible changes increase it. It has always been 1.
    pub major: u64,
    /// Additions increase it.
    pub minor: u64,
}

impl ProtocolVersion {
    /// The oldest version that larder supports: Nix 2.8.
    pub const OLDEST: Self = Self { major: 1, minor: 34 };
    /// The newest version that larder supports: Nix 2.24 and later.
    pub const NEWEST: Self = Self { major: 1, minor: 38 };

    const TRUST: Self = Self { major: 1, minor: 35 };
    const FEATURES: Self = Self { major: 1, minor: 38 };

    fn from_wire(value: u64) -> Self {
        Self { major: value >> 8, minor: value & 0xff }
    }

    fn to_wire(self) -> u64 {
        self.major << 8 | self.minor
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The facts that the daemon tells in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The version of the conversation: the lower version of both sides.
    pub protocol: ProtocolVersion,
    /// The Nix version of the daemon, in the daemon's own words.
    pub nix_version: String,
    /// Whether the daemon trusts this client. Daemons before protocol 1.35 do not tell.
    pub trusted: Option<bool>,
}

/// The reason why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The other side is not a Nix daemon.
    #[error("the program at the other end is not a nix daemon (it sent `{0:#x}`)")]
    NotNix(u64),
    /// larder does not support the daemon's version of the protocol.
    #[error(
        "the nix daemon speaks protocol {0}, but larder supports {oldest} to {newest}",
        oldest = ProtocolVersion::OLDEST,
        newest = ProtocolVersion::NEWEST
    )]
    Version(ProtocolVersion),
    /// The conversation failed.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

/// Performs the handshake.
pub(crate) fn handshake(
    from: &mut (impl Read + ?Sized),
    to: &mut (impl Write + ?Sized),
) -> Result<Server, HandshakeError> {
    write_u64(to, CLIENT_MAGIC)?;
    write_u64(to, ProtocolVersion::NEWEST.to_wire())?;
    flush(to)?;
    match read_u64(from)? {
        SERVER_MAGIC => {}
        other => return Err(HandshakeError::NotNix(other)),
    }
    let theirs = ProtocolVersion::from_wire(read_u64(from)?);
    if theirs.major != ProtocolVersion::NEWEST.major || theirs < ProtocolVersion::OLDEST {
        return Err(HandshakeError::Version(theirs));
    }
    let protocol = theirs.min(ProtocolVersion::NEWEST);
    if protocol >= ProtocolVersion::FEATURES {
        write_strings::<&str>(to, &[])?;
        flush(to)?;
        read_list(from, read_string)?;
    }
    write_u64(to, 0)?; // no CPU affinity
    write_u64(to, 0)?; // no reserved space
    flush(to)?;
    let nix_version = plain(&read_text(from)?);
    let trusted = if protocol >= ProtocolVersion::TRUST {
        match read_u64(from)? {
            0 => None,
            1 => Some(true),
            2 => Some(false),
            other => return Err(ProtocolError::malformed(format!("the kind of trust {other}")).into()),
        }
    } else {
        None
    };
    stderr::drain(from)?;
    Ok(Server { protocol, nix_version, trusted })
}

fn flush(to: &mut (impl Write + ?Sized)) -> Result<(), ProtocolError> {
    Ok(to.flush()?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::stderr::tests::{error, last};
    use super::super::wire::write_bytes;
    use super::*;

    /// The bytes that a daemon with protocol 1.`minor` sends.
    pub(crate) fn greeting(minor: u64) -> Vec<u8> {
        let mut wire = Vec::new();
        write_u64(&mut wire, SERVER_MAGIC).unwrap();
        write_u64(&mut wire, 0x100 | minor).unwrap();
        if minor >= 38 {
            write_strings(&mut wire, &["some-feature"]).unwrap();
        }
        write_bytes(&mut wire, b"2.99").unwrap();
        if minor >= 35 {
            write_u64(&mut wire, 1).unwrap();
        }
        wire.extend(last());
        wire
    }

    fn sent(minor: u64) -> Vec<u8> {
        let features: &[u64] = if minor >= 38 { &[0] } else { &[] };
        [&[CLIENT_MAGIC, 0x126], features, &[0, 0]].concat().iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    #[test]
    fn the_handshake_works_with_each_version() {
        for minor in [34, 35, 37, 38, 39] {
            let wire = greeting(minor);
            let (from, mut to) = (&mut wire.as_slice(), Vec::new());
            let server = handshake(from, &mut to).unwrap();
            assert_eq!(server.protocol, ProtocolVersion { major: 1, minor: minor.min(38) });
            assert_eq!(server.nix_version, "2.99");
            assert_eq!(server.trusted, (minor >= 35).then_some(true));
            assert!(from.is_empty());
            assert_eq!(to, sent(minor));
            for end in 0..wire.len() {
                assert!(handshake(&mut &wire[..end], &mut Vec::new()).is_err(), "{minor} {end}");
            }
        }
    }

    #[test]
    fn other_versions_and_programs_are_refused() {
        let answer = |numbers: [u64; 2]| {
            let wire: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
            handshake(&mut wire.as_slice(), &mut Vec::new()).unwrap_err().to_string()
        };
        assert!(answer([SERVER_MAGIC, 0x121]).contains("speaks protocol 1.33"));
        assert!(answer([SERVER_MAGIC, 0x200]).contains("speaks protocol 2.0"));
        assert!(answer([1, 0x126]).contains("not a nix daemon"));
    }

    #[test]
    fn a_refusal_keeps_the_words_of_the_daemon() {
        let mut wire = greeting(34);
        wire.truncate(wire.len() - 8);
        wire.extend(error("user 'nobody' is not allowed to connect to the Nix daemon", &[]));
        let refused = handshake(&mut wire.as_slice(), &mut Vec::new()).unwrap_err().to_string();
        assert!(refused.contains("not allowed"), "{refused}");
    }
}
