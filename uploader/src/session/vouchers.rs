//! Which other writers are trusted: living writers whose leases have a signature of a trusted key.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use nix_narinfo::TrustedPublicKey;
use tokio::sync::Mutex;

use super::gate_keeper::limits;
use crate::base::error::Result;
use crate::bucket::{Bucket, Depth};
use crate::format::marker::Lease;
use crate::format::object_keys;
use crate::format::signature::verified;

/// The most leases that are read for one writer. The random part of a writer's id that a key of a NAR has is long enough
/// that two writers do not share it.
const MOST: usize = 4;

/// The longest time that the question about a writer takes: other questions wait for its answer.
const LONGEST: Duration = Duration::from_secs(60);

/// The writers that the session has asked the bucket about.
#[derive(Debug)]
pub(super) struct Vouchers {
    bucket: Arc<dyn Bucket>,
    keys: Vec<TrustedPublicKey>,
    /// Whether each writer is trusted. An answer holds for the whole session: what a trusted writer has written stays
    /// when its lease is gone.
    answers: Mutex<HashMap<String, bool>>,
}

impl Vouchers {
    /// The session with the id `own` trusts itself, and the writers with a signature of one of the `keys`.
    pub(super) fn new(bucket: Arc<dyn Bucket>, own: &str, keys: Vec<TrustedPublicKey>) -> Self {
        let answers = HashMap::from([(object_keys::writer(own).to_owned(), true)]);
        Self { bucket, keys, answers: Mutex::new(answers) }
    }

    /// Whether the writer whose id begins as `nonce` does is trusted. After an error, the answer is no, and the next
    /// question asks the bucket again.
    pub(super) async fn is_trusted(&self, nonce: &str) -> bool {
        let writer = object_keys::writer(nonce);
        // Other questions wait, so that the bucket is asked once about each writer.
        let mut answers = self.answers.lock().await;
        if let Some(answer) = answers.get(writer) {
            return *answer;
        }
        let Ok(Ok(answer)) = tokio::time::timeout(LONGEST, self.ask(writer)).await else { return false };
        answers.insert(writer.to_owned(), answer);
        answer
    }

    /// Looks for a living lease with a trusted signature.
    async fn ask(&self, writer: &str) -> Result<bool> {
        let Some(prefix) = object_keys::leases_of(writer) else { return Ok(false) };
        let page = self.bucket.list(&prefix, None, Depth::Flat).await?;
        let alive = page.objects.iter().filter(|object| object.age.is_some_and(|age| age < limits().lease));
        for object in alive.take(MOST) {
            let Some(id) = object_keys::lease_id(&object.key) else { continue };
            let Some(read) = self.bucket.get(&object.key).await? else { continue };
            let Ok(lease) = serde_json::from_slice::<Lease>(&read.body) else { continue };
            if verified(&Lease::fingerprint(id, lease.since), &lease.signatures, &self.keys) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bucket::memory::MemoryBucket;
    use crate::bucket::{Condition, ContentType};
    use crate::format::marker::Role;
    use crate::format::signature::SecretKey;
    use crate::session::lease;

    struct Writers {
        memory: MemoryBucket,
        bucket: Arc<dyn Bucket>,
        key: SecretKey,
    }

    impl Writers {
        fn new() -> Self {
            let memory = MemoryBucket::default();
            let bucket = Arc::new(memory.clone());
            Self { memory, bucket, key: SecretKey::generate("k-1").unwrap() }
        }

        /// A new writer, whose lease these keys sign. The lease stays in the bucket.
        async fn writer(&self, keys: &[SecretKey]) -> String {
            let id = object_keys::new_writer();
            let keeper = Arc::new(super::super::gate_keeper::GateKeeper::new("memory:".into()));
            let writer = (&*id, Role::Writer);
            lease::Lease::take(self.bucket.clone(), writer, keys, keeper, Arc::default()).await.unwrap();
            id
        }

        /// What a session that trusts the key says about a writer.
        fn vouchers(&self) -> Vouchers {
            Vouchers::new(self.bucket.clone(), &object_keys::new_writer(), vec![self.key.public()])
        }

        async fn trusts(&self, id: &str) -> bool {
            self.vouchers().is_trusted(id).await
        }

        /// Writes the bytes of a lease under the key of another lease.
        async fn copy(&self, from: &str, to: &str) {
            let body = self.bucket.get(&object_keys::lease(from)).await.unwrap().unwrap().body;
            let key = object_keys::lease(to);
            self.bucket.put(&key, body.into(), ContentType::Json, Condition::None).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_writer_is_trusted_for_a_signature_of_a_trusted_key_while_it_lives() {
        let writers = Writers::new();
        let other = SecretKey::generate("k-1").unwrap();
        let signed = writers.writer(&[other.clone(), writers.key.clone()]).await;
        assert!(writers.trusts(&signed).await);
        assert!(writers.trusts(object_keys::writer(&signed)).await);
        let nar = object_keys::new_nar(&[7; 32], object_keys::Compression::Zstd, &signed);
        assert!(writers.trusts(object_keys::nar_writer(&nar).unwrap()).await);
        let unsigned = writers.writer(&[]).await;
        let foreign = writers.writer(&[other]).await;
        for writer in [&*unsigned, &*foreign, &*object_keys::new_writer(), "", "larder", "../../../.."] {
            assert!(!writers.trusts(writer).await, "{writer}");
        }
        writers.memory.make_older(&object_keys::lease(&signed), limits().lease);
        assert!(!writers.trusts(&signed).await, "the writer is dead");
    }

    #[tokio::test]
    async fn a_signature_vouches_for_one_writer() {
        let writers = Writers::new();
        let signed = writers.writer(std::slice::from_ref(&writers.key)).await;
        let thief = object_keys::new_writer();
        writers.copy(&signed, &thief).await;
        assert!(!writers.trusts(&thief).await);
        // The key of the stolen lease begins as the key of the other lease does.
        let neighbour = format!("{}{}", object_keys::writer(&signed), &thief[8..]);
        writers.copy(&signed, &neighbour).await;
        writers.memory.make_older(&object_keys::lease(&signed), limits().lease);
        assert!(!writers.trusts(&neighbour).await);
    }

    #[tokio::test]
    async fn an_answer_is_kept_for_the_session_and_a_session_trusts_itself() {
        let writers = Writers::new();
        let signed = writers.writer(std::slice::from_ref(&writers.key)).await;
        let vouchers = writers.vouchers();
        assert!(vouchers.is_trusted(&signed).await);
        writers.bucket.delete(&object_keys::lease(&signed)).await.unwrap();
        assert!(vouchers.is_trusted(&signed).await);
        let own = object_keys::new_writer();
        assert!(Vouchers::new(writers.bucket.clone(), &own, Vec::new()).is_trusted(&own).await);
    }
}
