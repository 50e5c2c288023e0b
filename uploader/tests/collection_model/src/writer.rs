//! What writers do.

use larder::protocol::gate::{Gate, Mutation, Verdict};
use larder::protocol::rules::{Rule, Rules};

use crate::setting::{Plan, Setting, Work};
use crate::world::{Bits, Bucket, FRESH, Request, Sent, Session, Tiny, World, Writer};

/// A step of a writer, or of one of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriterAct {
    /// It puts its lease.
    Begin,
    /// It looks at the collections, and acknowledges as soon as it may.
    Look,
    /// It asks whether a path is usable.
    Ask(u8),
    /// It asks whether the old NAR of a path is there.
    AskNar(u8),
    /// It sends a narinfo, which names the old NAR or a fresh one.
    Write {
        /// The path.
        path: u8,
        /// Whether it names the old NAR.
        old: bool,
    },
    /// It sends a rescue of what it needs.
    Rescue,
    /// It sends the record of its push.
    Record,
    /// It tells its caller that the target can be taken.
    Report,
    /// Its request is carried out, and the answer comes.
    Carried,
    /// Its request is carried out, and the answer is lost.
    AnswerLost,
    /// Its request will never be carried out, and it knows so: refused, or older than `E`.
    Dropped,
    /// It waits no longer for the answer. The request may still be carried out.
    TimedOut,
    /// An earlier attempt is carried out.
    StrayCarried,
    /// An earlier attempt will never be carried out.
    StrayDropped,
    /// Its lease runs out, by a crash or by freezing.
    Expire,
    /// It removes its lease.
    Leave,
}

/// The steps that a writer could take.
pub fn offer(setting: &Setting, world: &World, index: usize, acts: &mut Vec<WriterAct>) {
    let (writer, plan, rules) = (&world.writers[index], setting.writers[index], setting.rules);
    match writer.session {
        Session::Out if !writer.lease => acts.push(WriterAct::Begin),
        Session::Out => {}
        Session::Beginning => acts.push(WriterAct::Look),
        Session::Active => acts.push(WriterAct::Look),
        Session::Over => {}
    }
    if writer.session == Session::Active || (writer.session == Session::Over && !rules.has(Rule::CheckLease))
    {
        offer_work(setting, world, writer, plan, acts);
    }
    if writer.session == Session::Active {
        if writer.settled() || !rules.has(Rule::SettleBeforeLeaving) {
            acts.push(WriterAct::Leave);
        }
        if setting.expiry {
            acts.push(WriterAct::Expire);
        }
    } else if writer.session == Session::Beginning && setting.expiry {
        acts.push(WriterAct::Expire);
    }
    if let Some(sent) = writer.sent {
        acts.extend([WriterAct::Carried, WriterAct::AnswerLost, WriterAct::Dropped]);
        let again = matches!(sent.request, Request::Narinfo { .. }) && writer.session == Session::Active;
        if setting.strays && again && writer.stray.is_none() {
            acts.push(WriterAct::TimedOut);
        }
    }
    if writer.stray.is_some() {
        acts.extend([WriterAct::StrayCarried, WriterAct::StrayDropped]);
    }
}

fn offer_work(setting: &Setting, world: &World, writer: &Writer, plan: Plan, acts: &mut Vec<WriterAct>) {
    let (bucket, target) = (&world.bucket, plan.target);
    let closure = setting.closure(Bits::one(target));
    if plan.replaces() {
        match writer.known.has(target) {
            false if bucket.visible.has(target) => acts.push(WriterAct::Ask(target)),
            true if writer.sent.is_none() => {
                let old = plan.work == Work::Sign && writer.known_nars.has(target);
                acts.push(WriterAct::Write { path: target, old });
            }
            _ => {}
        }
        return;
    }
    let next = closure.but(writer.known).list().next();
    if let Some(path) = next {
        if bucket.visible.has(path) {
            acts.push(WriterAct::Ask(path));
        } else {
            if setting.nars.common(bucket.nars).but(writer.known_nars).has(path) {
                acts.push(WriterAct::AskNar(path));
            }
            if writer.sent.is_none() {
                if writer.known_nars.has(path) {
                    acts.push(WriterAct::Write { path, old: true });
                }
                if plan.work == Work::Push {
                    acts.push(WriterAct::Write { path, old: false });
                }
            }
        }
    }
    if writer.sent.is_none() {
        let needs =
            |path: u8| matches!(writer.gate.classify(&path), Verdict::Condemned(all) if !all.is_empty());
        if plan.work == Work::Push && closure.list().any(needs) {
            acts.push(WriterAct::Rescue);
        }
        let told = bucket.promised.has(target);
        if plan.work == Work::Push && next.is_none() && !told {
            if writer.recorded || !setting.rules.has(Rule::RecordBeforeReport) {
                acts.push(WriterAct::Report);
            } else {
                acts.push(WriterAct::Record);
            }
        }
    }
}

