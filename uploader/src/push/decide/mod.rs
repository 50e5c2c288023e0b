//! Deciding what has to be done for a request, without I/O.

#[cfg(test)]
mod model_tests;
pub mod plan;
pub mod rules;
