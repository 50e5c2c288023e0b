//! The conformance suite: checks that every implementation of a bucket passes.
//!
//! The suite writes below its own folder, `conformance-…/`, and removes the folder at the end.

mod copies;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::{self, StreamExt, TryStreamExt};

use super::interface::{
    Body, Bucket, Condition, ContentType, Cursor, Depth, ListPage, MAX_SMALL, ObjectMeta, Put,
};

/// The properties in which servers differ.
#[derive(Clone, Copy, Debug)]
pub struct Traits {
    /// Whether the server honours `If-None-Match: *` on a PUT.
    pub honours_if_absent: bool,
    /// Whether the server honours `If-Match` on a PUT.
    pub honours_if_match: bool,
    /// Whether answers have entity tags.
    pub etags: bool,
    /// Whether the start of a key up to a `/` is a missing object. A server that stores objects in a directory may fail.
    pub folders_are_missing: bool,
    /// Whether a flat listing is sorted if a folder and an object have names that begin alike.
    pub sorts_across_folders: bool,
    /// Whether the server copies only an origin with the wanted entity tag.
    pub honours_origin: bool,
    /// Whether the bucket keeps versions.
    pub keeps_versions: bool,
}

impl Default for Traits {
    /// A server with all properties, and a bucket that keeps no versions.
    fn default() -> Self {
        Self {
            honours_if_absent: true,
            honours_if_match: true,
            etags: true,
            folders_are_missing: true,
            sorts_across_folders: true,
            honours_origin: true,
            keeps_versions: false,
        }
    }
}

/// Runs all checks. Creates the bucket if it is missing. The error names the failed check and the reason.
pub async fn run(bucket: Arc<dyn Bucket>, traits: Traits) -> Result<(), String> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let suite = Suite { bucket, traits, folder: format!("conformance-{nanos}") };
    suite.check("bucket", suite.bucket_exists()).await?;
    suite.check("small objects", suite.small_objects()).await?;
    suite.check("odd keys", suite.odd_keys()).await?;
    suite.check("refused keys", suite.refused_keys()).await?;
    suite.check("conditions", suite.conditions()).await?;
    suite.check("multipart", suite.multipart()).await?;
    suite.check("abort", suite.abort()).await?;
    suite.check("copies", suite.copies()).await?;
    suite.check("versions", suite.versions()).await?;
    suite.check("paging", suite.paging()).await?;
    suite.check("one level", suite.one_level()).await?;
    suite.check("cleaning up", suite.clean_up()).await
}

struct Suite {
    bucket: Arc<dyn Bucket>,
    traits: Traits,
    folder: String,
}

type Outcome<T = ()> = Result<T, String>;

fn must(holds: bool, claim: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(claim()) }
}

