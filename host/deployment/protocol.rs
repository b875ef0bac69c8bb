//! The deployment protocol: what lanes, deployers and withdrawals read and write in the journal, in which order, and what follows from it.
//!
//! Pure: asks no clock, holds no lock and does no I/O. Procedures are generic over [`Objects`] and [`Reservations`], whose methods are the
//! single operations on the object store. [`crate::deployment::PipelineLog`] performs them; the tests run the same procedures against a
//! model, stop each one after every operation, and enumerate all interleavings. Keeps I9 and the verdicts of I10.

use std::collections::{BTreeSet, VecDeque};

use super::{Author, Entry, Outcome, Verdict};
use crate::event_time::AppendTime;
use crate::machine::{Planted, plants};

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod model;

/// How far T lies past every reservation in the first attempt; doubled after each attempt that came too late. Lanes load the plugin
/// meanwhile.
const MARGIN_MS: i64 = 250;

/// What the protocol needs to know of a deployment.
pub(crate) trait Terms {
    /// T; none is the beginning of the log.
    fn t(&self) -> Option<AppendTime>;
    /// Sets T.
    fn set_t(&mut self, t: Option<AppendTime>);
    /// How long it can be withdrawn, ms of append time from T on; 0 means not at all.
    fn probation_ms(&self) -> i64;
    /// Why it cannot read the state that `former` leaves, if it cannot.
    fn unreadable(&self, former: &Self) -> Option<String>;
}

/// The put-once objects of deployments, each method one operation on the store.
pub(crate) trait Objects {
    /// Why an operation failed.
    type Error;
    /// What a deployment is stored as.
    type Deployment: Terms;

    /// Reads deployment `n`.
    fn deployment(&self, n: u64) -> Result<Option<Self::Deployment>, Self::Error>;
    /// Puts deployment `n`; false if there is one already.
    fn put_deployment(&self, n: u64, deployment: &Self::Deployment) -> Result<bool, Self::Error>;
    /// Reads the outcome of deployment `n`.
    fn outcome(&self, n: u64) -> Result<Option<Outcome>, Self::Error>;
    /// Puts the outcome of deployment `n` unless there is one; returns the stored one.
    fn decide_outcome(&self, n: u64, outcome: Outcome) -> Result<Outcome, Self::Error>;
    /// Reads the verdict on deployment `n`.
    fn verdict(&self, n: u64) -> Result<Option<Verdict>, Self::Error>;
    /// Puts the verdict on deployment `n` unless there is one; returns the stored one.
    fn decide_verdict(&self, n: u64, verdict: Verdict) -> Result<Verdict, Self::Error>;
}

/// The reservations, each method one operation on the store.
pub(crate) trait Reservations: Objects {
    /// A host's reservation of a lane. No two hosts ever share one.
    type Holder: Clone + Eq;

    /// Lists all reservations, or those of the lane of `like`.
    fn holders(&self, like: Option<&Self::Holder>) -> Result<Vec<Self::Holder>, Self::Error>;
    /// Reads a reservation: the append time up to which its host may have folded, if any. None once it was released.
    fn reservation(&self, holder: &Self::Holder) -> Result<Option<Option<AppendTime>>, Self::Error>;
    /// Writes a reservation.
    fn reserve(&self, holder: &Self::Holder, until: Option<AppendTime>) -> Result<(), Self::Error>;
    /// Deletes a reservation that another one covers.
    fn release(&self, holder: &Self::Holder) -> Result<(), Self::Error>;
}

// ---- deployments

/// Reads deployment `n` with its outcome, and decides the outcome if nobody has yet.
pub(crate) fn entry<S: Reservations>(store: &S, n: u64) -> Result<Option<Entry<S::Deployment>>, S::Error> {
    let Some(deployment) = store.deployment(n)? else { return Ok(None) };
    let verdict = store.verdict(n)?;
    let outcome = match confirmation(store, n, deployment.t())? {
        Outcome::Confirmed if matches!(verdict, Some(Verdict::Withdrawn(_))) => Outcome::Withdrawn,
        outcome => outcome,
    };
    Ok(Some(Entry { n, deployment, outcome, verdict }))
}

