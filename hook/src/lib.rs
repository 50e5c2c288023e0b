//! The on-disk queue.
