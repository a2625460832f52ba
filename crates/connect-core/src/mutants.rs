//! Deliberate bugs: what tests the tests. Each must be caught by the simulation of `connect-testkit`, which alone turns
//! the feature `mutants` on; without it `mutant!(…)` is `false`.

/// Whether this bug is asked for.
macro_rules! mutant {
    ($mutant:ident) => {{
        #[cfg(feature = "mutants")]
        let asked = $crate::mutants::asked($crate::mutants::Mutant::$mutant);
        #[cfg(not(feature = "mutants"))]
        let asked = false;
        asked
    }};
}
pub(crate) use mutant;

/// A deliberate bug.
#[cfg(feature = "mutants")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The position moves before the write is done.
    CommitBeforeWrite,
    /// The position is one further than what is durable.
    CommitOneTooFar,
    /// A dead letter is counted and never sent.
    SkipDeadLetter,
    /// When dead letters can't be written, the partition goes on behind them.
    PassFailedLetter,
    /// A failed item is sent again without the later ones of its target.
    ResendOnlyFailed,
    /// The first of the items to be sent again is forgotten.
    ForgetFirstIndex,
    /// A write that timed out counts as done.
    TransientMeansWritten,
    /// Of several lanes that are held, the latest says how far the partition is.
    LatestHoldDecides,
    /// Items go to lanes by their offset, not by their target.
    WrongHash,
    /// A partition is handed over while a write is under way.
    HandOverAtOnce,
    /// A drain aborts what is in hand.
    DrainForgetsInFlight,
    /// Memory is not given back.
    BudgetLeak,
    /// What was filtered out is never counted.
    FilteredUncounted,
    /// After a rejection, an atomic sink is told to expect the old offset.
    OldExpectation,
    /// A store that went back is not followed.
    IgnoreRewind,
    /// With `CONNECT_DEAD_LETTERS=stop` the partition goes on behind the record.
    PassHeldRecord,
    /// With `CONNECT_KAFKA_STOP=end` the last record is left unread.
    FinishEarly,
}

#[cfg(feature = "mutants")]
impl Mutant {
    /// Every bug.
    pub const ALL: [Self; 17] = [
        Self::CommitBeforeWrite,
        Self::CommitOneTooFar,
        Self::SkipDeadLetter,
        Self::PassFailedLetter,
        Self::ResendOnlyFailed,
        Self::ForgetFirstIndex,
        Self::TransientMeansWritten,
        Self::LatestHoldDecides,
        Self::WrongHash,
        Self::HandOverAtOnce,
        Self::DrainForgetsInFlight,
        Self::BudgetLeak,
        Self::FilteredUncounted,
        Self::OldExpectation,
        Self::IgnoreRewind,
        Self::PassHeldRecord,
        Self::FinishEarly,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static ASKED: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Asks for a bug, on this thread alone; `None` for none.
#[cfg(feature = "mutants")]
pub fn ask(mutant: Option<Mutant>) {
    ASKED.set(mutant);
}

#[cfg(feature = "mutants")]
pub(crate) fn asked(mutant: Mutant) -> bool {
    ASKED.get() == Some(mutant)
}