/// Whether deployment `n` is confirmed or voided. Reservations are read after the deployment was put: a lane whose reservation is not seen
/// here has yet to read the deployments, and will find this one (I9).
fn confirmation<S: Reservations>(store: &S, n: u64, t: Option<AppendTime>) -> Result<Outcome, S::Error> {
    // One without a T holds however far lanes have folded: they start again.
    let Some(t) = t else { return Ok(Outcome::Confirmed) };
    if let Some(outcome) = store.outcome(n)? {
        return Ok(outcome);
    }
    let reserved = greatest(store, None)?.is_some_and(|(until, _)| until >= t);
    store.decide_outcome(n, if reserved { Outcome::Voided } else { Outcome::Confirmed })
}

/// The greatest reservation of all lanes, or of the lane of `like`, with its holder.
///
/// A host that takes a lane over writes its own reservation and then releases the former one. A listing from before the takeover, read
/// after it, would show neither. So reservations are read again until they did not change hands meanwhile.
fn greatest<S: Reservations>(store: &S, like: Option<&S::Holder>) -> Result<Option<(AppendTime, S::Holder)>, S::Error> {
    let mut holders = store.holders(like)?;
    loop {
        let mut greatest: Option<(AppendTime, S::Holder)> = None;
        for holder in &holders {
            if let Some(until) = store.reservation(holder)?.flatten()
                && greatest.as_ref().is_none_or(|(most, _)| until > *most)
            {
                greatest = Some((until, holder.clone()));
            }
        }
        let now = store.holders(like)?;
        if now == holders {
            return Ok(greatest);
        }
        holders = now;
    }
}

/// Reads all deployments in the order of their numbers. One without a T supersedes those before it.
pub(crate) fn all<S: Reservations>(store: &S) -> Result<Vec<Entry<S::Deployment>>, S::Error> {
    let mut all: Vec<Entry<S::Deployment>> = Vec::new();
    while let Some(entry) = entry(store, all.len() as u64)? {
        if entry.deployment.t().is_none() && entry.outcome == Outcome::Confirmed {
            let before = all.iter_mut().filter(|entry| entry.outcome == Outcome::Confirmed);
            before.for_each(|entry| entry.outcome = Outcome::Superseded);
        }
        all.push(entry);
    }
    Ok(all)
}

/// The last confirmed deployment: it holds from its T on, whether lanes have reached T or not.
pub(crate) fn in_force<D>(all: &[Entry<D>]) -> Option<&Entry<D>> {
    all.iter().rev().find(|entry| entry.outcome == Outcome::Confirmed)
}

/// The deployment that holds from the beginning of the log.
pub(crate) fn first<D>(all: &[Entry<D>]) -> Option<&Entry<D>> {
    all.iter().find(|entry| entry.outcome == Outcome::Confirmed)
}

// ---- creating a deployment

/// Which T a new deployment is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum When {
    /// This one.
    At(AppendTime),
    /// The earliest one that lies this far past every reservation, the former T, and the clock.
    AsSoonAsPossible {
        /// Past them by this much, ms.
        margin_ms: i64,
    },
}

impl When {
    /// `at`, or as soon as possible.
    pub(crate) fn new(at: Option<AppendTime>) -> When {
        at.map_or(When::AsSoonAsPossible { margin_ms: MARGIN_MS }, When::At)
    }

    /// What to try after an attempt that came too late.
    pub(crate) fn later(self) -> When {
        match self {
            When::At(_) => self,
            When::AsSoonAsPossible { margin_ms } => When::AsSoonAsPossible { margin_ms: margin_ms * 2 },
        }
    }

    /// T, if it may lie there.
    fn choose<H: Clone>(
        self,
        former: Option<AppendTime>,
        reserved: Option<&(AppendTime, H)>,
        now: AppendTime,
    ) -> Result<AppendTime, Refusal<H>> {
        match (self, reserved) {
            (When::At(at), Some((until, holder))) if *until >= at => Err(Refusal::Reserved(*until, holder.clone())),
            (When::At(at), _) => former.filter(|t| *t > at).map_or(Ok(at), |t| Err(Refusal::BeforeFormer(t))),
            (When::AsSoonAsPossible { margin_ms }, _) => {
                let least = former.max(reserved.map(|(until, _)| *until)).map_or(now, |least| least.max(now));
                Ok(after(least, margin_ms))
            }
        }
    }
}

/// Why a deployment cannot have the T that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal<H> {
    /// This holder may have folded up to this append time, which is at or past T.
    Reserved(AppendTime, H),
    /// The deployment before it has a later T, this one.
    BeforeFormer(AppendTime),
    /// It cannot read the state that this deployment leaves, which precedes it, for this reason.
    Unreadable(u64, String),
}

