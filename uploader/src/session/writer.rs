//! A writer's session with a bucket. It composes admission, lease, facts, reservations and sweep.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use larder_hook::fault::point;
use nix_derivation::StorePath;
use nix_narinfo::TrustedPublicKey;
use tokio::task::JoinHandle;

use super::admission::admit;
use super::facts::Facts;
use super::gate_keeper::{Change, GateKeeper, Passage};
use super::lease::Lease;
use super::names::HashPart;
use super::needs::{Needs, Record};
use super::reservation::Reservations;
use super::sweep;
use super::vouchers::Vouchers;
use crate::base::clock::Moment;
use crate::base::error::{Area, Error, Result};
use crate::base::lock::lock;
use crate::base::span::span_text;
use crate::bucket::{Bucket, Condition, ContentType, Put};
use crate::format::marker::Role;
use crate::format::named_paths::NamedPaths;
use crate::format::object_keys;
use crate::format::pin::{Pin, PinName};
use crate::format::signature::SecretKey;

/// The longest time that the end of a session waits for the sweep, and for the deletion of the lease.
const END: Duration = Duration::from_secs(5);
/// The number of looks within the time of a renewal, while the session waits for a collection.
const LOOKS: u32 = 10;

/// A running session: the id of the writer, its lease, and what it knows about the bucket. [`Session::close`] deletes
/// the lease.
#[derive(Debug)]
pub struct Session {
    bucket: Arc<dyn Bucket>,
    id: String,
    conditional_writes: bool,
    can_be_collected: bool,
    keeper: Arc<GateKeeper>,
    lease: Lease,
    facts: Arc<Facts>,
    needs: Needs,
    reservations: Reservations,
    vouchers: Vouchers,
    sweep: Mutex<Option<JoinHandle<()>>>,
}

impl Session {
    /// Begins a session: reads the format marker and the cache info, and takes a lease, which `keys` sign. A writer whose
    /// lease has a signature of one of the keys `trusted` is [trusted](Session::writer_is_trusted).
    ///
    /// # Errors
    /// When the bucket is not prepared, is for another store directory, or cannot be read or written.
    pub async fn open(
        bucket: Arc<dyn Bucket>,
        store_dir: &str,
        keys: &[SecretKey],
        trusted: &[TrustedPublicKey],
    ) -> Result<Self> {
        let format = admit(&*bucket, store_dir).await?;
        let (conditional_writes, can_be_collected) = (format.conditional_writes, format.can_be_collected());
        let id = object_keys::new_writer();
        let (keeper, facts) = (Arc::new(GateKeeper::new(bucket.address())), Arc::new(Facts::default()));
        let lease =
            Lease::take(bucket.clone(), (&id, Role::Writer), keys, keeper.clone(), facts.clone()).await?;
        point("session: begun");
        let reservations = Reservations::new(bucket.clone(), &id, conditional_writes);
        let vouchers = Vouchers::new(bucket.clone(), &id, trusted.to_vec());
        let sweep = Mutex::default();
        Ok(Self {
            bucket,
            id,
            conditional_writes,
            can_be_collected,
            keeper,
            lease,
            facts,
            needs: Needs::default(),
            reservations,
            vouchers,
            sweep,
        })
    }

    /// The bucket.
    pub fn bucket(&self) -> &Arc<dyn Bucket> {
        &self.bucket
    }

    /// The id of this writer, unique among all writers.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What the session knows about the bucket.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The reservations of large NARs.
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    /// Whether the writer whose id begins with the first eight characters of `nonce` is this writer, or a living writer
    /// whose lease has a signature of a trusted key. The nonce is that in the key of a NAR. After an error of the bucket,
    /// the answer is no.
    pub async fn writer_is_trusted(&self, nonce: &str) -> bool {
        self.vouchers.is_trusted(nonce).await
    }

    /// Whether the server is known to refuse a conditional write whose condition does not hold.
    pub fn has_conditional_writes(&self) -> bool {
        self.conditional_writes
    }

    /// Checks that the session goes on.
    ///
    /// # Errors
    /// When the lease has ended.
    pub fn check(&self) -> Result<()> {
        if self.keeper.holds() { Ok(()) } else { Err(self.keeper.over()) }
    }

