//! The messages that the daemon sends before each reply: log messages, progress, and errors.

use std::io::Read;

use super::plain_text::plain;
use super::protocol_error::{DaemonMessage, ProtocolError};
use super::wire::{read_bytes, read_count, read_text, read_u64};

const LAST: u64 = 0x616c_7473;
/// The number that announces an error of the daemon. Inside a NAR, it stands in the place of the length of a token.
pub(crate) const ERROR: u64 = 0x6378_7470;
const NEXT: u64 = 0x6f6c_6d67;
const START_ACTIVITY: u64 = 0x5354_5254;
const STOP_ACTIVITY: u64 = 0x5354_4f50;
const RESULT: u64 = 0x5253_4c54;

/// Reads up to the end of the messages before a reply. An error of the daemon becomes [`ProtocolError::Daemon`].
pub(crate) fn drain(from: &mut (impl Read + ?Sized)) -> Result<(), ProtocolError> {
    loop {
        match read_u64(from)? {
            LAST => return Ok(()),
            ERROR => return Err(ProtocolError::Daemon(read_error(from)?)),
            NEXT => {
                read_bytes(from)?;
            }
            START_ACTIVITY => {
                for _ in 0..3 {
                    read_u64(from)?; // activity, level, type
                }
                read_bytes(from)?;
                skip_fields(from)?;
                read_u64(from)?; // parent
            }
            STOP_ACTIVITY => {
                read_u64(from)?;
            }
            RESULT => {
                read_u64(from)?; // activity
                read_u64(from)?; // type
                skip_fields(from)?;
            }
            other => {
                return Err(ProtocolError::malformed(format!("`{other:#x}` instead of a log message")));
            }
        }
    }
}

/// Reads the error that follows [`ERROR`].
pub(crate) fn read_error(from: &mut (impl Read + ?Sized)) -> Result<DaemonMessage, ProtocolError> {
    read_bytes(from)?; // "Error"
    read_u64(from)?; // level
    read_bytes(from)?; // "Error"
    let message = plain(&read_text(from)?);
    no_position(from)?;
    let mut traces = Vec::new();
    for _ in 0..read_count(from)? {
        no_position(from)?;
        let trace = plain(&read_text(from)?);
        if traces.len() < 3 && !trace.is_empty() {
            traces.push(trace);
        }
    }
    Ok(DaemonMessage { message, traces })
}

fn no_position(from: &mut (impl Read + ?Sized)) -> Result<(), ProtocolError> {
    match read_u64(from)? {
        0 => Ok(()),
        other => Err(ProtocolError::malformed(format!("an error with the kind of position {other}"))),
    }
}

fn skip_fields(from: &mut (impl Read + ?Sized)) -> Result<(), ProtocolError> {
    for _ in 0..read_count(from)? {
        match read_u64(from)? {
            0 => {
                read_u64(from)?;
            }
            1 => {
                read_bytes(from)?;
            }
            other => return Err(ProtocolError::malformed(format!("a log field of type {other}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::wire::{write_bytes, write_u64};
    use super::*;

    /// The bytes of an error message.
    pub(crate) fn error(message: &str, traces: &[&str]) -> Vec<u8> {
        let mut wire = Vec::new();
        write_u64(&mut wire, ERROR).unwrap();
        write_bytes(&mut wire, b"Error").unwrap();
        write_u64(&mut wire, 0).unwrap();
        write_bytes(&mut wire, b"Error").unwrap();
        write_bytes(&mut wire, message.as_bytes()).unwrap();
        write_u64(&mut wire, 0).unwrap();
        write_u64(&mut wire, traces.len() as u64).unwrap();
        for trace in traces {
            write_u64(&mut wire, 0).unwrap();
            write_bytes(&mut wire, trace.as_bytes()).unwrap();
        }
        wire
    }

    /// The number that ends the messages, as bytes.
    pub(crate) fn last() -> Vec<u8> {
        LAST.to_le_bytes().to_vec()
    }

    fn chatter() -> Vec<u8> {
        let mut wire = Vec::new();
        let number = |wire: &mut Vec<u8>, n: u64| write_u64(wire, n).unwrap();
        number(&mut wire, NEXT);
        write_bytes(&mut wire, b"building\n").unwrap();
        number(&mut wire, START_ACTIVITY);
        [7, 3, 105].iter().for_each(|n| number(&mut wire, *n));
        write_bytes(&mut wire, b"an activity").unwrap();
        [2, 0, 42, 1].iter().for_each(|n| number(&mut wire, *n));
        write_bytes(&mut wire, b"a field").unwrap();
        number(&mut wire, 0);
        number(&mut wire, RESULT);
        [7, 101, 1, 0, 5].iter().for_each(|n| number(&mut wire, *n));
        number(&mut wire, STOP_ACTIVITY);
        number(&mut wire, 7);
        wire
    }

    #[test]
    fn messages_are_consumed_up_to_the_last() {
        let wire = [chatter(), last(), b"the reply".to_vec()].concat();
        let from = &mut wire.as_slice();
        drain(from).unwrap();
        assert_eq!(from, b"the reply");
    }

    #[test]
    fn an_error_comes_without_colours() {
        let wire = [
            chatter(),
            error("\u{1b}[31;1merror:\u{1b}[0m path '\u{1b}[35;1m/x\u{1b}[0m'\n bad", &["while at it"]),
        ]
        .concat();
        let from = &mut wire.as_slice();
        match drain(from) {
            Err(ProtocolError::Daemon(message)) => {
                assert_eq!(message.to_string(), "path '/x' bad; while at it");
            }
            other => panic!("{other:?}"),
        }
        assert!(from.is_empty());
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_an_error() {
        let wire = [chatter(), error("message", &["trace"])].concat();
        for end in 0..wire.len() {
            assert!(matches!(drain(&mut &wire[..end]), Err(ProtocolError::Closed)), "{end}");
        }
        for at in 0..wire.len() {
            let mut broken = wire.clone();
            broken[at] ^= 0xff;
            assert!(drain(&mut broken.as_slice()).is_err());
        }
    }
}
