//! The model: its steps, and what must hold in every state.

use std::hash::{DefaultHasher, Hash, Hasher};

use larder::protocol::gate::Stage;
use stateright::{Model, Property};

use crate::collector::{self, CollectorAct};
use crate::setting::Setting;
use crate::world::{Bits, Bucket, Collector, Session, World, Writer};
use crate::writer::{self, WriterAct};

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A writer, or a request of it, goes on.
    Writer(u8, WriterAct),
    /// A collector, or a request of it, goes on.
    Collector(u8, CollectorAct),
    /// An observer counts the writer as dead, and removes its lease.
    BuryWriter(u8),
    /// The same for a collector.
    BuryCollector(u8),
    /// The record of a path expires.
    Forget(u8),
}

impl Setting {
    fn initial_world(&self, visible: Bits, recorded: Bits) -> World {
        let (named, recorded) = (visible.common(self.nars), recorded.common(visible));
        World {
            bucket: Bucket {
                visible,
                named,
                nars: self.nars,
                recorded,
                promised: recorded,
                slots: [const { None }; crate::world::SLOTS],
            },
            writers: [0, 1].map(|_| Writer::new(self.rules)),
            collectors: [0, 1].map(|_| Collector::new()),
        }
    }

    /// Of two states that differ by the names of writers with the same plan, one.
    fn normal(&self, world: &mut World) {
        if let [first, second] = self.writers[..] {
            let value = |writer: &Writer| {
                let mut hasher = DefaultHasher::new();
                writer.hash(&mut hasher);
                hasher.finish()
            };
            if first == second && world.writers[0] != world.writers[1] {
                let [one, two] = &mut world.writers;
                if value(one) > value(two) {
                    std::mem::swap(one, two);
                }
            }
        }
    }

    /// A record expires long after its push has reported.
    fn may_forget(&self, world: &World, path: u8) -> bool {
        let busy = self.writers.iter().zip(&world.writers).any(|(plan, writer)| {
            plan.target == path
                && (writer.recorded
                    || [writer.sent, writer.stray]
                        .into_iter()
                        .flatten()
                        .any(|sent| sent.request == crate::world::Request::Record))
        });
        self.forgetting && world.bucket.recorded.has(path) && !busy
    }
}

impl Model for Setting {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        self.initial.iter().map(|(visible, recorded)| self.initial_world(*visible, *recorded)).collect()
    }

    fn actions(&self, world: &World, acts: &mut Vec<Act>) {
        for index in 0..self.writers.len() {
            let mut own = Vec::with_capacity(8);
            writer::offer(self, world, index, &mut own);
            acts.extend(own.into_iter().map(|act| Act::Writer(index as u8, act)));
            if writer::is_dead(&world.writers[index], self.rules) {
                acts.push(Act::BuryWriter(index as u8));
            }
        }
        for index in 0..self.collectors {
            let mut own = Vec::with_capacity(8);
            collector::offer(self, world, index, &mut own);
            acts.extend(own.into_iter().map(|act| Act::Collector(index as u8, act)));
            if collector::is_dead(&world.collectors[index], self.rules) {
                acts.push(Act::BuryCollector(index as u8));
            }
        }
        acts.extend((0..self.paths).filter(|path| self.may_forget(world, *path)).map(Act::Forget));
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut world = last.clone();
        let changed = match act {
            Act::Writer(index, act) => writer::take(self, &mut world, usize::from(index), act),
            Act::Collector(index, act) => collector::take(self, &mut world, usize::from(index), act),
            Act::BuryWriter(index) => {
                let writer = &mut world.writers[usize::from(index)];
                writer.lease = false;
                writer::settle(writer, self.rules);
                true
            }
            Act::BuryCollector(index) => {
                let collector = &mut world.collectors[usize::from(index)];
                collector.lease = false;
                collector::settle(collector, self.rules);
                true
            }
            Act::Forget(path) => {
                let bit = Bits::one(path);
                world.bucket.recorded = world.bucket.recorded.but(bit);
                world.bucket.promised = world.bucket.promised.but(bit);
                true
            }
        };
        self.normal(&mut world);
        changed.then_some(world)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = safety();
        properties.extend(examples());
        properties
    }
}

/// What must hold in every state.
fn safety() -> Vec<Property<Setting>> {
    vec![
        Property::always("a narinfo has its references", |setting: &Setting, world: &World| {
            setting.is_closed(world.bucket.visible)
        }),
        Property::always("a narinfo has its NAR", |_, world: &World| {
            world.bucket.visible.common(world.bucket.named).within(world.bucket.nars)
        }),
        // But for what a person has removed, with its referrers.
        Property::always("what was promised is there", |setting: &Setting, world: &World| {
            let lost = world.bucket.promised.but(world.bucket.visible);
            let removed = |path: u8| {
                setting.removed.is_some_and(|removed| setting.closure(Bits::one(path)).has(removed))
            };
            lost.list().all(removed)
        }),
        Property::always("an older session learns in time", |_, world: &World| {
            let closing = |slot: &usize| {
                world.bucket.slots[*slot].as_ref().is_some_and(|open| open.stage >= Stage::Closing)
            };
            (0..world.bucket.slots.len()).filter(closing).all(|slot| {
                world.writers.iter().all(|writer| {
                    let knows = writer.gate.collections().any(|(other, _)| usize::from(*other) == slot);
                    knows || !writer.older || writer.session != Session::Active
                })
            })
        }),
    ]
}

/// What must happen somewhere: otherwise the model shows nothing.
fn examples() -> Vec<Property<Setting>> {
    vec![
        Property::sometimes(DELETED, |_, world: &World| {
            let open = world.bucket.slots.iter().flatten();
            open.into_iter().any(|open| {
                open.stage == Stage::Deleting && open.taken.paths.but(world.bucket.visible) != Bits(0)
            })
        }),
        Property::sometimes(PROMISED, |_, world: &World| {
            let open = world.bucket.slots.iter().flatten();
            let taken = open.into_iter().any(|open| open.stage == Stage::Deleting);
            taken && world.bucket.promised != Bits(0)
        }),
        Property::sometimes(LATE, |_, world: &World| {
            world.writers.iter().any(|writer| writer.session == Session::Over && !writer.settled())
        }),
    ]
}

/// A collection deletes.
pub const DELETED: &str = "a path is deleted";
/// A collection deletes while something is promised.
pub const PROMISED: &str = "something is promised while a collection deletes";
/// A request of a session that is over is still on its way.
pub const LATE: &str = "a session is over, and its request is late";
