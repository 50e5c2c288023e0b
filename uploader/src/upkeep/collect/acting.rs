//! One collection: executes what the state machine of the protocol says next.

use std::sync::Arc;
use std::time::Duration;

use larder_hook::fault::point;

use super::garbage::Garbage;
use super::last_look::{Condemned, Final, look};
use super::lists::{clear, publish, put};
use super::marking::Marking;
use super::saving::{json, save};
use super::worker::{Collector, News};
use crate::base::error::{Error, Result};
use crate::bucket::Bucket;
use crate::format::collection::{List, Part, Summary};
use crate::format::object_keys::{self, narinfo_of};
use crate::protocol::collection::{Acknowledged, Collection, Step};
use crate::protocol::gate::Stage;
use crate::protocol::leases::{Life, Role};
use crate::protocol::look::Taken;
use crate::protocol::names::Set;
use crate::protocol::rules::Rules;
use crate::session::{BucketNames, HashPart, Keys, Paths, acknowledged_by, list};
use crate::upkeep::inventory::Records;

/// The number of attempts of a deletion.
const ATTEMPTS: u32 = 5;
/// The number of attempts to see what writers know: ten minutes.
const MOST_UNSEEN: u32 = 20;

/// How a collection has ended.
#[derive(Debug)]
pub struct Ended {
    /// The id of the collection.
    pub id: String,
    /// The number of paths that are deleted.
    pub paths: usize,
    /// The number of NARs and other objects that are deleted.
    pub objects: usize,
    /// The number of condemned paths that stay, because somebody needs them after all.
    pub spared: usize,
    /// Why it was given up.
    pub error: Option<Error>,
}

/// What a new collection works with.
struct Task<'a> {
    marking: &'a Marking,
    condemned: Taken<BucketNames>,
    by: String,
    bytes: u64,
    records: &'a mut dyn Records,
    removal: bool,
    for_good: bool,
    last: Option<Final>,
}

/// A collection in the hands of its collector.
pub(super) struct Act<'a> {
    collector: &'a Collector<'a>,
    machine: Collection<BucketNames>,
    acknowledged: Option<Acknowledged>,
    /// `None` for a collection that was taken over.
    task: Option<Task<'a>>,
    ended: Ended,
    /// The number of objects that go.
    all: usize,
    /// How often in a row the leases could not be read.
    unseen: u32,
}

impl<'a> Act<'a> {
    /// A new collection.
    pub(super) fn new(
        collector: &'a Collector<'a>,
        marking: &'a Marking,
        garbage: &Garbage,
        by: &str,
        records: &'a mut dyn Records,
    ) -> Self {
        let nars: Keys = garbage.objects.iter().map(|key| Arc::from(&**key)).collect();
        let condemned = Taken { paths: garbage.digests(&marking.catalog), nars };
        let (by, bytes) = (by.to_owned(), garbage.bytes);
        let task =
            Task { marking, condemned, by, bytes, records, removal: false, for_good: false, last: None };
        let act = Self::taken_over(collector, &object_keys::new_writer(), Collection::new(Rules::ALL));
        Self { task: Some(task), ..act }
    }

    /// A collection of an earlier collector.
    pub(super) fn taken_over(
        collector: &'a Collector<'a>,
        id: &str,
        machine: Collection<BucketNames>,
    ) -> Self {
        let ended = Ended { id: id.to_owned(), paths: 0, objects: 0, spared: 0, error: None };
        Self { collector, machine, acknowledged: None, task: None, ended, all: 0, unseen: 0 }
    }

    /// The same, as a removal that a person has asked for.
    pub(super) fn removal(mut self, for_good: bool) -> Self {
        if let Some(task) = &mut self.task {
            (task.removal, task.for_good) = (true, for_good);
        }
        self
    }

    /// Works until the collection has ended.
    ///
    /// # Errors
    /// When the session is over, or the end cannot be written. Another collector ends the collection.
    pub(super) async fn run(mut self) -> Result<Ended> {
        loop {
            let session = self.collector.session;
            let deletion = session.last_deletion();
            let step = self.machine.next(session.holds(), self.acknowledged, deletion, session.limits());
            match step {
                Step::SessionOver => return Err(session.over()),
                Step::Nothing => break,
                Step::AwaitAcknowledgements(stage) => self.await_writers(stage).await?,
                Step::WaitOut(left) => self.wait_out(left).await?,
                Step::PublishDone => self.publish_done().await?,
                step => {
                    if let Err(error) = self.act(step).await {
                        if !session.holds() {
                            return Err(error);
                        }
                        self.ended.error.get_or_insert(error);
                        self.machine.abort();
                    }
                }
            }
        }
        self.clear().await?;
        Ok(self.ended)
    }

    /// A step after whose failure the collection is given up.
    async fn act(&mut self, step: Step<BucketNames>) -> Result<()> {
        let bucket = self.collector.session.fenced();
        let id = self.ended.id.clone();
        match step {
            Step::PublishCondemned => {
                let Some(task) = &self.task else { return Ok(()) };
                let (removal, condemned) =
                    (task.removal, in_list([&task.condemned.paths], &task.condemned.nars));
                publish(&*bucket, &Part::Condemned.key(&id), &condemned, removal).await?;
                point("collect: condemned");
                self.machine.published();
            }
            Step::PublishClosing => {
                put(&*bucket, &Part::Closing.key(&id), b"{}\n".to_vec()).await?;
                point("collect: closing");
                self.machine.published();
            }
            Step::TakeLastLook => self.look(&bucket).await?,
            Step::PublishFinal => {
                let last = self.task.as_ref().and_then(|task| task.last.as_ref());
                let Some(last) = last else { return Ok(()) };
                let removal = self.task.as_ref().is_some_and(|task| task.removal);
                let list = in_list(&last.levels, &last.taken.nars);
                publish(&*bucket, &Part::Final.key(&id), &list, removal).await?;
                point("collect: final");
                self.machine.published();
            }
            Step::DeletePaths(paths) => {
                let keys: Vec<_> = paths.iter().map(narinfo_of).collect();
                self.delete(&keys).await?;
                self.ended.paths += keys.len();
                self.machine.absent();
            }
            Step::DeleteNars(nars) => {
                let keys: Vec<_> = nars.iter().map(|key| key.to_string()).collect();
                self.delete(&keys).await?;
                self.ended.objects += keys.len();
                self.machine.absent();
            }
            _ => {}
        }
        Ok(())
    }