    /// Checks that the bucket accepts a write, by writing the lease again.
    ///
    /// # Errors
    /// When the session is over, or the bucket refuses the write.
    pub async fn probe(&self) -> Result<()> {
        self.check()?;
        self.lease.write().await
    }

    /// Writes the narinfo of a path: a new one, or one that is signed or pointed anew. `since` is the moment since when the
    /// caller knows what it relies on: that the references and the NAR are there, and which narinfo it replaces.
    ///
    /// # Errors
    /// When the session is over, when a collection is removing the path or what it relies on, or may have removed it since
    /// then, and when the bucket fails. The attempt may be made again.
    pub async fn put_narinfo(&self, bytes: Vec<u8>, condition: Condition, since: Moment) -> Result<Put> {
        let unfit =
            || Error::permanent(Area::Bucket, "cannot write a narinfo").because("it names no path or NAR");
        let NamedPaths { path, references, url } = NamedPaths::read(&bytes).ok_or_else(unfit)?;
        let key = object_keys::narinfo_of(&path);
        let change = Change::Narinfo { path, references, nar: url.into(), since };
        self.fenced(change).put(&key, bytes.into(), ContentType::NarInfo, condition).await
    }

    /// Writes an object that keeps paths: a pin, or the record of what a push asked for. `since` is the moment since when the
    /// caller knows that the paths are there.
    ///
    /// # Errors
    /// As for [`Session::put_narinfo`].
    pub async fn put_record(
        &self,
        key: &str,
        body: Vec<u8>,
        paths: Vec<HashPart>,
        since: Moment,
    ) -> Result<Put> {
        let change = Change::Record { paths, since };
        self.fenced(change).put(key, body.into(), ContentType::Json, Condition::IfAbsent).await
    }

    /// Writes a realisation of a path. `since` is the moment since when the caller knows that the path is there, and what stands
    /// under the key. Unlike the key of a NAR, this key is used again: so nothing is written while a collection is removing
    /// what stood there.
    ///
    /// # Errors
    /// As for [`Session::put_narinfo`].
    pub async fn put_realisation(
        &self,
        key: &str,
        body: Vec<u8>,
        path: &HashPart,
        condition: Condition,
        since: Moment,
    ) -> Result<Put> {
        let change = Change::Naming { path: *path, key: key.into(), since };
        self.fenced(change).put(key, body.into(), ContentType::Json, condition).await
    }

    /// Writes the build log of a derivation. `path` is an output of it, which the caller knows to be there since the moment
    /// `since`, or the derivation of a build that failed. As with realisations, nothing is written while a collection is removing
    /// what stood there, or the path.
    ///
    /// # Errors
    /// As for [`Session::put_narinfo`].
    pub async fn put_log(
        &self,
        derivation: &StorePath,
        text: Vec<u8>,
        path: &StorePath,
        condition: Condition,
        since: Moment,
    ) -> Result<Put> {
        let key = object_keys::log(derivation);
        let change = Change::Naming { path: *path.digest(), key: (*key).into(), since };
        self.fenced(change).put(&key, text.into(), ContentType::Text, condition).await
    }

    /// Writes a generation of a pin. Returns its id. `since` is the moment since when the caller knows that the paths are there.
    ///
    /// # Errors
    /// When the session is over, when a collection is removing a path of the pin, or the bucket refuses the write.
    pub async fn pin(&self, name: &PinName, pin: &Pin, since: Moment) -> Result<String> {
        let id = object_keys::new_writer();
        let paths: Vec<_> = pin.store_paths().map(|path| *path.digest()).collect();
        self.clear(paths.iter()).await?;
        self.put_record(&name.key(&id), pin.to_json(), paths, since).await?;
        point("session: pinned");
        Ok(id)
    }

    /// Records that pushes need these roots. `found` are those that stand in the bucket, and `written` those that this session
    /// has written there. `since` is the moment since when the caller knows both. A push calls this before it reports the
    /// roots.
    ///
    /// # Errors
    /// As for [`Session::put_narinfo`].
    pub async fn record_needs(
        &self,
        found: &[Arc<StorePath>],
        written: &[Arc<StorePath>],
        since: Moment,
    ) -> Result<()> {
        self.needs.note(written.iter().map(|path| path.digest()), since);
        for Record { key, body, paths } in self.needs.due(&self.id, found.iter().map(|path| &**path)) {
            let at = Moment::now();
            self.put_record(&key, body, paths.clone(), since).await?;
            self.needs.note(&paths, at);
            point("session: recorded");
        }
        Ok(())
    }