/// What came of one attempt to create a deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Attempt<H> {
    /// Deployment n is confirmed, from T on.
    Created(u64, AppendTime),
    /// Another deployer, a lane or a withdrawal came first; try again.
    TooLate,
    /// It cannot have this T.
    Refused(Refusal<H>),
}

/// Attempts once to create a deployment. The deployment in force before it is kept first: only the last one can be withdrawn.
pub(crate) fn attempt<S: Reservations>(
    store: &S,
    deployment: &mut S::Deployment,
    when: When,
    now: AppendTime,
) -> Result<Attempt<S::Holder>, S::Error> {
    let all = all(store)?;
    let before = in_force(&all);
    // Another client may have created that one after this one was checked.
    let unreadable = |entry: &Entry<S::Deployment>| Some((entry.n, deployment.unreadable(&entry.deployment)?));
    if let Some((n, why)) = before.and_then(unreadable)
        && !plants(Planted::StateUnchecked)
    {
        return Ok(Attempt::Refused(Refusal::Unreadable(n, why)));
    }
    let reserved = greatest(store, None)?;
    let t = match when.choose(before.and_then(|entry| entry.deployment.t()), reserved.as_ref(), now) {
        Ok(t) => t,
        Err(refusal) => return Ok(Attempt::Refused(refusal)),
    };
    if let Some(before) = before
        && !keep(store, before.n)?
    {
        return Ok(Attempt::TooLate); // withdrawn just now
    }
    deployment.set_t(Some(t));
    let n = all.len() as u64;
    if store.put_deployment(n, deployment)? && confirmation(store, n, Some(t))? == Outcome::Confirmed {
        return Ok(Attempt::Created(n, t));
    }
    Ok(Attempt::TooLate)
}

/// Attempts once to create a deployment that holds from the beginning of the log; its number, or none if another deployer came first.
pub(crate) fn attempt_reprocess<S: Reservations>(
    store: &S,
    deployment: &mut S::Deployment,
) -> Result<Option<u64>, S::Error> {
    deployment.set_t(None);
    let all = all(store)?;
    if let Some(before) = in_force(&all) {
        keep(store, before.n)?;
    }
    let n = all.len() as u64;
    Ok(store.put_deployment(n, deployment)?.then_some(n))
}

// ---- verdicts

/// Keeps deployment `n` for good; false if it was withdrawn before.
pub(crate) fn keep<S: Objects>(store: &S, n: u64) -> Result<bool, S::Error> {
    Ok(store.decide_verdict(n, Verdict::Kept)? == Verdict::Kept)
}

/// Withdraws deployment `n`; false if it was kept before.
pub(crate) fn withdraw<S: Objects>(store: &S, n: u64, by: &Author) -> Result<bool, S::Error> {
    Ok(store.decide_verdict(n, Verdict::Withdrawn(by.clone()))? != Verdict::Kept)
}

/// Why a deployment cannot be withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Permanent {
    /// It was voided.
    Voided,
    /// A later deployment holds from the beginning of the log.
    Superseded,
    /// It holds from the beginning of the log itself.
    First,
    /// It was created without a probation.
    WithoutProbation,
    /// Another one was created after it.
    NotLast,
}

/// Whether `entry` can be withdrawn, as long as nobody keeps it; `last` is the number of the deployment in force.
pub(crate) fn withdrawable<D: Terms>(entry: &Entry<D>, last: u64) -> Result<(), Permanent> {
    match entry.outcome {
        Outcome::Withdrawn => Ok(()),
        Outcome::Voided => Err(Permanent::Voided),
        Outcome::Superseded => Err(Permanent::Superseded),
        Outcome::Confirmed if entry.deployment.t().is_none() => Err(Permanent::First),
        Outcome::Confirmed if entry.deployment.probation_ms() == 0 => Err(Permanent::WithoutProbation),
        Outcome::Confirmed if entry.n != last => Err(Permanent::NotLast),
        Outcome::Confirmed => Ok(()),
    }
}

// ---- lanes

/// The append time at which a deployment's probation ends; none if it cannot be withdrawn, or no longer can.
pub(crate) fn probation_end<D: Terms>(entry: &Entry<D>) -> Option<AppendTime> {
    let ms = entry.deployment.probation_ms();
    entry.deployment.t().filter(|_| ms > 0 && entry.verdict.is_none()).map(|t| after(t, ms))
}

