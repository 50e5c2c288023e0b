//! Publishing: narinfos become visible, each after all its references. Optional objects stand beside them.

mod listing;
mod narinfo;
mod order;

pub use listing::write_listing;
pub use narinfo::Publisher;
pub use order::Order;
