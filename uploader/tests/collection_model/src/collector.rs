//! What collectors do.

use larder::protocol::collection::{Acknowledged, Collection, Step};
use larder::protocol::gate::Stage;
use larder::protocol::leases::{Claim, Life, Role, claim};
use larder::protocol::limits::Limits;
use larder::protocol::look::{Kept, Taken, condemn, last_look, levels};
use larder::protocol::names::Set;
use larder::protocol::rules::{Rule, Rules};

use crate::setting::Setting;
use crate::world::{Bits, Bucket, Collector, Publication, Reading, Session, Slot, Task, Tiny, World};

/// A step of a collector, or of one of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CollectorAct {
    /// It puts its lease.
    Begin,
    /// It lists the leases of other collectors, and acts, or gives way.
    Claim,
    /// It takes over an open collection.
    TakeOver(u8),
    /// It marks, and means to condemn these paths.
    Mark(Bits),
    /// It marks a path that a person wants to be removed, and its referrers.
    MarkRemoval(u8),
    /// It puts its lease after it has decided to act: a mutation.
    PutLease,
    /// It sends the next object of its collection.
    Publish,
    /// The object is put, and the collector sees it.
    Published,
    /// The object will never be put, and the collector knows so.
    PublicationDropped,
    /// It takes the last look.
    LastLook,
    /// It gives the collection up.
    Abort,
    /// It sends the deletion of a path.
    Delete(u8),
    /// A deletion is carried out. Another attempt may follow.
    Deleted(u8),
    /// No attempt of this deletion will be carried out any more.
    DeletionDropped(u8),
    /// The same for old NARs.
    DeleteNar(u8),
    /// See [`CollectorAct::Deleted`].
    NarDeleted(u8),
    /// See [`CollectorAct::DeletionDropped`].
    NarDeletionDropped(u8),
    /// It sees that all is absent that it wants to be absent.
    Absent,
    /// Its lease runs out, by a crash or by freezing.
    Expire,
    /// It removes its lease.
    Leave,
}

const LIMITS: Limits = Limits::PRODUCTION;

/// What the collector's state machine wants next.
fn next(setting: &Setting, world: &World, collector: &Collector, task: &Task) -> Step<Tiny> {
    let holds = collector.session == Session::Active;
    let deletion = if collector.deletions_settled() { LIMITS.settled() } else { std::time::Duration::ZERO };
    let stage = task.collection.stage();
    let leases = world.writers.iter().filter(|writer| writer.lease).map(|writer| {
        let acknowledged = writer.gate.acknowledgements().find(|(slot, _)| **slot == task.slot);
        (Role::Writer, Life::Living, acknowledged.map(|(_, stage)| stage))
    });
    let acknowledged = stage.map(|stage| {
        let early = task.nobody && !setting.rules.has(Rule::ListAfterPublication);
        if early { Acknowledged::by(stage, []) } else { Acknowledged::by(stage, leases) }
    });
    task.collection.next(holds, acknowledged, Some(deletion), &LIMITS)
}

/// The steps that a collector could take.
pub fn offer(setting: &Setting, world: &World, index: usize, acts: &mut Vec<CollectorAct>) {
    let collector = &world.collectors[index];
    let late = !setting.rules.has(Rule::LeaseBeforeClaim);
    match collector.session {
        Session::Out if !collector.lease => acts.push(CollectorAct::Begin),
        Session::Out => {}
        Session::Beginning => acts.push(CollectorAct::Claim),
        Session::Active | Session::Over => match &collector.task {
            Some(task) => offer_task(setting, world, collector, task, acts),
            None if collector.session == Session::Active && !collector.lease && late => {
                acts.push(CollectorAct::PutLease);
            }
            None if collector.session == Session::Active => offer_tasks(setting, world, acts),
            None => {}
        },
    }
    if setting.expiry && matches!(collector.session, Session::Beginning | Session::Active) {
        acts.push(CollectorAct::Expire);
    }
    if collector.publication.is_some() {
        acts.extend([CollectorAct::Published, CollectorAct::PublicationDropped]);
    }
    for path in collector.deletes.list() {
        if world.bucket.visible.has(path) {
            acts.push(CollectorAct::Deleted(path));
        }
        acts.push(CollectorAct::DeletionDropped(path));
    }
    for nar in collector.nar_deletes.list() {
        if world.bucket.nars.has(nar) {
            acts.push(CollectorAct::NarDeleted(nar));
        }
        acts.push(CollectorAct::NarDeletionDropped(nar));
    }
}