/// The append time this many ms later.
fn after(t: AppendTime, ms: i64) -> AppendTime {
    AppendTime::at(t.ms().saturating_add(ms))
}

/// A confirmed deployment that a lane has not reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ahead {
    n: u64,
    t: AppendTime,
    /// The append time at which its probation ends; none if it cannot be withdrawn.
    probation_end: Option<AppendTime>,
}

/// The deployment in force, while it can be withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Probation {
    n: u64,
    /// The append time at which it ends.
    end: AppendTime,
}

/// Why a lane must rewind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rewind {
    /// This deployment was withdrawn: back to the checkpoint before it.
    Withdrawn(u64),
    /// This deployment holds from the beginning of the log: back to there.
    Reprocess(u64),
}

/// What a lane knows of the deployments, and how far it may fold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct View {
    reserved: Option<AppendTime>,
    /// The first deployment not read yet.
    next: u64,
    ahead: VecDeque<Ahead>,
    probation: Option<Probation>,
    rewind: Option<Rewind>,
    /// Deployments whose rows an earlier life of the lane has written, past the checkpoint from which this one began.
    written: BTreeSet<u64>,
}

/// Deployments that a lane has just learned of.
type Learned<S> = Vec<Entry<<S as Objects>::Deployment>>;

impl View {
    /// The view of a lane in which deployment `in_force` holds. Takes the lane's reservation over from the hosts before. Earlier lives of the
    /// lane have written rows of the deployments `written`, which were not withdrawn when the lane was opened.
    pub(crate) fn open<S: Reservations>(
        store: &S,
        holder: &S::Holder,
        in_force: u64,
        written: BTreeSet<u64>,
    ) -> Result<(View, Learned<S>), S::Error> {
        let reserved = take_over(store, holder)?;
        let current = entry(store, in_force)?;
        let end = current.as_ref().and_then(probation_end);
        let probation = end.map(|end| Probation { n: in_force, end });
        // It may have been withdrawn since the lane's state was read: that is undone only by opening the lane again (I10). So may those whose
        // rows are in the sink.
        let is_withdrawn = current.is_some_and(|entry| entry.outcome == Outcome::Withdrawn);
        let is_withdrawn = is_withdrawn && !plants(Planted::VerdictReadTwice);
        let rewind = is_withdrawn.then_some(Rewind::Withdrawn(in_force));
        let mut view = View { reserved, next: in_force + 1, ahead: VecDeque::new(), probation, rewind, written };
        let learned = view.learn(store)?;
        for &n in &view.written {
            let fault = if n == in_force { Planted::VerdictReadTwice } else { Planted::RowsOutliveWithdrawal };
            if matches!(store.verdict(n)?, Some(Verdict::Withdrawn(_))) && !plants(fault) {
                view.rewind = view.rewind.or(Some(Rewind::Withdrawn(n)));
            }
        }
        Ok((view, learned))
    }

    /// The append time up to which the lane may fold before it reserves again.
    pub(crate) fn reserved(&self) -> Option<AppendTime> {
        self.reserved
    }

    /// Raises the reservation, then learns what was deployed: in this order, so that whoever deploys at or before `until` either sees the
    /// reservation or is seen here (I9).
    pub(crate) fn reserve<S: Reservations>(
        &mut self,
        store: &S,
        holder: &S::Holder,
        until: AppendTime,
    ) -> Result<Learned<S>, S::Error> {
        assert!(Some(until) > self.reserved, "a reservation is only ever raised (I9)");
        if plants(Planted::ReservationAfterRead) {
            let learned = self.learn(store)?;
            store.reserve(holder, Some(until))?;
            self.reserved = Some(until);
            return Ok(learned);
        }
        store.reserve(holder, Some(until))?;
        self.reserved = Some(until);
        self.learn(store)
    }

    /// Reads the deployments that are new, and returns the confirmed ones among them. Whoever created one has seen a verdict on the one
    /// before it, so verdicts are read before a new one is taken in: its T may lie before that of one that was withdrawn.
    pub(crate) fn learn<S: Reservations>(&mut self, store: &S) -> Result<Learned<S>, S::Error> {
        let mut learned = Vec::new();
        while let Some(entry) = entry(store, self.next)? {
            self.next += 1;
            if entry.outcome != Outcome::Confirmed {
                continue;
            }
            self.read_verdicts(store)?;
            match entry.deployment.t() {
                Some(t) => self.ahead.push_back(Ahead { n: entry.n, t, probation_end: probation_end(&entry) }),
                None => self.rewind = Some(Rewind::Reprocess(entry.n)),
            }
            learned.push(entry);
        }
        Ok(learned)
    }

