//! Publishes narinfos, each after all its references, and optional listings.

mod listing;
mod narinfo;
mod order;

pub use listing::write_listing;
pub use narinfo::Publisher;
pub use order::Order;