/// What a collector may begin.
fn offer_tasks(setting: &Setting, world: &World, acts: &mut Vec<CollectorAct>) {
    acts.push(CollectorAct::Leave);
    let bucket = &world.bucket;
    if let Some(open) = bucket.slots.iter().position(Option::is_some) {
        acts.push(CollectorAct::TakeOver(open as u8));
        return;
    }
    if free_slot(setting, world).is_none() {
        return;
    }
    acts.extend(setting.removed.filter(|path| bucket.visible.has(*path)).map(CollectorAct::MarkRemoval));
    let garbage = bucket.visible.but(setting.closure(bucket.recorded.common(bucket.visible)));
    if setting.parts {
        let parts = (0..=garbage.0).map(Bits).filter(|part| part.within(garbage));
        acts.extend(parts.map(CollectorAct::Mark));
    } else {
        acts.push(CollectorAct::Mark(garbage));
    }
}

/// A collection's place that nobody remembers. A new collection has an id that was never used; here, ids are used again when
/// no process can tell the difference.
fn free_slot(setting: &Setting, world: &World) -> Option<u8> {
    let remembered = |slot: u8| {
        world.bucket.slots[usize::from(slot)].is_some()
            || world.writers.iter().any(|writer| {
                let sent = [writer.sent, writer.stray].into_iter().flatten();
                writer.gate.collections().any(|(other, _)| *other == slot)
                    || sent.into_iter().any(|sent| {
                        matches!(sent.request, crate::world::Request::Rescue { slot: other, .. } if other == slot)
                    })
            })
            || world.collectors.iter().any(|collector| {
                collector.task.as_ref().is_some_and(|task| task.slot == slot)
                    || collector.publication.as_ref().is_some_and(|(other, _)| *other == slot)
            })
    };
    setting.slots().find(|slot| !remembered(*slot))
}

fn offer_task(
    setting: &Setting,
    world: &World,
    collector: &Collector,
    task: &Task,
    acts: &mut Vec<CollectorAct>,
) {
    if collector.publication.is_some() {
        return;
    }
    match next(setting, world, collector, task) {
        Step::PublishCondemned | Step::PublishClosing | Step::PublishFinal | Step::PublishDone => {
            acts.push(CollectorAct::Publish);
        }
        Step::TakeLastLook => acts.push(CollectorAct::LastLook),
        Step::DeletePaths(level) => {
            let left = level.common(world.bucket.visible);
            acts.extend(left.but(collector.deletes).list().map(CollectorAct::Delete));
            let sent = !setting.rules.has(Rule::ConfirmLevels) && left.within(collector.deletes);
            if Set::is_empty(&left) || sent {
                acts.push(CollectorAct::Absent);
            }
        }
        Step::DeleteNars(nars) => {
            let left = nars.common(world.bucket.nars);
            acts.extend(left.but(collector.nar_deletes).list().map(CollectorAct::DeleteNar));
            if Set::is_empty(&left) {
                acts.push(CollectorAct::Absent);
            }
        }
        Step::SessionOver | Step::AwaitAcknowledgements(_) | Step::WaitOut(_) | Step::Nothing => {}
    }
    if setting.aborts {
        acts.push(CollectorAct::Abort);
    }
}

