//! `nix-cache-info`, the object that a client reads first.
//!
//! The source of the format is Nix's `BinaryCacheStore::init` and `HttpBinaryCacheStore::init`.

use nix_derivation::store_path::StoreDir;

/// The contents of `nix-cache-info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheInfo {
    /// The store directory of the paths in the cache. Clients with another store directory do not use the cache.
    pub store_dir: String,
    /// Whether clients may query many paths at the same time.
    pub want_mass_query: bool,
    /// Clients ask the substituter with the lowest priority first. cache.nixos.org has 40. An absent priority means 0.
    pub priority: Option<i64>,
}

impl CacheInfo {
    /// The contents for a bucket without `nix-cache-info`. Clients may query many paths.
    pub fn new(store_dir: &StoreDir, priority: i64) -> Self {
        Self { store_dir: store_dir.as_str().to_owned(), want_mass_query: true, priority: Some(priority) }
    }

    /// The contents of the object.
    pub fn to_text(&self) -> String {
        let mut text =
            format!("StoreDir: {}\nWantMassQuery: {}\n", self.store_dir, u8::from(self.want_mass_query));
        if let Some(priority) = self.priority {
            text.push_str(&format!("Priority: {priority}\n"));
        }
        text
    }

    /// Parses the object as a client does. The error says why a client would fail.
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
                        value.parse().map_err(|_| format!("`Priority: {value}` is not a whole number"))?;
                    info.priority = Some(priority);
                }
                _ => {}
            }
        }
        if text.contains('\r') {
            return Err("its lines end in CR LF, which Nix cannot read".into());
        }
        Ok(info)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsing_the_written_text_gives_the_same_value() {
        let info = CacheInfo::new(&StoreDir::default(), 30);
        assert_eq!(info.to_text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
        assert_eq!(CacheInfo::parse(&info.to_text()), Ok(info));
    }

    #[test]
    fn the_text_of_nix_copy_is_accepted_and_text_that_breaks_clients_is_refused() {
        assert_eq!(CacheInfo::parse("StoreDir: /gnu/store\n").unwrap().store_dir, "/gnu/store");
        assert!(CacheInfo::parse("StoreDir: /nix/store\nPriority: high\n").is_err());
        assert!(CacheInfo::parse("StoreDir: /nix/store\r\nPriority: 3\r\n").is_err());
    }
}