impl Suite {
    async fn check(&self, name: &str, check: impl Future<Output = Outcome>) -> Outcome {
        check.await.map_err(|error| format!("{}: {name}: {error}", self.bucket.address()))
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.folder)
    }

    async fn put(&self, name: &str, body: impl Into<Body>, condition: Condition) -> Outcome<Put> {
        self.bucket.put(&self.key(name), body.into(), ContentType::Text, condition).await.map_err(shown)
    }

    async fn write(&self, name: &str, body: impl Into<Body>) -> Outcome {
        match self.put(name, body, Condition::None).await? {
            Put::Written => Ok(()),
            Put::Refused => Err(format!("an unconditional write of `{name}` was refused")),
        }
    }

    /// Checks that body, size and entity tag of an object agree.
    async fn holds(&self, name: &str, body: &[u8]) -> Outcome {
        let key = self.key(name);
        let got =
            self.bucket.get(&key).await.map_err(shown)?.ok_or_else(|| format!("`{name}` is missing"))?;
        must(got.body == body, || format!("`{name}` has {} other bytes", got.body.len()))?;
        let head =
            self.bucket.head(&key).await.map_err(shown)?.ok_or_else(|| format!("no head of `{name}`"))?;
        must(head.size == body.len() as u64, || format!("`{name}` has the size {}", head.size))?;
        must(head.key == key, || format!("`{name}` comes back as `{}`", head.key))?;
        must(head.etag == got.etag, || format!("`{name}` has two entity tags"))?;
        must(!self.traits.etags || got.etag.is_some(), || format!("`{name}` has no entity tag"))
    }

    async fn missing(&self, name: &str) -> Outcome {
        let key = self.key(name);
        must(self.bucket.get(&key).await.map_err(shown)?.is_none(), || format!("`{name}` can be read"))?;
        must(self.bucket.head(&key).await.map_err(shown)?.is_none(), || format!("`{name}` has a head"))
    }

    async fn all(&self, name: &str, after: Option<Cursor>, depth: Depth) -> Outcome<(ListPage, usize)> {
        let mut whole = ListPage::default();
        let (mut next, mut pages) = (after, 0);
        loop {
            let page = self.bucket.list(&self.key(name), next.as_ref(), depth).await.map_err(shown)?;
            whole.objects.extend(page.objects);
            whole.folders.extend(page.folders);
            pages += 1;
            must(pages < 1000, || "the listing has no end".into())?;
            match page.next {
                Some(cursor) => next = Some(cursor),
                None => return Ok((whole, pages)),
            }
        }
    }

    async fn names(&self, name: &str) -> Outcome<Vec<String>> {
        let (page, _) = self.all(name, None, Depth::Flat).await?;
        Ok(page.objects.into_iter().map(|object| object.key).collect())
    }

    async fn bucket_exists(&self) -> Outcome {
        if !self.bucket.exists().await.map_err(shown)? {
            self.bucket.create().await.map_err(shown)?;
        }
        must(self.bucket.exists().await.map_err(shown)?, || "it does not exist after its creation".into())?;
        self.bucket.create().await.map_err(|error| format!("creating it again fails: {error}"))?;
        must(!self.bucket.address().is_empty() && !self.bucket.public_url().ends_with('/'), || {
            "address or URL are malformed".into()
        })
    }

    async fn small_objects(&self) -> Outcome {
        let (page, _) = self.all("", None, Depth::Flat).await?;
        must(page == ListPage::default(), || "the listing of an empty folder is not empty".into())?;
        self.missing("a").await?;
        self.write("a", "one").await?;
        self.holds("a", b"one").await?;
        self.write("a", "number two").await?;
        self.holds("a", b"number two").await?;
        self.part("a", 0, 6, b"number").await?;
        self.part("a", 7, 100, b"two").await?;
        self.part("a", 10, 5, b"").await?;
        self.write("empty", "").await?;
        self.holds("empty", b"").await?;
        self.write("deep/er/x", "x").await?;
        self.holds("deep/er/x", b"x").await?;
        self.ages().await?;
        if self.traits.folders_are_missing {
            self.missing("deep/er").await?;
            self.missing("deep").await?;
        }
        self.missing("deep/other/x").await?;
        let big = vec![7; usize::try_from(MAX_SMALL).unwrap_or_default()];
        self.write("big", big.clone()).await?;
        self.holds("big", &big).await?;
        self.write("big", [big, vec![7]].concat()).await?;
        must(self.bucket.get(&self.key("big")).await.is_err(), || "a large object is read whole".into())?;
        for name in ["a", "empty", "deep/er/x", "big", "never-was", "a"] {
            self.bucket.delete(&self.key(name)).await.map_err(shown)?;
            self.missing(name).await?;
        }
        let left = self.names("").await?;
        must(left.is_empty(), || format!("left over: {left:?}"))
    }

    async fn part(&self, name: &str, from: u64, length: u64, expected: &[u8]) -> Outcome {
        let part = self.bucket.get_part(&self.key(name), from, length).await.map_err(shown)?;
        must(part.as_deref() == Some(expected), || {
            format!("{length} bytes of `{name}` from {from}: {part:?}")
        })
    }

    /// Checks that a listing tells the ages of objects that were written just now.
    async fn ages(&self) -> Outcome {
        let (listed, _) = self.all("", None, Depth::Flat).await?;
        for object in listed.objects {
            let is_young = object.age.is_some_and(|age| age < Duration::from_secs(3600));
            must(is_young, || format!("`{}` has the age {:?}", object.key, object.age))?;
        }
        Ok(())
    }

    async fn odd_keys(&self) -> Outcome {
        let mut names = [
            "odd/plus+plus",
            "odd/per%cent",
            "odd/%2F",
            "odd/sp ace",
            "odd/eq=ual",
            "odd/am&per",
            "odd/qu?es",
            "odd/ha#sh",
            "odd/ünïcödé",
            "odd/日本",
            "odd/😀",
            "odd/co:lon",
            "odd/til~de",
            "odd/quo'te\"s",
            "odd/<tag>",
            "odd/.hidden",
            "odd/comma,semi;",
            "odd/star*",
            "odd/at@",
            "odd/(paren)[brace]{curly}",
            "odd/dollar$",
            "odd/bang!",
        ];
        for name in names {
            self.write(name, name).await.map_err(|error| format!("`{name}`: {error}"))?;
        }
        for name in names {
            self.holds(name, name.as_bytes()).await.map_err(|error| format!("`{name}`: {error}"))?;
        }
        names.sort_unstable();
        let expected: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        let listed = self.names("odd/").await?;
        must(listed == expected, || format!("listed are {listed:?}"))?;
        for (at, name) in names.iter().enumerate() {
            let after = Some(Cursor::after(self.key(name)));
            let (page, _) = self.all("odd/", after, Depth::Flat).await?;
            let keys: Vec<&String> = page.objects.iter().map(|object| &object.key).collect();
            must(keys.iter().copied().eq(&expected[at + 1..]), || format!("after `{name}` come {keys:?}"))?;
            let (exact, _) = self.all(name, None, Depth::Flat).await?;
            must(exact.objects.len() == 1, || format!("`{name}` is not found by its own name"))?;
        }
        for name in names {
            self.bucket.delete(&self.key(name)).await.map_err(shown)?;
            self.missing(name).await?;
        }
        Ok(())
    }

    async fn refused_keys(&self) -> Outcome {
        for key in ["", "/a", "a/", "a//b", "..", "../a", "a/../../b", "a/./b", "a\nb", "a\0b"] {
            let put = self.bucket.put(key, Body::default(), ContentType::Text, Condition::None).await;
            must(put.is_err(), || format!("{key:?} can be written"))?;
            must(self.bucket.get(key).await.is_err(), || format!("{key:?} can be read"))?;
            must(self.bucket.head(key).await.is_err(), || format!("{key:?} has a head"))?;
            must(self.bucket.delete(key).await.is_err(), || format!("{key:?} can be deleted"))?;
        }
        Ok(())
    }

    async fn conditions(&self) -> Outcome {
        let ended = self.put("c", "one", Condition::IfAbsent).await?;
        must(ended == Put::Written, || "a first conditional write is refused".into())?;
        if self.traits.honours_if_absent {
            let ended = self.put("c", "two", Condition::IfAbsent).await?;
            must(ended == Put::Refused, || "`IfAbsent` writes over an object".into())?;
            self.holds("c", b"one").await?;
        }
        if self.traits.honours_if_match {
            let etag = async || {
                let head = self.bucket.head(&self.key("c")).await.map_err(shown)?;
                head.and_then(|head| head.etag).ok_or_else(|| "there is no entity tag".to_owned())
            };
            let first = etag().await?;
            let ended = self.put("c", "three", Condition::IfMatch(first.clone())).await?;
            must(ended == Put::Written, || "`IfMatch` is refused although it holds".into())?;
            must(etag().await? != first, || "a new object has the entity tag of the old one".into())?;
            let ended = self.put("c", "four", Condition::IfMatch(first.clone())).await?;
            must(ended == Put::Refused, || "`IfMatch` writes over another object".into())?;
            self.holds("c", b"three").await?;
            let ended = self.put("never-was", "five", Condition::IfMatch(first)).await?;
            must(ended == Put::Refused, || "`IfMatch` writes without an existing object".into())?;
            self.missing("never-was").await?;
        }
        self.bucket.delete(&self.key("c")).await.map_err(shown)
    }

    async fn multipart(&self) -> Outcome {
        let part = |byte: u8, size: usize| Body::from(vec![byte; size]);
        let (first, second, tail) = (part(1, 5 << 20), part(2, 5 << 20), part(3, 1234));
        self.write("m", "the previous object").await?;
        let upload = self.bucket.start_multipart(&self.key("m"), ContentType::Nar).await.map_err(shown)?;
        // Out of order, then concurrently.
        upload.part(3, tail.clone()).await.map_err(shown)?;
        futures::try_join!(upload.part(2, second), upload.part(1, first)).map_err(shown)?;
        self.holds("m", b"the previous object").await?;
        upload.complete().await.map_err(shown)?;
        let head = self.bucket.head(&self.key("m")).await.map_err(shown)?.ok_or("there is no object")?;
        must(head.size == (10 << 20) + 1234, || format!("the object has the size {}", head.size))?;

        let upload = self.bucket.start_multipart(&self.key("m"), ContentType::Nar).await.map_err(shown)?;
        upload.part(1, tail.clone()).await.map_err(shown)?;
        upload.complete().await.map_err(shown)?;
        self.holds("m", &tail.bytes).await?;

        let gap = self.bucket.start_multipart(&self.key("gap"), ContentType::Nar).await.map_err(shown)?;
        gap.part(2, tail.clone()).await.map_err(shown)?;
        must(gap.complete().await.is_err(), || "an upload with a gap is completed".into())?;
        self.missing("gap").await?;
        self.bucket.delete(&self.key("m")).await.map_err(shown)
    }

    async fn abort(&self) -> Outcome {
        let upload =
            self.bucket.start_multipart(&self.key("ab/ort"), ContentType::Nar).await.map_err(shown)?;
        upload.part(1, vec![1; 5 << 20].into()).await.map_err(shown)?;
        upload.part(3, "early".into()).await.map_err(shown)?;
        self.missing("ab/ort").await?;
        let visible = self.names("").await?;
        must(visible.is_empty(), || format!("parts are visible: {visible:?}"))?;
        upload.abort().await.map_err(shown)?;
        self.missing("ab/ort").await?;
        let visible = self.names("").await?;
        must(visible.is_empty(), || format!("parts are still visible: {visible:?}"))
    }

    async fn paging(&self) -> Outcome {
        let names: Vec<String> = (0..1105).map(|number| format!("page/{number:05}")).collect();
        stream::iter(&names)
            .map(|name| self.write(name, "x"))
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
        // `page-other` sorts before `page/` but is not in that folder.
        self.write("page-other", "x").await?;
        let expected: Vec<String> = names.iter().map(|name| self.key(name)).collect();
        let (page, pages) = self.all("page/", None, Depth::Flat).await?;
        let keys: Vec<String> = page.objects.iter().map(|object| object.key.clone()).collect();
        must(keys == expected, || format!("{} keys are listed", keys.len()))?;
        must(pages > 1, || "all keys are on one page".into())?;
        must(page.objects.iter().all(|object: &ObjectMeta| object.size == 1), || "sizes are wrong".into())?;

        let after = Some(Cursor::after(&expected[40]));
        let (rest, _) = self.all("page/", after, Depth::Flat).await?;
        must(rest.objects.iter().map(|object| &object.key).eq(&expected[41..]), || {
            "the listing after a key is wrong".into()
        })?;
        let after = Some(Cursor::after(format!("{}x", expected[40])));
        let (rest, _) = self.all("page/", after, Depth::Flat).await?;
        must(rest.objects.len() == expected.len() - 41, || {
            "the listing after a position between two keys is wrong".into()
        })?;
        let after = Some(Cursor::after(expected.last().cloned().unwrap_or_default()));
        let (rest, _) = self.all("page/", after, Depth::Flat).await?;
        must(rest.objects.is_empty(), || "the listing after the last key is not empty".into())?;
        let (some, _) = self.all("page/0010", None, Depth::Flat).await?;
        must(some.objects.len() == 10, || format!("a prefix within a name finds {}", some.objects.len()))?;
        let (both, _) = self.all("page", None, Depth::Flat).await?;
        must(both.objects.len() == expected.len() + 1, || {
            "the listing of a prefix without its slash is wrong".into()
        })?;
        self.must_be_sorted(&both.objects)
    }

    /// Checks the order, unless the server sorts folder by folder.
    fn must_be_sorted(&self, objects: &[ObjectMeta]) -> Outcome {
        let sorted = !self.traits.sorts_across_folders || objects.is_sorted_by(|a, b| a.key < b.key);
        must(sorted, || "the listing is not sorted".into())
    }

    async fn one_level(&self) -> Outcome {
        let mut names: Vec<String> =
            (0..300).map(|number| format!("level/sub{}/{number:04}", number % 3)).collect();
        names.extend(["level/a", "level/sub1.x", "level/z"].map(str::to_owned));
        stream::iter(&names)
            .map(|name| self.write(name, "x"))
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
        let (page, _) = self.all("level/", None, Depth::OneLevel).await?;
        let keys: Vec<&str> = page.objects.iter().map(|object| object.key.as_str()).collect();
        let expected = ["level/a", "level/sub1.x", "level/z"].map(|name| self.key(name));
        must(keys == expected, || format!("objects are {keys:?}"))?;
        let mut folders = page.folders;
        folders.dedup();
        let expected = ["level/sub0/", "level/sub1/", "level/sub2/"].map(|name| self.key(name));
        must(folders == expected, || format!("folders are {folders:?}"))?;
        let (page, _) = self.all("level", None, Depth::OneLevel).await?;
        must(page.objects.is_empty() && page.folders == [self.key("level/")], || {
            format!("at the name: {page:?}")
        })?;
        let (page, _) = self.all("level/", None, Depth::Flat).await?;
        must(page.objects.len() == names.len(), || format!("{} objects in all", page.objects.len()))?;
        self.must_be_sorted(&page.objects)?;
        let after = Some(Cursor::after(self.key("level/sub2/")));
        let (page, _) = self.all("level/", after, Depth::OneLevel).await?;
        let keys: Vec<&str> = page.objects.iter().map(|object| object.key.as_str()).collect();
        must(keys == [self.key("level/z")], || format!("after a folder come {keys:?}"))
    }

    async fn clean_up(&self) -> Outcome {
        let keys = self.names("").await?;
        // Among them are odd keys, and more than fit into a request. Absent objects are no error.
        self.bucket.delete_many(&keys).await.map_err(shown)?;
        self.bucket.delete_many(&keys[..keys.len().min(3)]).await.map_err(shown)?;
        let left = self.names("").await?;
        must(left.is_empty(), || format!("left over: {left:?}"))
    }
}

fn shown(error: crate::base::error::Error) -> String {
    match error.hint_text() {
        Some(hint) => format!("{error} (hint: {hint})"),
        None => error.to_string(),
    }
}