/// Takes a step. Returns whether anything has changed.
pub fn take(setting: &Setting, world: &mut World, index: usize, act: WriterAct) -> bool {
    let plan = setting.writers[index];
    let (bucket, writer) = (&mut world.bucket, &mut world.writers[index]);
    let changed = match act {
        WriterAct::Begin => begin(bucket, writer, setting.rules),
        WriterAct::Look => look(bucket, writer, setting.rules),
        WriterAct::Ask(path) => {
            writer.known = writer.known.and(Bits::one(path));
            if plan.replaces() && bucket.named.has(path) {
                writer.known_nars = writer.known_nars.and(Bits::one(path));
            }
            true
        }
        WriterAct::AskNar(path) => {
            writer.known_nars = writer.known_nars.and(Bits::one(path));
            true
        }
        WriterAct::Write { path, old } => {
            let over = plan.replaces().then(|| writer.known_nars.has(path));
            send(setting, writer, Request::Narinfo { path, old, over }, plan)
        }
        WriterAct::Rescue => rescue(setting, writer, plan),
        WriterAct::Record => send(setting, writer, Request::Record, plan),
        WriterAct::Report => {
            bucket.promised = bucket.promised.and(Bits::one(plan.target));
            writer.recorded = false;
            true
        }
        WriterAct::Carried | WriterAct::AnswerLost => {
            let Some(sent) = writer.sent.take() else { return false };
            let accepted = carry(setting, bucket, sent.request, plan);
            if accepted && act == WriterAct::Carried && writer.session != Session::Over {
                learn(writer, sent.request, plan);
            }
            true
        }
        WriterAct::Dropped => writer.sent.take().is_some(),
        WriterAct::TimedOut => {
            writer.stray = writer.sent.take();
            true
        }
        WriterAct::StrayCarried => {
            let Some(stray) = writer.stray.take() else { return false };
            carry(setting, bucket, stray.request, plan);
            true
        }
        WriterAct::StrayDropped => writer.stray.take().is_some(),
        WriterAct::Expire => {
            writer.session = Session::Over;
            true
        }
        WriterAct::Leave => {
            writer.lease = false;
            writer.session = Session::Over;
            true
        }
    };
    settle(writer, setting.rules);
    changed
}

fn begin(bucket: &Bucket, writer: &mut Writer, rules: Rules) -> bool {
    writer.session = Session::Beginning;
    if rules.has(Rule::LeaseBeforeLook) {
        writer.lease = true;
    } else {
        writer.gate.observe(bucket.open());
    }
    true
}

fn look(bucket: &Bucket, writer: &mut Writer, rules: Rules) -> bool {
    if writer.session == Session::Beginning && !rules.has(Rule::LeaseBeforeLook) {
        writer.lease = true;
        writer.session = Session::Active;
        return true;
    }
    let before = (writer.session, writer.gate.clone());
    writer.session = Session::Active;
    let change = writer.gate.observe(bucket.open());
    for paths in change.forget {
        writer.known = writer.known.but(paths);
    }
    for nars in change.forget_nars {
        writer.known_nars = writer.known_nars.but(nars);
    }
    if change.advanced {
        for sent in [&mut writer.sent, &mut writer.stray].into_iter().flatten() {
            sent.outdated = true;
        }
    }
    before != (writer.session, writer.gate.clone())
}

/// Signs a request, looks at the lease and the gate, and sends the request.
fn send(setting: &Setting, writer: &mut Writer, request: Request, plan: Plan) -> bool {
    let holds = writer.session == Session::Active;
    let allowed = match request {
        Request::Narinfo { path, old, .. } => {
            let references: Vec<u8> = setting.references[usize::from(path)].list().collect();
            let nar = if old { path } else { path + FRESH };
            let mutation: Mutation<'_, Tiny> =
                Mutation::Narinfo { path: &path, references: &references, nar: &nar };
            writer.gate.may_send(&mutation, holds)
        }
        Request::Rescue { slot, .. } => writer.gate.may_send(&Mutation::Rescue { collection: &slot }, holds),
        Request::Record => writer.gate.may_send(&Mutation::Record { paths: &[plan.target] }, holds),
    };
    if allowed.is_ok() {
        writer.sent = Some(Sent { request, outdated: false });
    }
    allowed.is_ok()
}

