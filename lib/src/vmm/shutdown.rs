//! How a VM is ended when it may take its time: the agent, the power button, SIGTERM, SIGKILL.

use std::time::{Duration, Instant};

use super::agent::Answer;
use crate::contract::record::Accel;

/// How long the VMM may take to end after SIGTERM.
const TERM_LIMIT: Duration = Duration::from_secs(2);

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Press the guest's power button.
    PressButton,
    /// Send the VMM SIGTERM.
    Terminate,
    /// Send the VMM SIGKILL.
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tried {
    Agent,
    Button,
    Term,
    Kill,
}

/// A shutdown in progress.
#[derive(Debug)]
pub struct Shutdown {
    ticket: Option<u64>,
    grace: Duration,
    tried: Tried,
    until: Instant,
}

impl Shutdown {
    /// How long a guest may take unless told otherwise: 10 s, in software 30 s.
    pub fn default_grace(accel: Accel) -> Duration {
        Duration::from_secs(if accel == Accel::Kvm { 10 } else { 30 })
    }

    /// How long a shutdown may take in all.
    pub fn longest(grace: Duration) -> Duration {
        grace.saturating_mul(2) + TERM_LIMIT + Duration::from_secs(5)
    }

    /// The agent was asked with `ticket`; it, and the power button after it, get `grace` each.
    pub fn begin(ticket: u64, grace: Duration) -> Self {
        let now = Instant::now();
        let until = now.checked_add(grace).unwrap_or(now);
        Self { ticket: Some(ticket), grace, tried: Tried::Agent, until }
    }

    /// Kills at once.
    pub fn kill() -> Self {
        let now = Instant::now();
        Self { ticket: None, grace: Duration::ZERO, tried: Tried::Term, until: now }
    }

    /// When [`Self::next`] has something to do.
    pub fn wake(&self) -> Instant {
        self.until
    }

    /// Whether `ticket` was this shutdown's. A guest that does not agree gets its power button pressed at once.
    pub fn took_answer(&mut self, ticket: u64, answer: &Answer) -> bool {
        let ours = self.ticket == Some(ticket);
        let agreed = matches!(answer, Answer::Reply { status: 200..=299, .. });
        if ours && !agreed && self.tried == Tried::Agent {
            self.until = Instant::now();
        }
        ours
    }

    /// What is to be done at `now`, if anything is.
    pub fn next(&mut self, now: Instant) -> Option<Step> {
        if self.until > now {
            return None;
        }
        let (tried, step, limit) = match self.tried {
            Tried::Agent => (Tried::Button, Step::PressButton, self.grace),
            Tried::Button => (Tried::Term, Step::Terminate, TERM_LIMIT),
            // Once more from time to time: a process in the kernel may take long to notice.
            Tried::Term | Tried::Kill => (Tried::Kill, Step::Kill, Duration::from_secs(5)),
        };
        self.tried = tried;
        self.until = now.checked_add(limit).unwrap_or(now);
        Some(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_come_in_order_and_only_when_due() {
        let grace = Duration::from_secs(10);
        let mut shutdown = Shutdown::begin(7, grace);
        let now = Instant::now();
        assert_eq!(shutdown.next(now), None);
        assert!(!shutdown.took_answer(8, &Answer::Late));
        assert!(shutdown.took_answer(7, &Answer::Late));
        let now = Instant::now();
        assert_eq!(shutdown.next(now), Some(Step::PressButton));
        assert_eq!(shutdown.next(now + grace / 2), None);
        assert_eq!(shutdown.next(now + grace), Some(Step::Terminate));
        assert_eq!(shutdown.next(now + grace + TERM_LIMIT), Some(Step::Kill));
        assert_eq!(Shutdown::kill().next(Instant::now()), Some(Step::Kill));
    }
}
