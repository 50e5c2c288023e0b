//! Publishing: the order in which narinfos become visible, and their writing.

pub mod narinfo;
pub mod order;
