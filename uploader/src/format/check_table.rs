//! The tables of good and bad values in `nix/tests/`, which the modules and the unit tests share.

use serde_json::Value;

/// The good and the bad cases of a table.
pub(super) fn read(text: &str) -> (Vec<Value>, Vec<Value>) {
    let table: Value = serde_json::from_str(text).unwrap();
    let list = |name: &str| table[name].as_array().unwrap().clone();
    (list("good"), list("bad"))
}
