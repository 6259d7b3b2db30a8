//! How a VM is ended when it may take its time: the agent, the power button, SIGTERM, SIGKILL.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::agent::Answer;
use banger_contract::record::Accel;

/// How long the steps of a shutdown may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// The guest, once its agent was asked.
    pub agent: Duration,
    /// The guest, once its power button was pressed.
    pub button: Duration,
    /// The VMM, once it got SIGTERM.
    pub term: Duration,
}

impl Deadlines {
    /// Those that nobody has chosen otherwise: 10 s for the guest each time, in software 30 s.
    pub fn default_for(accel: Accel) -> Self {
        let guest = Duration::from_secs(if accel == Accel::Kvm { 10 } else { 30 });
        Self { agent: guest, button: guest, term: Duration::from_secs(2) }
    }

    /// How long a shutdown may take in all.
    pub fn longest(&self) -> Duration {
        let steps = self.agent.saturating_add(self.button).saturating_add(self.term);
        steps.saturating_add(Duration::from_secs(5))
    }
}

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
    deadlines: Deadlines,
    tried: Tried,
    until: Instant,
}

impl Shutdown {
    /// The agent was asked with `ticket`.
    pub fn begin(ticket: u64, deadlines: Deadlines) -> Self {
        let now = Instant::now();
        let until = now.checked_add(deadlines.agent).unwrap_or(now);
        Self { ticket: Some(ticket), deadlines, tried: Tried::Agent, until }
    }

    /// Kills at once.
    pub fn kill() -> Self {
        let now = Instant::now();
        let deadlines = Deadlines { agent: Duration::ZERO, button: Duration::ZERO, term: Duration::ZERO };
        Self { ticket: None, deadlines, tried: Tried::Term, until: now }
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
            Tried::Agent => (Tried::Button, Step::PressButton, self.deadlines.button),
            Tried::Button => (Tried::Term, Step::Terminate, self.deadlines.term),
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
        let seconds = Duration::from_secs;
        let deadlines = Deadlines { agent: seconds(5), button: seconds(10), term: seconds(3) };
        assert_eq!(deadlines.longest(), seconds(23));
        let mut shutdown = Shutdown::begin(7, deadlines);
        assert!(shutdown.wake() <= Instant::now() + seconds(5));
        let now = Instant::now();
        assert_eq!(shutdown.next(now), None);
        assert!(!shutdown.took_answer(8, &Answer::Late));
        assert!(shutdown.took_answer(7, &Answer::Late));
        let now = Instant::now();
        assert_eq!(shutdown.next(now), Some(Step::PressButton));
        assert_eq!(shutdown.next(now + seconds(9)), None);
        assert_eq!(shutdown.next(now + seconds(10)), Some(Step::Terminate));
        assert_eq!(shutdown.next(now + seconds(12)), None);
        assert_eq!(shutdown.next(now + seconds(13)), Some(Step::Kill));
        assert_eq!(Shutdown::kill().next(Instant::now()), Some(Step::Kill));
    }
}
