//! Checks of copies and of versions.

use super::{Outcome, Suite, must, shown};
use crate::bucket::interface::{Body, Condition, ContentType, Copied, Origin};

impl Suite {
    pub(super) async fn copies(&self) -> Outcome {
        let names = ["co/plus+plus", "co/per%cent", "co/sp ace", "co/ünï?#&😀", "co/empty"];
        for name in names {
            let body = if name == "co/empty" { "" } else { name };
            self.write(name, body).await?;
            self.write("co/to", "the previous object").await?;
            for to in ["co/to", "co/am&per +%2B=?"] {
                let from = self.origin(name).await?;
                self.copied(&from, to, Copied::Done).await.map_err(|error| format!("`{name}`: {error}"))?;
                self.holds(to, body.as_bytes()).await?;
            }
            self.holds(name, body.as_bytes()).await?;
        }
        self.lost_origins().await?;
        self.large_copies().await?;
        let keys = self.names("co/").await?;
        self.bucket.delete_many(&keys).await.map_err(shown)
    }

    /// Checks copies of an object that has gone or changed since it was looked up.
    async fn lost_origins(&self) -> Outcome {
        self.write("co/a", "one").await?;
        let from = self.origin("co/a").await?;
        if self.traits.honours_origin {
            self.write("co/a", "two").await?;
            self.copied(&from, "co/lost", Copied::Gone).await?;
            self.missing("co/lost").await?;
        }
        self.bucket.delete(&self.key("co/a")).await.map_err(shown)?;
        self.copied(&from, "co/lost", Copied::Gone).await?;
        self.missing("co/lost").await
    }

    /// Checks an object that [`Options::copied_at_once`](crate::bucket::Options::copied_at_once) may let be copied in parts.
    async fn large_copies(&self) -> Outcome {
        let body: Vec<u8> = (0..(13 << 20)).map(|at: u32| (at >> 8) as u8 ^ at as u8).collect();
        let upload =
            self.bucket.start_multipart(&self.key("co/large"), ContentType::Nar).await.map_err(shown)?;
        for (number, part) in (1..).zip(body.chunks(6 << 20)) {
            upload.part(number, Body::from(part.to_vec())).await.map_err(shown)?;
        }
        upload.complete().await.map_err(shown)?;
        let from = self.origin("co/large").await?;
        self.copied(&from, "co/to", Copied::Done).await?;
        let (key, mut got) = (self.key("co/to"), Vec::new());
        while let Some(part) = self.bucket.get_part(&key, got.len() as u64, 4 << 20).await.map_err(shown)?
            && !part.is_empty()
        {
            got.extend(part);
        }
        must(got == body, || format!("a large copy has {} other bytes", got.len()))?;
        self.bucket.delete(&self.key("co/large")).await.map_err(shown)?;
        self.copied(&from, "co/lost", Copied::Gone).await?;
        self.missing("co/lost").await?;
        let left = self.bucket.unfinished("").await.unwrap_or_default();
        let left: Vec<_> = left.iter().filter(|upload| upload.key.starts_with(&self.key("co/"))).collect();
        must(left.is_empty(), || format!("parts are left: {left:?}"))
    }

    async fn origin(&self, name: &str) -> Outcome<Origin> {
        let found = self.bucket.head(&self.key(name)).await.map_err(shown)?;
        found
            .and_then(|found| self.bucket.origin(&found))
            .ok_or_else(|| format!("`{name}` is no origin of a copy"))
    }

    async fn copied(&self, from: &Origin, to: &str, expected: Copied) -> Outcome {
        let ended = self.bucket.copy(from, &self.key(to), ContentType::Nar).await.map_err(shown)?;
        must(ended == expected, || format!("a copy to `{to}` ended as {ended:?}, not {expected:?}"))
    }

    /// Checks that nothing of an object is left after its versions were removed.
    pub(super) async fn versions(&self) -> Outcome {
        for name in ["ve/a", "ve/plus+ü &"] {
            let (key, longer) = (self.key(name), format!("{name}.longer"));
            self.write(&longer, "stays").await?;
            self.write(name, "one").await?;
            self.put(name, "number two", Condition::None).await?;
            self.bucket.delete(&key).await.map_err(shown)?;
            let mut found = self.bucket.versions(&key).await.map_err(shown)?;
            let kept = found.iter().filter(|version| !version.is_marker);
            let mut sizes: Vec<u64> = kept.map(|version| version.size).collect();
            sizes.sort_unstable();
            let expected: &[u64] = if self.traits.keeps_versions { &[3, 10] } else { &[] };
            must(sizes == expected, || format!("the versions are {found:?}"))?;
            found.sort_by_key(|version| version.is_marker);
            for version in &found {
                self.bucket.delete_version(&key, &version.id).await.map_err(shown)?;
                self.missing(name).await?;
            }
            let left = self.bucket.versions(&key).await.map_err(shown)?;
            must(left.is_empty(), || format!("left over: {left:?}"))?;
            if let Some(version) = found.first() {
                self.bucket.delete_version(&key, &version.id).await.map_err(shown)?;
            }
            self.holds(&longer, b"stays").await?;
            self.bucket.delete(&self.key(&longer)).await.map_err(shown)?;
        }
        Ok(())
    }
}
