//! `nix-cache-info`: what a client reads before anything else.
//!
//! Source of the format: Nix's `BinaryCacheStore::init` and `HttpBinaryCacheStore::init`.

use nix_derivation::store_path::StoreDir;

/// The contents of `nix-cache-info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheInfo {
    /// The store directory of the paths in the cache; clients with another skip the cache.
    pub store_dir: String,
    /// Whether clients may ask for many paths at once.
    pub want_mass_query: bool,
    /// Lower is asked first; cache.nixos.org says 40, and an absent one means 0.
    pub priority: Option<i64>,
}

impl CacheInfo {
    /// What larder writes into a bucket that has none. 30: asked before cache.nixos.org.
    pub fn new(store_dir: &StoreDir, priority: i64) -> Self {
        Self { store_dir: store_dir.as_str().to_owned(), want_mass_query: true, priority: Some(priority) }
    }

    /// The object's bytes.
    pub fn to_text(&self) -> String {
        let mut text =
            format!("StoreDir: {}\nWantMassQuery: {}\n", self.store_dir, u8::from(self.want_mass_query));
        if let Some(priority) = self.priority {
            text.push_str(&format!("Priority: {priority}\n"));
        }
        text
    }

    /// Reads the object as a client does. The error says what a client would stumble over.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut info = Self { store_dir: "/nix/store".into(), want_mass_query: false, priority: None };
        for line in text.lines() {
            let Some((name, value)) = line.split_once(':') else { continue };
            let value = value.trim();
            match name.trim() {
                "StoreDir" => value.clone_into(&mut info.store_dir),
                "WantMassQuery" => info.want_mass_query = value == "1",
                "Priority" => {
                    let priority =
                        value.parse().map_err(|_| format!("`Priority: {value}` is no whole number"))?;
                    info.priority = Some(priority);
                }
                _ => {}
            }
        }
        if text.contains('\r') {
            return Err("its lines end in CR LF, which Nix does not read".into());
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let info = CacheInfo::new(&StoreDir::default(), 30);
        assert_eq!(info.to_text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
        assert_eq!(CacheInfo::parse(&info.to_text()), Ok(info));
    }

    #[test]
    fn reads_what_nix_copy_writes_and_refuses_what_breaks_clients() {
        assert_eq!(CacheInfo::parse("StoreDir: /gnu/store\n").unwrap().store_dir, "/gnu/store");
        assert!(CacheInfo::parse("StoreDir: /nix/store\nPriority: high\n").is_err());
        assert!(CacheInfo::parse("StoreDir: /nix/store\r\nPriority: 3\r\n").is_err());
    }
}
