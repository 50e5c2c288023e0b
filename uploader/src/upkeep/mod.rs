//! Keeps a bucket whole and small: verify, repair, pins and rules, collection, new signatures, copies.