/// Takes a step. Returns whether anything has changed.
pub fn take(setting: &Setting, world: &mut World, index: usize, act: CollectorAct) -> bool {
    let rules = setting.rules;
    let changed = match act {
        CollectorAct::Begin => {
            let collector = &mut world.collectors[index];
            collector.session = Session::Beginning;
            collector.lease = rules.has(Rule::LeaseBeforeClaim);
            true
        }
        CollectorAct::Claim => claims(world, index, rules),
        CollectorAct::TakeOver(slot) => take_over(setting, world, index, slot),
        CollectorAct::Mark(wanted) => mark(setting, world, index, wanted, false),
        CollectorAct::MarkRemoval(path) => {
            let visible = world.bucket.visible;
            let above = visible.list().filter(|other| setting.closure(Bits::one(*other)).has(path));
            let wanted = above.fold(Bits(0), |all, other| all.and(Bits::one(other)));
            mark(setting, world, index, wanted, true)
        }
        CollectorAct::Publish => publish(setting, world, index),
        CollectorAct::Published => published(setting, world, index),
        CollectorAct::LastLook => look(setting, world, index),
        CollectorAct::Abort => {
            let Some(task) = &mut world.collectors[index].task else { return false };
            let before = task.collection.clone();
            task.collection.abort();
            task.collection != before
        }
        CollectorAct::Absent => {
            let Some(task) = &mut world.collectors[index].task else { return false };
            task.collection.absent();
            true
        }
        _ => simple(&mut world.bucket, &mut world.collectors[index], act),
    };
    settle(&mut world.collectors[index], rules);
    changed
}

/// The steps that touch one thing only.
fn simple(bucket: &mut Bucket, collector: &mut Collector, act: CollectorAct) -> bool {
    match act {
        CollectorAct::PublicationDropped => collector.publication = None,
        CollectorAct::Delete(path) => collector.deletes.insert(path),
        CollectorAct::Deleted(path) => {
            bucket.visible.remove(&path);
            bucket.named.remove(&path);
        }
        CollectorAct::DeletionDropped(path) => collector.deletes.remove(&path),
        CollectorAct::DeleteNar(nar) => collector.nar_deletes.insert(nar),
        CollectorAct::NarDeleted(nar) => bucket.nars.remove(&nar),
        CollectorAct::NarDeletionDropped(nar) => collector.nar_deletes.remove(&nar),
        CollectorAct::PutLease => collector.lease = true,
        CollectorAct::Expire => collector.session = Session::Over,
        CollectorAct::Leave => (collector.session, collector.lease) = (Session::Over, false),
        _ => return false,
    }
    true
}

fn claims(world: &mut World, index: usize, rules: Rules) -> bool {
    let life = if rules.has(Rule::AwaitPredecessor) { Life::Living } else { Life::Dead };
    let others: Vec<usize> = (0..world.collectors.len()).filter(|other| *other != index).collect();
    let others = others.iter().filter(|other| world.collectors[**other].lease).map(|other| (other, life));
    let decision = claim(&index, others, rules);
    let collector = &mut world.collectors[index];
    match decision {
        Claim::Act => collector.session = Session::Active,
        Claim::Wait => return false,
        Claim::GiveWay => *collector = Collector::new(),
    }
    true
}

fn references(setting: &Setting, path: u8) -> Vec<u8> {
    setting.references[usize::from(path)].list().collect()
}

fn take_over(setting: &Setting, world: &mut World, index: usize, slot: u8) -> bool {
    let Some(open) = &world.bucket.slots[usize::from(slot)] else { return false };
    let rules = setting.rules;
    let levels = levels::<Tiny>(&open.taken.paths, |path| references(setting, *path), rules);
    let collection = Collection::taken_over(open.stage, levels, open.taken.nars, rules);
    let again = open.stage == Stage::Deleting && !rules.has(Rule::ContinueFinal);
    let taken = if again { open.condemned.clone() } else { Taken::default() };
    let seen = if again { (world.bucket.visible, world.bucket.named) } else { (Bits(0), Bits(0)) };
    let removal = open.removal;
    world.collectors[index].task = Some(Task { slot, collection, taken, removal, seen, nobody: false });
    true
}

fn mark(setting: &Setting, world: &mut World, index: usize, wanted: Bits, removal: bool) -> bool {
    let bucket = &world.bucket;
    let paths = condemn::<Tiny>(
        wanted,
        |path| setting.referrers(*path, bucket.visible),
        |path| references(setting, *path),
        setting.rules,
    );
    let taken = Taken { paths, nars: if removal { Bits(0) } else { bucket.orphans() } };
    let Some(slot) = free_slot(setting, world) else { return false };
    if taken.is_empty() {
        return false;
    }
    let (collection, seen) = (Collection::new(setting.rules), (bucket.visible, bucket.named));
    world.collectors[index].task = Some(Task { slot, collection, taken, removal, seen, nobody: false });
    true
}

