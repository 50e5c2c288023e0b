//! The rules by which writers and collectors share a bucket, as a state machine without I/O.
