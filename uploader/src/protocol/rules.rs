//! The rules of the protocol one by one. A program obeys [`Rules::ALL`]. The model takes single rules away, to show that
//! each of them is needed.

/// A rule of the protocol. The name says what holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Rule {
    /// A writer lists the collections only after its lease is in the bucket.
    LeaseBeforeLook,
    /// A writer acknowledges a stage only when each request that it sent before it knew of the stage is settled.
    SettleBeforeAcknowledging,
    /// Only a rescue that the server has confirmed counts.
    ConfirmRescue,
    /// A writer that knows of `closing` neither uses nor writes nor rescues a condemned path that it has not rescued.
    WaitAfterClosing,
    /// This holds for the references of a narinfo, too.
    GateReferences,
    /// A condemned NAR counts as absent.
    AvoidCondemnedNars,
    /// When a collection has ended, a writer forgets what it knew about the paths that it could lose.
    AskAnew,
    /// A writer looks at its own lease after it has signed a request, and does not send it when the lease has run out.
    CheckLease,
    /// A request is signed before that look, not after it, so that the server refuses it when it is late.
    SignBeforeCheck,
    /// A process removes its own lease only when its requests are settled.
    SettleBeforeLeaving,
    /// A push reports a path only when the record which keeps it is in the bucket.
    RecordBeforeReport,
    /// It holds for the paths of a record or pin, too.
    GateRecords,
    /// A collection closes only when all living writers know what it condemns.
    AwaitCondemned,
    /// A collection takes its last look only when all living writers know that it is closing.
    AwaitClosing,
    /// The leases that count are listed after the stage is in the bucket.
    ListAfterPublication,
    /// Each attempt to renew a lease writes a counter of its own, also after an attempt whose answer was lost.
    CountAttempts,
    /// The time for which a lease holds is counted from the sending of the renewal, not from the answer.
    CountFromSending,
    /// A lease that has run out does not begin again, even if a renewal succeeds later.
    EndForGood,
    /// A session that cannot read the collections ends, as one that cannot renew its lease.
    LookOrEnd,
    /// A lease that is not renewed is dead only when it has been seen unchanged for the whole time.
    TwoSights,
    /// This time includes the time in which a request that was sent may still be carried out.
    CountLateRequests,
    /// What is condemned includes all its referrers.
    CondemnReferrers,
    /// The last look reads the records and pins again.
    ReadRecordsAgain,
    /// The last look reads the rescues.
    ReadRescues,
    /// The last look reads the narinfos that are new, and keeps what they refer to.
    ReadNewNarinfos,
    /// The last look also reads the narinfos that have changed since the marking.
    ReadChangedNarinfos,
    /// What is kept keeps its references.
    KeepClosures,
    /// Referrers are deleted before what they refer to.
    DeleteByLevels,
    /// A level is absent for certain before the next one is deleted.
    ConfirmLevels,
    /// `done` is written only when no deletion can be carried out any more.
    Quarantine,
    /// Only one collector acts at a time.
    ClaimAlone,
    /// A collector lists the leases of others only after its own lease is in the bucket.
    LeaseBeforeClaim,
    /// If two collectors see each other, only one gives way.
    OneGivesWay,
    /// The successor of a collector waits until that collector is dead for certain.
    AwaitPredecessor,
    /// A successor goes on with the `final` that it finds.
    ContinueFinal,
}

impl Rule {
    /// All rules.
    pub const EACH: [Self; 35] = [
        Self::LeaseBeforeLook,
        Self::SettleBeforeAcknowledging,
        Self::ConfirmRescue,
        Self::WaitAfterClosing,
        Self::GateReferences,
        Self::AvoidCondemnedNars,
        Self::AskAnew,
        Self::CheckLease,
        Self::SignBeforeCheck,
        Self::SettleBeforeLeaving,
        Self::RecordBeforeReport,
        Self::GateRecords,
        Self::AwaitCondemned,
        Self::AwaitClosing,
        Self::ListAfterPublication,
        Self::CountAttempts,
        Self::CountFromSending,
        Self::EndForGood,
        Self::LookOrEnd,
        Self::TwoSights,
        Self::CountLateRequests,
        Self::CondemnReferrers,
        Self::ReadRecordsAgain,
        Self::ReadRescues,
        Self::ReadNewNarinfos,
        Self::ReadChangedNarinfos,
        Self::KeepClosures,
        Self::DeleteByLevels,
        Self::ConfirmLevels,
        Self::Quarantine,
        Self::ClaimAlone,
        Self::LeaseBeforeClaim,
        Self::OneGivesWay,
        Self::AwaitPredecessor,
        Self::ContinueFinal,
    ];
}

/// The rules that a state machine obeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rules(u64);

impl Rules {
    /// All rules. Nothing else is safe.
    pub const ALL: Self = Self(u64::MAX);

    /// All rules but one. For tests: a bucket that is used in this way loses paths.
    #[must_use]
    pub const fn without(self, rule: Rule) -> Self {
        Self(self.0 & !(1 << rule as u64))
    }

    /// Whether `rule` is obeyed.
    pub const fn has(self, rule: Rule) -> bool {
        self.0 & (1 << rule as u64) != 0
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::ALL
    }
}
