//! Fault injection for tests: decides, from a script or a seed, how a call to a store fails.
//!
//! The wrappers `log::faulty`, `history::faulty` and `cache::faulty` ask it before every call. It is part of the
//! library, so that unit tests, the fault campaign and the contract suites share it. Must not know what a store does.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call works.
    None,
    /// The store does nothing and the call fails.
    Fail,
    /// The store does the work, and the call fails because the answer is lost.
    LoseAnswer,
    /// The store does a first part of the work and the call fails.
    Tear,
    /// The call works after this delay.
    Delay(Duration),
}

/// How often a seeded plan injects each fault, in calls per thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Odds {
    /// [`Fault::Fail`].
    pub fail: u32,
    /// [`Fault::LoseAnswer`].
    pub lose_answer: u32,
    /// [`Fault::Tear`].
    pub tear: u32,
    /// [`Fault::Delay`], up to `delay_max`.
    pub delay: u32,
    /// The longest delay.
    pub delay_max: Duration,
}

/// A plan of faults. Clones share it: a test keeps one and passes the other to the wrapper.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug)]
struct Plan {
    script: VecDeque<Fault>,
    seeded: Option<(StdRng, Odds)>,
    outage: bool,
    injected: u64,
    calls: u64,
}

impl Faults {
    /// No faults until [`Faults::script`] or [`Faults::set_outage`] asks for some.
    pub fn none() -> Self {
        Self::new(None)
    }

    /// Random faults, the same for the same seed and sequence of calls.
    pub fn seeded(seed: u64, odds: Odds) -> Self {
        Self::new(Some((StdRng::seed_from_u64(seed), odds)))
    }

    fn new(seeded: Option<(StdRng, Odds)>) -> Self {
        Self(Arc::new(Mutex::new(Plan { script: VecDeque::new(), seeded, outage: false, injected: 0, calls: 0 })))
    }

    /// Sets what happens to the next writes, in order; random faults follow after them. Reads do not consume the
    /// script, because their number depends on timing.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.lock().script.extend(faults);
    }

    /// During an outage every call fails and the store does nothing.
    pub fn set_outage(&self, out: bool) {
        self.lock().outage = out;
    }

    /// Number of calls with an injected fault so far.
    pub fn injected(&self) -> u64 {
        self.lock().injected
    }

    /// Number of calls so far.
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// What happens to the next write.
    pub fn for_write(&self) -> Fault {
        let mut plan = self.lock();
        plan.calls += 1;
        if plan.outage {
            return plan.inject(Fault::Fail);
        }
        match plan.script.pop_front() {
            Some(fault) => plan.inject(fault),
            None => plan.by_chance(),
        }
    }

    /// What happens to the next small write, which is never torn. Such writes do not consume the script, because their
    /// number depends on timing.
    pub fn for_small_write(&self) -> Fault {
        let mut plan = self.lock();
        plan.calls += 1;
        if plan.outage {
            return plan.inject(Fault::Fail);
        }
        match plan.by_chance() {
            Fault::Tear => Fault::LoseAnswer,
            fault => fault,
        }
    }

    /// What happens to the next read: it is never torn and never loses its answer.
    pub fn for_read(&self) -> Fault {
        let mut plan = self.lock();
        plan.calls += 1;
        if plan.outage {
            return plan.inject(Fault::Fail);
        }
        match plan.by_chance() {
            Fault::LoseAnswer | Fault::Tear => Fault::Fail,
            fault => fault,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Plan {
    fn by_chance(&mut self) -> Fault {
        let Some((random, odds)) = &mut self.seeded else { return Fault::None };
        let mut drawn = random.random_range(0..1_000);
        for (chance, fault) in
            [(odds.fail, Fault::Fail), (odds.lose_answer, Fault::LoseAnswer), (odds.tear, Fault::Tear)]
        {
            if drawn < chance {
                return self.inject(fault);
            }
            drawn -= chance;
        }
        if drawn < odds.delay {
            let longest = odds.delay_max.as_micros() as u64;
            let delay = Duration::from_micros(random.random_range(0..=longest));
            return self.inject(Fault::Delay(delay));
        }
        Fault::None
    }

    fn inject(&mut self, fault: Fault) -> Fault {
        if fault != Fault::None {
            self.injected += 1;
        }
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_comes_before_the_script_and_the_script_before_chance() {
        let faults = Faults::none();
        faults.script([Fault::None, Fault::Tear]);
        assert_eq!(faults.for_read(), Fault::None);
        assert_eq!(
            [faults.for_write(), faults.for_write(), faults.for_write()],
            [Fault::None, Fault::Tear, Fault::None]
        );
        faults.set_outage(true);
        assert_eq!([faults.for_write(), faults.for_read()], [Fault::Fail; 2]);
        faults.set_outage(false);
        assert_eq!(faults.for_read(), Fault::None);
        assert_eq!(faults.injected(), 3);
    }

    #[test]
    fn one_seed_gives_one_sequence_with_about_the_requested_odds() {
        let odds = Odds { fail: 100, tear: 100, delay: 100, delay_max: Duration::from_millis(3), ..Odds::default() };
        let draw = |seed| {
            let faults = Faults::seeded(seed, odds);
            (0..1_000).map(|_| faults.for_write()).collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        assert_ne!(draw(5), draw(6));
        let failed = draw(5).iter().filter(|fault| **fault == Fault::Fail).count();
        assert!((60..140).contains(&failed), "{failed} of 1000 failed");
        assert!(draw(5).iter().all(|fault| *fault != Fault::LoseAnswer));
    }
}
