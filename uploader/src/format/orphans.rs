//! Records of objects that no narinfo needs, so that a collection knows for how long.
//!
//! `larder/orphans/<id>.txt` holds the keys of NARs, listings and logs that no narinfo named when a collection saw them first:
//! a key on each line. The server tells the age of the record.

use super::object_keys;

/// The prefix of the keys of the records.
pub const ORPHANS: &str = "larder/orphans/";
/// The prefix of the keys of records of what a purge removes, of the same form.
pub const PURGES: &str = "larder/purges/";
const SUFFIX: &str = ".txt";
/// The most bytes of a record.
const LONGEST: usize = 2 << 20;

/// A new key for a record.
pub fn new_key() -> String {
    format!("{ORPHANS}{}{SUFFIX}", object_keys::new_writer())
}

/// The contents of as many records as the keys need.
pub fn encode<'k>(keys: impl IntoIterator<Item = &'k str>) -> Vec<Vec<u8>> {
    let mut records: Vec<Vec<u8>> = Vec::new();
    for key in keys {
        match records.last_mut().filter(|record| record.len() < LONGEST) {
            Some(record) => record.extend_from_slice(key.as_bytes()),
            None => records.push(key.as_bytes().to_vec()),
        }
        if let Some(record) = records.last_mut() {
            record.push(b'\n');
        }
    }
    records
}

/// The keys of a record. The error says what is wrong.
pub fn decode(bytes: &[u8]) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok(text.lines().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let keys: Vec<_> = (0..60_000).map(|number| format!("nar/{number:060}.nar.zst")).collect();
        let records = encode(keys.iter().map(String::as_str));
        assert!(records.len() > 1 && records.iter().all(|record| record.len() < 3 << 20));
        let read: Vec<_> = records.iter().flat_map(|record| decode(record).unwrap()).collect();
        assert_eq!(read, keys);
        assert!(decode(b"\xff").is_err() && encode([]).is_empty());
        assert!(new_key().starts_with(ORPHANS));
    }
}
