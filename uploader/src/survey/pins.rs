//! The pins of a bucket.

use futures::{StreamExt, TryStreamExt, stream};

use crate::base::error::{Area, Error, Result};
use crate::bucket::{Bucket, Depth, ObjectMeta};
use crate::format::pin::{Generation, PINS, Pin, parse_key};

/// The number of pins that are read at the same time.
const CONCURRENT: usize = 32;

/// Reads all generations of all pins whose keys begin with `prefix`, which begins with [`PINS`].
///
/// # Errors
/// When the bucket fails, or a pin cannot be understood. A pin is never ignored: what it names must stay.
pub async fn read_pins(bucket: &dyn Bucket, prefix: &str) -> Result<Vec<Generation>> {
    let (mut objects, mut next) = (Vec::new(), None);
    loop {
        let page = bucket.list(prefix, next.as_ref(), Depth::Flat).await?;
        objects.extend(page.objects);
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    let reads = objects.into_iter().map(|object| read(bucket, object));
    let read: Vec<Option<Generation>> =
        stream::iter(reads).buffer_unordered(CONCURRENT).try_collect().await?;
    Ok(read.into_iter().flatten().collect())
}

/// Reads a generation; `None` if it was removed meanwhile.
async fn read(bucket: &dyn Bucket, object: ObjectMeta) -> Result<Option<Generation>> {
    let unreadable = |reason: String| {
        Error::permanent(Area::Bucket, format!("cannot understand the pin `{}`", object.key))
            .because(reason)
            .hint(format!("look at it, and correct or delete it; keys below `{PINS}` are pins"))
    };
    let (name, id) =
        parse_key(&object.key).ok_or_else(|| unreadable("its key is not that of a pin".into()))?;
    let id = id.to_owned();
    let Some(found) = bucket.get(&object.key).await? else { return Ok(None) };
    let pin = Pin::parse(&found.body).map_err(unreadable)?;
    Ok(Some(Generation { name, id, age: object.age, pin }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::memory::MemoryBucket;
    use crate::bucket::{Condition, ContentType};
    use crate::format::object_keys;
    use crate::format::pin::PinName;

    #[tokio::test]
    async fn pins_are_read_and_none_is_ignored() {
        let bucket = MemoryBucket::default();
        let put = async |key: &str, body: Vec<u8>| {
            bucket.put(key, body.into(), ContentType::Json, Condition::None).await.unwrap();
        };
        let pin = Pin {
            paths: vec!["0c5b8vw40dy178xlpddw65q9gf1h2186-a".into()],
            keep_last: None,
            seconds: None,
            by: String::new(),
        };
        let name = PinName::parse("system/laptop").unwrap();
        for _ in 0..3 {
            put(&name.key(&object_keys::new_writer()), pin.to_json()).await;
        }
        assert_eq!(read_pins(&bucket, PINS).await.unwrap().len(), 3);
        assert_eq!(read_pins(&bucket, "larder/pins/other/").await.unwrap().len(), 0);
        for (key, body) in
            [("larder/pins/x", pin.to_json()), (&*name.key(&object_keys::new_writer()), b"x".to_vec())]
        {
            put(key, body).await;
            let error = read_pins(&bucket, PINS).await.unwrap_err();
            assert!(error.to_string().contains(key), "{error}");
            bucket.delete(key).await.unwrap();
        }
    }
}
