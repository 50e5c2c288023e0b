//! Publishes narinfos, each after all its references, then realisations, and optional listings.

mod listing;
mod narinfo;
mod order;
mod realisation;

pub use listing::write_listing;
pub use narinfo::Publisher;
pub use order::Order;
