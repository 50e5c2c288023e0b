//! Numbers as people read them.

use std::fmt::Display;

/// A number with its noun, in the singular or plural: `1 path`, `2 paths`.
pub(in crate::cli) fn count<N: Display + PartialEq + From<u8>>(number: N, noun: &str) -> String {
    if number == 1.into() { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A number of bytes with a decimal unit: `1.5 MB`.
pub(in crate::cli) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
