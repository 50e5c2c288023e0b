//! The bytes of a record in the local cache.
//!
//! Numbers are written in groups of seven bits, the lowest first; texts and lists begin with their lengths. The form may
//! change between versions of larder: [`VERSION`] is then another one, and caches of the older form are not read.

use super::objects::{Object, Tag};
use super::records::{Nar, Path, Record};

/// The version of the form, and of the judgement that a record holds.
pub(super) const VERSION: u32 = 2;

/// The bytes of a record of the narinfo in this object; `None` if the object has no entity tag, so that nobody could tell
/// later whether it is the same.
pub(super) fn encode(object: &Object, record: &Record) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(512);
    out.extend(object.tag?.0);
    number(&mut out, object.size);
    text(&mut out, &record.name);
    out.push(record.nar.is_some().into());
    if let Some(nar) = &record.nar {
        text(&mut out, &nar.key);
        out.extend(nar.nar_hash);
        number(&mut out, nar.nar_size);
        // A narinfo that says 0 does not say the size.
        number(&mut out, nar.file_size.unwrap_or(0));
        out.push(nar.file_hash.is_some().into());
        nar.file_hash.iter().for_each(|hash| out.extend(hash));
        out.push(nar.label);
    }
    out.push(record.unfit_url.is_some().into());
    record.unfit_url.iter().for_each(|url| text(&mut out, url));
    number(&mut out, record.references.len() as u64);
    record.references.iter().for_each(|reference| path(&mut out, reference));
    out.push(record.deriver.is_some().into());
    record.deriver.iter().for_each(|deriver| path(&mut out, deriver));
    number(&mut out, record.signers.len() as u64);
    record.signers.iter().for_each(|signer| text(&mut out, signer));
    out.push(record.fault.is_some().into());
    if let Some((kind, fault)) = &record.fault {
        out.push(*kind);
        text(&mut out, fault);
    }
    Some(out)
}

/// The object and the record in these bytes; `None` if they are no record of this form.
pub(super) fn decode(bytes: &[u8]) -> Option<(Object, Record)> {
    let mut from = Reader(bytes);
    let tag = Tag(from.array()?);
    let object = Object::read(from.number()?, Some(tag));
    let name = from.text()?;
    let nar = from.optional(|from| {
        Some(Nar {
            key: from.text()?,
            nar_hash: from.array()?,
            nar_size: from.number()?,
            file_size: Some(from.number()?).filter(|size| *size > 0),
            file_hash: from.optional(Reader::array)?,
            label: from.byte()?,
        })
    })?;
    let unfit_url = from.optional(Reader::text)?;
    let references = from.list(Reader::path)?;
    let deriver = from.optional(Reader::path)?;
    let signers = from.list(Reader::text)?;
    let fault = from.optional(|from| Some((from.byte()?, from.text()?)))?;
    from.0
        .is_empty()
        .then_some((object, Record { name, nar, unfit_url, references, deriver, signers, fault }))
}

fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as u64);
    out.extend(text.as_bytes());
}

fn path(out: &mut Vec<u8>, (digest, name): &Path) {
    out.extend(digest);
    text(out, name);
}

/// Reads values from the beginning of bytes. Each method is `None` where the bytes do not fit.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<String> {
        let length = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(std::str::from_utf8(text).ok()?.to_owned())
    }

    fn path(&mut self) -> Option<Path> {
        Some((self.array()?, self.text()?))
    }

    fn list<T>(&mut self, element: impl Fn(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        // Every element takes a byte at least, so that a wrong length ends at the end of the bytes.
        let length = self.number()?;
        (0..length).map(|_| element(self)).collect()
    }

    fn optional<T>(&mut self, value: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => Some(Some(value(self)?)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn a_path() -> impl Strategy<Value = Path> {
        (any::<[u8; 20]>(), "[a-z.é-]{0,30}")
    }

    fn a_nar() -> impl Strategy<Value = Nar> {
        let file_size = proptest::option::of(1..=u64::MAX);
        (
            "[a-z/]{0,70}",
            any::<[u8; 32]>(),
            any::<u64>(),
            file_size,
            proptest::option::of(any::<[u8; 32]>()),
            any::<u8>(),
        )
            .prop_map(|(key, nar_hash, nar_size, file_size, file_hash, label)| Nar {
                key,
                nar_hash,
                nar_size,
                file_size,
                file_hash,
                label,
            })
    }

    fn a_record() -> impl Strategy<Value = Record> {
        let fault = proptest::option::of((any::<u8>(), ".{0,200}"));
        let nar = proptest::option::of(a_nar());
        let deriver = proptest::option::of(a_path());
        let nars = (nar, proptest::option::of(".{0,40}"));
        ("[a-z]{0,20}", nars, vec(a_path(), 0..20), deriver, vec(".{0,20}", 0..4), fault).prop_map(
            |(name, (nar, unfit_url), references, deriver, signers, fault)| Record {
                name,
                nar,
                unfit_url,
                references,
                deriver,
                signers,
                fault,
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(record in a_record(), size in any::<u64>(), tag in any::<[u8; 12]>()) {
            let object = Object::read(size, Some(Tag(tag)));
            let bytes = encode(&object, &record).unwrap();
            prop_assert_eq!(decode(&bytes), Some((object, record)));
        }

        #[test]
        fn bytes_that_are_cut_or_extended_are_no_record(record in a_record(), at in any::<prop::sample::Index>()) {
            let object = Object::read(1, Some(Tag([7; 12])));
            let mut bytes = encode(&object, &record).unwrap();
            prop_assert_eq!(decode(&bytes[..at.index(bytes.len())]), None);
            bytes.push(0);
            prop_assert_eq!(decode(&bytes), None);
        }

        #[test]
        fn no_bytes_stop_the_reader(bytes in vec(any::<u8>(), 0..200)) {
            decode(&bytes);
        }
    }

    #[test]
    fn an_object_without_an_entity_tag_is_not_kept() {
        assert_eq!(encode(&Object::read(1, None), &Record::default()), None);
    }
}