fn publish(setting: &Setting, world: &mut World, index: usize) -> bool {
    let collector = &world.collectors[index];
    let Some(task) = &collector.task else { return false };
    let publication = match next(setting, world, collector, task) {
        Step::PublishCondemned => Publication::Condemned(task.taken.clone(), task.removal),
        Step::PublishClosing => Publication::Closing,
        Step::PublishFinal => Publication::Final(task.taken.clone()),
        Step::PublishDone => Publication::Done,
        _ => return false,
    };
    let nobody =
        !setting.rules.has(Rule::ListAfterPublication) && !world.writers.iter().any(|writer| writer.lease);
    let collector = &mut world.collectors[index];
    if let Some(task) = &mut collector.task {
        task.nobody = nobody;
        collector.publication = Some((task.slot, publication));
    }
    true
}

fn published(setting: &Setting, world: &mut World, index: usize) -> bool {
    let Some((slot, publication)) = world.collectors[index].publication.take() else { return false };
    let place = &mut world.bucket.slots[usize::from(slot)];
    let done = publication == Publication::Done;
    match publication {
        Publication::Condemned(taken, removal) => {
            for writer in world.writers.iter_mut().filter(|_| setting.ages) {
                writer.older = writer.session == Session::Active;
            }
            let condemned = Taken::default();
            *place = Some(Slot { stage: Stage::Condemned, taken, removal, condemned, rescued: Bits(0) });
        }
        Publication::Closing => {
            if let Some(open) = place {
                open.stage = open.stage.max(Stage::Closing);
            }
        }
        Publication::Final(taken) => {
            if let Some(open) = place {
                if !setting.rules.has(Rule::ContinueFinal) && open.stage != Stage::Deleting {
                    open.condemned = open.taken.clone();
                }
                if open.removal {
                    // What was promised about these paths is taken back.
                    world.bucket.recorded = world.bucket.recorded.but(taken.paths);
                    world.bucket.promised = world.bucket.promised.but(taken.paths);
                }
                (open.stage, open.taken) = (Stage::Deleting, taken);
                // Nobody reads the rescues again, but for a mutation.
                if setting.rules.has(Rule::ContinueFinal) {
                    open.rescued = Bits(0);
                }
            }
        }
        Publication::Done => {
            *place = None;
            world.writers.iter_mut().for_each(|writer| writer.older = false);
        }
    }
    let collector = &mut world.collectors[index];
    if let Some(task) = &mut collector.task {
        task.collection.published();
        if done {
            collector.task = None;
        }
    }
    true
}

fn look(setting: &Setting, world: &mut World, index: usize) -> bool {
    let Some(task) = &mut world.collectors[index].task else { return false };
    let rescued = world.bucket.slots[usize::from(task.slot)].as_ref().map_or(Bits(0), |slot| slot.rescued);
    // Records and rescues do not keep what a person has removed.
    let recorded = if task.removal { Bits(0) } else { world.bucket.recorded };
    let rescued = if task.removal { Bits(0) } else { rescued };
    let kept = Kept { recorded, rescued };
    let reading = Reading { bucket: &world.bucket, references: &setting.references, seen: task.seen };
    let taken = last_look(&task.taken, &kept, &reading, setting.rules);
    let levels = levels::<Tiny>(&taken.paths, |path| references(setting, *path), setting.rules);
    task.collection.looked(levels, taken.clone());
    (task.taken, task.seen) = (taken, (Bits(0), Bits(0)));
    true
}

/// What follows from a step at once: a session that is over knows nothing, and one that has left nothing is gone.
pub fn settle(collector: &mut Collector, rules: Rules) {
    if collector.session == Session::Over {
        if rules.has(Rule::CheckLease) {
            collector.task = None;
        }
        if !collector.lease && collector.publication.is_none() && collector.deletions_settled() {
            *collector = Collector::new();
        }
    }
}

/// Whether an observer may count the collector as dead.
pub fn is_dead(collector: &Collector, rules: Rules) -> bool {
    let over = collector.session == Session::Over;
    let late = !rules.has(Rule::SignBeforeCheck) || !rules.has(Rule::CountLateRequests);
    let settled = late || (collector.publication.is_none() && collector.deletions_settled());
    collector.lease && ((over && settled) || !rules.has(Rule::TwoSights))
}
