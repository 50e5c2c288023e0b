//! Fair cycles.