fn rescue(setting: &Setting, writer: &mut Writer, plan: Plan) -> bool {
    let mut wanted: Option<(u8, Bits)> = None;
    for path in setting.closure(Bits::one(plan.target)).list() {
        if let Verdict::Condemned(collections) = writer.gate.classify(&path) {
            let Some(first) = collections.first() else { continue };
            let (slot, paths) = wanted.get_or_insert((*first, Bits(0)));
            if collections.contains(slot) {
                *paths = paths.and(Bits::one(path));
            }
        }
    }
    let Some((slot, paths)) = wanted else { return false };
    let sent = send(setting, writer, Request::Rescue { slot, paths }, plan);
    if sent && !setting.rules.has(Rule::ConfirmRescue) {
        writer.gate.rescued(&slot, paths.list());
    }
    sent
}

/// The server carries a request out. Returns whether its conditions held.
fn carry(setting: &Setting, bucket: &mut Bucket, request: Request, plan: Plan) -> bool {
    match request {
        Request::Narinfo { path, old, over } => {
            let there = bucket.visible.has(path);
            // `If-None-Match` for a new narinfo, `If-Match` for one that is replaced.
            let hindered = over.map_or(there, |named| !there || bucket.named.has(path) != named);
            if setting.conditional && hindered {
                return false;
            }
            let bit = Bits::one(path);
            bucket.visible = bucket.visible.and(bit);
            bucket.named = if old { bucket.named.and(bit) } else { bucket.named.but(bit) };
        }
        Request::Rescue { slot, paths } => {
            if let Some(slot) = &mut bucket.slots[usize::from(slot)] {
                slot.rescued = slot.rescued.and(paths);
            }
        }
        Request::Record => bucket.recorded = bucket.recorded.and(Bits::one(plan.target)),
    }
    true
}

fn learn(writer: &mut Writer, request: Request, plan: Plan) {
    match request {
        // A signer has done its work, and reads again.
        Request::Narinfo { .. } if plan.replaces() => {
            (writer.known, writer.known_nars) = (Bits(0), Bits(0));
        }
        Request::Narinfo { path, .. } => {
            writer.known = writer.known.and(Bits::one(path));
            writer.known_nars = writer.known_nars.but(Bits::one(path));
        }
        Request::Rescue { slot, paths } => writer.gate.rescued(&slot, paths.list()),
        Request::Record => writer.recorded = true,
    }
}

/// What follows from a step at once: the lease acknowledges what it may, and a session that is over knows nothing.
///
/// Acknowledging at once is no loss: an acknowledgement only lets the collector go on, so that every order of events with a
/// later one is among those with this one.
pub fn settle(writer: &mut Writer, rules: Rules) {
    match writer.session {
        Session::Active => {
            let outdated = |sent: &Option<Sent>| sent.is_some_and(|sent| sent.outdated);
            writer.gate.acknowledge(outdated(&writer.sent) || outdated(&writer.stray));
        }
        Session::Over => {
            if rules.has(Rule::CheckLease) {
                writer.gate = Gate::new(rules);
                (writer.known, writer.known_nars) = (Bits(0), Bits(0));
                (writer.recorded, writer.older) = (false, false);
            }
            for sent in [&mut writer.sent, &mut writer.stray].into_iter().flatten() {
                sent.outdated = false;
            }
            if !writer.lease && writer.settled() {
                *writer = Writer::new(rules);
            }
        }
        Session::Out | Session::Beginning => {}
    }
}

/// Whether an observer may count the writer as dead: see the module about time in this package.
pub fn is_dead(writer: &Writer, rules: Rules) -> bool {
    let over = writer.session == Session::Over;
    // A request that is signed only after the look at the lease may be sent at any time after that.
    let sent = writer.sent.is_none() || !rules.has(Rule::SignBeforeCheck);
    let settled = (sent && writer.stray.is_none()) || !rules.has(Rule::CountLateRequests);
    writer.lease && ((over && settled) || !rules.has(Rule::TwoSights))
}