    /// Waits until more writers know of the stage, or are dead. If nobody can tell for long, the collection is given up: writers
    /// would wait for it.
    async fn await_writers(&mut self, stage: Stage) -> Result<()> {
        match self.see_writers(stage).await {
            Ok(()) => self.unseen = 0,
            Err(error) if !self.collector.session.holds() => return Err(error),
            Err(_) if self.unseen < MOST_UNSEEN => {
                self.unseen += 1;
                self.collector.pause().await?;
            }
            Err(error) => {
                self.ended.error.get_or_insert(error);
                self.machine.abort();
            }
        }
        Ok(())
    }

    async fn see_writers(&mut self, stage: Stage) -> Result<()> {
        let (session, id) = (self.collector.session, &self.ended.id);
        let leases = session.leases().await?;
        let acknowledged = acknowledged_by(&leases, id, stage);
        self.acknowledged = Some(acknowledged);
        session.bury(&leases).await?;
        if acknowledged.lowest >= Some(stage) {
            return Ok(());
        }
        let living = leases.iter().filter(|seen| seen.role == Role::Writer && seen.life == Life::Living);
        let late = living.filter(|seen| seen.acknowledged.get(id).copied() < Some(stage));
        (self.collector.news)(News::WaitsForWriters {
            is_closing: stage > Stage::Condemned,
            writers: late.count(),
        });
        self.collector.pause().await
    }

    async fn look(&mut self, bucket: &Arc<dyn Bucket>) -> Result<()> {
        (self.collector.news)(News::LooksAgain);
        let Some(task) = &mut self.task else { return Ok(()) };
        let Task { marking, condemned, removal, .. } = task;
        let of = Condemned { id: &self.ended.id, catalog: &marking.catalog, condemned, removal: *removal };
        let reader = self.collector.session.bucket();
        let last = look(&**reader, self.collector.inputs, of, task.records).await?;
        self.ended.spared = task.condemned.paths.len() - last.taken.paths.len();
        let summary =
            Summary { paths: last.taken.paths.len(), pieces: 0, bytes: task.bytes, by: task.by.clone() };
        if !last.taken.paths.is_empty() && !task.for_good {
            save(bucket, &self.ended.id, &last, summary).await?;
            point("collect: saved");
        }
        self.all = last.taken.paths.len() + last.taken.nars.len();
        self.machine.looked(last.levels.clone(), last.taken.clone());
        task.last = Some(last);
        Ok(())
    }

    /// Deletes objects, in any order. Tries again after an error: a deletion may be repeated.
    async fn delete(&mut self, keys: &[String]) -> Result<()> {
        let session = self.collector.session;
        let mut attempt = 1;
        loop {
            point("collect: before a deletion");
            let deleted = session.deleting().delete_many(keys).await;
            point("collect: after a deletion");
            match deleted {
                Ok(()) => break,
                Err(error) if attempt >= ATTEMPTS || !session.holds() => return Err(error),
                Err(_) => attempt += 1,
            }
            self.collector.pause().await?;
        }
        let done = self.ended.paths + self.ended.objects + keys.len();
        (self.collector.news)(News::Deleted { done, all: self.all.max(done) });
        Ok(())
    }

    async fn wait_out(&self, left: Duration) -> Result<()> {
        (self.collector.news)(News::WaitsOut(left));
        tokio::time::sleep(left.min(self.collector.session.limits().renewal / 10)).await;
        if self.collector.session.holds() { Ok(()) } else { Err(self.collector.session.over()) }
    }

    /// Writes the end of the collection, for as long as the session goes on.
    async fn publish_done(&mut self) -> Result<()> {
        let bucket = self.collector.session.fenced();
        let summary = Summary { paths: self.ended.paths, pieces: 0, bytes: 0, by: String::new() };
        match put(&*bucket, &Part::Done.key(&self.ended.id), json(&summary)).await {
            Ok(()) => {
                point("collect: done");
                self.machine.published();
                Ok(())
            }
            Err(error) if self.collector.pause().await.is_err() => Err(error),
            Err(_) => Ok(()),
        }
    }

    /// Removes the objects of the collection. After an error, the next collection does it.
    async fn clear(&self) -> Result<()> {
        if self.collector.session.any_open() {
            // A list whose writing was given up may still arrive: `done` stays until then.
            return Ok(());
        }
        let bucket = self.collector.session.fenced();
        let listed = list(&*bucket).await;
        if let Ok(listed) = listed
            && let Some(parts) = listed.collections.get(&self.ended.id)
        {
            let _ = clear(&*bucket, &self.ended.id, parts).await;
        }
        Ok(())
    }
}

fn in_list<'p>(levels: impl IntoIterator<Item = &'p Paths>, objects: &Keys) -> List {
    let level = |paths: &Paths| paths.items().collect::<Vec<HashPart>>();
    List {
        levels: levels.into_iter().map(level).collect(),
        objects: objects.iter().map(|key| key.to_string()).collect(),
    }
}