    /// T of the next deployment, if it is at or before `append_time`.
    pub(crate) fn due(&self, append_time: AppendTime) -> Option<AppendTime> {
        self.ahead.front().map(|ahead| ahead.t).filter(|t| *t <= append_time)
    }

    /// Puts the next deployment in force; its number. One that is withdrawn from now on is noticed by the next [`View::read_verdicts`].
    pub(crate) fn enter(&mut self) -> u64 {
        let Ahead { n, probation_end, .. } = self.ahead.pop_front().expect("called only when one is due");
        self.probation = probation_end.map(|end| Probation { n, end });
        n
    }

    /// The deployment in force, if it can still be withdrawn.
    pub(crate) fn on_probation(&self) -> Option<u64> {
        self.probation.map(|probation| probation.n)
    }

    /// Why the lane must rewind, if it must.
    pub(crate) fn rewind(&self) -> Option<Rewind> {
        self.rewind
    }

    /// Ends the probation that a fold up to `append_time` would pass: keeps the deployment, unless it was withdrawn before (I10). Returns its
    /// number, if one ended.
    pub(crate) fn end_probation<S: Objects>(
        &mut self,
        store: &S,
        append_time: AppendTime,
    ) -> Result<Option<u64>, S::Error> {
        assert!(Some(append_time) <= self.reserved, "a lane reserves before it folds (I9)");
        let Some(Probation { n, .. }) = self.probation.filter(|probation| append_time >= probation.end) else {
            return Ok(None);
        };
        if !keep(store, n)? {
            self.rewind = Some(Rewind::Withdrawn(n));
        }
        self.probation = None;
        Ok(Some(n))
    }

    /// Reads whether the deployments that can be withdrawn were: the one in force, and those that the lane has not reached. One of these that
    /// was withdrawn is left out, as if it had never been (I10). If an earlier life had reached it, its rows are in the sink: they are taken
    /// back only by opening the lane again.
    pub(crate) fn read_verdicts<S: Objects>(&mut self, store: &S) -> Result<(), S::Error> {
        if let Some(Probation { n, .. }) = self.probation {
            match store.verdict(n)? {
                Some(Verdict::Withdrawn(_)) => self.rewind = Some(Rewind::Withdrawn(n)),
                Some(Verdict::Kept) => self.probation = None,
                None => {}
            }
        }
        let mut at = 0;
        while let Some(ahead) = self.ahead.get_mut(at) {
            let verdict = if ahead.probation_end.is_some() { store.verdict(ahead.n)? } else { None };
            match verdict {
                Some(Verdict::Withdrawn(_)) if plants(Planted::WithdrawnStaysAhead) => at += 1,
                Some(Verdict::Withdrawn(_)) => {
                    if self.written.contains(&ahead.n) && !plants(Planted::RowsOutliveWithdrawal) {
                        self.rewind = Some(Rewind::Withdrawn(ahead.n));
                    }
                    self.ahead.remove(at);
                }
                Some(Verdict::Kept) => {
                    ahead.probation_end = None;
                    at += 1;
                }
                None => at += 1,
            }
        }
        Ok(())
    }

    /// Withdraws the deployment in force; false if it cannot be withdrawn any more.
    pub(crate) fn withdraw<S: Objects>(&mut self, store: &S, by: &Author) -> Result<bool, S::Error> {
        let Some(Probation { n, .. }) = self.probation else { return Ok(false) };
        let withdrawn = withdraw(store, n, by)?;
        if withdrawn {
            self.rewind = Some(Rewind::Withdrawn(n));
        }
        self.probation = None;
        Ok(withdrawn)
    }
}

/// Makes a lane's reservation this holder's: as far as any host before it reserved. It is written before the former ones are released.
fn take_over<S: Reservations>(store: &S, holder: &S::Holder) -> Result<Option<AppendTime>, S::Error> {
    let before = store.holders(Some(holder))?;
    let mut until = None;
    for former in &before {
        until = until.max(store.reservation(former)?.flatten());
    }
    store.reserve(holder, until)?;
    before.iter().filter(|former| *former != holder).try_for_each(|former| store.release(former))?;
    Ok(until)
}
