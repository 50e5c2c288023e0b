//! The primitives of the worker protocol: integers, strings, and lists.
//!
//! Every value consists of little-endian 64-bit integers and byte strings. A byte string is its length, its bytes, and
//! zeros up to the next multiple of eight. The reader does not trust lengths: memory grows with the bytes that have
//! arrived, up to a limit.

use std::io::{Read, Write};

use super::protocol_error::ProtocolError;

/// The length of the longest string that the reader accepts.
pub(crate) const MAX_STRING: u64 = 16 << 20;

/// The largest number of elements in a set, list or map that the reader accepts.
pub(crate) const MAX_ITEMS: u64 = 1 << 20;

/// The number of bytes reserved before the first byte of a string or the first element of a list arrives.
const FIRST_ALLOCATION: u64 = 4096;

/// Reads an integer.
pub(crate) fn read_u64(from: &mut (impl Read + ?Sized)) -> Result<u64, ProtocolError> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads a truth value: an integer that is 0 or 1.
pub(crate) fn read_bool(from: &mut (impl Read + ?Sized)) -> Result<bool, ProtocolError> {
    match read_u64(from)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(ProtocolError::malformed(format!("{other} instead of 0 or 1"))),
    }
}

/// Reads a byte string.
pub(crate) fn read_bytes(from: &mut (impl Read + ?Sized)) -> Result<Vec<u8>, ProtocolError> {
    let length = read_u64(from)?;
    if length > MAX_STRING {
        return Err(ProtocolError::malformed(format!("a string of {length} bytes, more than {MAX_STRING}")));
    }
    let mut bytes = Vec::with_capacity(length.min(FIRST_ALLOCATION) as usize);
    let got = (&mut *from).take(length).read_to_end(&mut bytes)?;
    if (got as u64) < length {
        return Err(ProtocolError::Closed);
    }
    let mut padding = [0; 8];
    let padding = &mut padding[..pad(length)];
    from.read_exact(padding)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(ProtocolError::malformed("non-zero padding after a string"));
    }
    Ok(bytes)
}

/// Reads a string that must be UTF-8.
pub(crate) fn read_string(from: &mut (impl Read + ?Sized)) -> Result<String, ProtocolError> {
    String::from_utf8(read_bytes(from)?).map_err(|error| {
        ProtocolError::malformed(format!("`{}` is not UTF-8", String::from_utf8_lossy(error.as_bytes())))
    })
}

/// Reads a string for people. Replacement characters take the place of bytes that are not UTF-8.
pub(crate) fn read_text(from: &mut (impl Read + ?Sized)) -> Result<String, ProtocolError> {
    Ok(String::from_utf8_lossy(&read_bytes(from)?).into_owned())
}

/// Reads the number of elements that follow.
pub(crate) fn read_count(from: &mut (impl Read + ?Sized)) -> Result<u64, ProtocolError> {
    let count = read_u64(from)?;
    if count > MAX_ITEMS {
        return Err(ProtocolError::malformed(format!("a list of {count} elements, more than {MAX_ITEMS}")));
    }
    Ok(count)
}

/// Reads a list or set: the number of elements, then each element with `element`.
pub(crate) fn read_list<R: Read + ?Sized, T>(
    from: &mut R,
    mut element: impl FnMut(&mut R) -> Result<T, ProtocolError>,
) -> Result<Vec<T>, ProtocolError> {
    let count = read_count(from)?;
    let mut list = Vec::with_capacity(count.min(FIRST_ALLOCATION / 8) as usize);
    for _ in 0..count {
        list.push(element(from)?);
    }
    Ok(list)
}

/// Writes an integer.
pub(crate) fn write_u64(to: &mut (impl Write + ?Sized), value: u64) -> Result<(), ProtocolError> {
    Ok(to.write_all(&value.to_le_bytes())?)
}

/// Writes a byte string.
pub(crate) fn write_bytes(to: &mut (impl Write + ?Sized), bytes: &[u8]) -> Result<(), ProtocolError> {
    let length = bytes.len() as u64;
    write_u64(to, length)?;
    to.write_all(bytes)?;
    Ok(to.write_all(&[0; 8][..pad(length)])?)
}

/// Writes a list or set of strings.
pub(crate) fn write_strings<S: AsRef<[u8]>>(
    to: &mut (impl Write + ?Sized),
    strings: &[S],
) -> Result<(), ProtocolError> {
    write_u64(to, strings.len() as u64)?;
    strings.iter().try_for_each(|string| write_bytes(to, string.as_ref()))
}

/// The number of zeros after a string of this length.
pub(crate) fn pad(length: u64) -> usize {
    ((8 - length % 8) % 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_returns_the_written_values() {
        for length in 0..40 {
            let bytes = vec![b'x'; length];
            let mut wire = Vec::new();
            write_u64(&mut wire, length as u64 * 7).unwrap();
            write_bytes(&mut wire, &bytes).unwrap();
            write_strings(&mut wire, &[&bytes[..], b"second"]).unwrap();
            assert_eq!(wire.len() % 8, 0);
            let from = &mut wire.as_slice();
            assert_eq!(read_u64(from).unwrap(), length as u64 * 7);
            assert_eq!(read_bytes(from).unwrap(), bytes);
            assert_eq!(read_list(from, read_bytes).unwrap(), vec![bytes, b"second".to_vec()]);
            assert!(from.is_empty());
        }
    }

    #[test]
    fn a_string_is_padded_with_zeros_to_eight() {
        let mut wire = Vec::new();
        write_bytes(&mut wire, b"abc").unwrap();
        assert_eq!(wire, b"\x03\0\0\0\0\0\0\0abc\0\0\0\0\0");
        wire[12] = 1;
        let error = read_bytes(&mut wire.as_slice()).unwrap_err().to_string();
        assert!(error.contains("padding"), "{error}");
    }

    #[test]
    fn the_reader_does_not_trust_lengths() {
        let huge = u64::MAX.to_le_bytes();
        assert!(matches!(read_bytes(&mut &huge[..]), Err(ProtocolError::Malformed(_))));
        assert!(matches!(read_list(&mut &huge[..], read_u64), Err(ProtocolError::Malformed(_))));
        let large = MAX_STRING.to_le_bytes();
        assert!(matches!(read_bytes(&mut &large[..]), Err(ProtocolError::Closed)));
        let many = MAX_ITEMS.to_le_bytes();
        assert!(matches!(read_list(&mut &many[..], read_bytes), Err(ProtocolError::Closed)));
    }

    #[test]
    fn every_truncation_is_an_error() {
        let mut wire = Vec::new();
        write_strings(&mut wire, &["one", "two and more"]).unwrap();
        for end in 0..wire.len() {
            assert!(read_list(&mut &wire[..end], read_string).is_err(), "{end}");
        }
    }

    #[test]
    fn other_truth_values_and_bytes_that_are_not_text_are_refused() {
        assert!(read_bool(&mut &2u64.to_le_bytes()[..]).is_err());
        let mut wire = Vec::new();
        write_bytes(&mut wire, b"\xff\xfe").unwrap();
        assert!(matches!(read_string(&mut wire.as_slice()), Err(ProtocolError::Malformed(_))));
        assert_eq!(read_text(&mut wire.as_slice()).unwrap(), "\u{fffd}\u{fffd}");
    }
}
