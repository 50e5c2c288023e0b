//! A writer's session with a bucket: its lease, its reservations, and the removal of what dead writers left.

pub mod lease;
pub mod reservation;
pub mod sweep;