    /// The bucket for one change.
    fn fenced(&self, change: Change) -> Arc<dyn Bucket> {
        self.bucket.clone().fenced(Arc::new(Passage { keeper: self.keeper.clone(), change }))
    }

    /// Keeps those of these paths that a collection condemns, and waits for those that a collection is removing. A writer calls
    /// this before it asks whether they are there.
    ///
    /// # Errors
    /// When the session is over, the bucket fails, or a collection does not end in time.
    pub async fn clear(&self, paths: impl Iterator<Item = &HashPart> + Clone) -> Result<()> {
        let rescuer = self.lease.rescuer();
        let limits = *self.keeper.limits();
        let begun = Moment::now();
        loop {
            self.check()?;
            let (wanted, waits) = rescuer.needed(paths.clone());
            match rescuer.rescue(wanted).await {
                Ok(()) if !waits => return Ok(()),
                Ok(()) => {}
                // A collection has begun to close meanwhile: it is to be waited for, too.
                Err(_) if rescuer.needed(paths.clone()).1 => {}
                Err(error) => return Err(error),
            }
            let longest = limits.longest_wait(limits.dead());
            if begun.elapsed() > longest {
                return Err(Error::transient(Area::Bucket, "cannot use paths that a collection is removing")
                    .because(format!("the collection has not ended within {}", span_text(longest)))
                    .hint("`larder collect --yes` ends a collection whose collector has died"));
            }
            tokio::time::sleep(limits.renewal / LOOKS).await;
            self.lease.turn().await?;
        }
    }

    /// Looks at the collections now.
    #[cfg(test)]
    pub(super) async fn look_again(&self) -> Result<()> {
        self.lease.turn().await
    }

    /// Whether a collection is removing any of these paths, so that [`Session::clear`] waits.
    pub fn must_wait<'a>(&self, paths: impl IntoIterator<Item = &'a HashPart>) -> bool {
        self.lease.rescuer().needed(paths).1
    }

    /// Whether a collection that could take the path has ended since then: answers to questions from before say nothing.
    pub fn forgot(&self, path: &HashPart, since: Moment) -> bool {
        self.keeper.forgot(path, since)
    }

    /// Whether a narinfo may name the NAR with this key. Otherwise it counts as absent: a collection is removing it.
    pub fn nar_counts(&self, key: &str) -> bool {
        self.keeper.nar_counts(key)
    }

    /// Whether a collection that could take the NAR with this key has ended since then.
    pub fn forgot_nar(&self, key: &str, since: Moment) -> bool {
        self.keeper.forgot_nar(key, since)
    }

    /// Checks that a path with these references may be published.
    ///
    /// # Errors
    /// When a person has removed one of them for good.
    pub fn check_permitted<'a>(
        &self,
        path: &'a HashPart,
        references: impl IntoIterator<Item = &'a HashPart>,
    ) -> Result<()> {
        self.keeper.check_permitted(path, references)
    }

    /// The paths that a person has removed for good, so that nobody publishes them again.
    pub fn removed(&self) -> BTreeSet<HashPart> {
        self.keeper.removed().iter().copied().collect()
    }

    /// Begins to remove what dead writers have left in the bucket. `former` is the id of a session that is known to be
    /// dead. Only [`Session::close`] waits for the end, for 5 seconds at most.
    pub fn begin_sweep(&self, former: Option<String>) {
        *lock(&self.sweep) =
            Some(sweep::begin(self.bucket.clone(), self.id.clone(), former, self.can_be_collected));
    }

    /// Ends the session.
    pub async fn close(self) {
        let sweep = lock(&self.sweep).take();
        if let Some(sweep) = sweep {
            let _ = tokio::time::timeout(END, sweep).await;
        }
        point("session: before its end");
        // A lease that cannot be deleted runs out by itself.
        let _ = tokio::time::timeout(END, self.lease.give_back()).await;
    }
}
