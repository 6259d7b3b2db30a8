//! What the boot costs, on CLOCK_BOOTTIME.

use nix::time::{ClockId, clock_gettime};

use banger_protocol::guest::GuestStep;

/// Microseconds since the guest's boot.
pub fn now_us() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map(|t| t.tv_sec().unsigned_abs() * 1_000_000 + t.tv_nsec().unsigned_abs() / 1000)
        .unwrap_or(0)
}

/// The steps so far.
#[derive(Debug, Default)]
pub struct Steps(Vec<GuestStep>);

impl Steps {
    /// Records a step from `start_us` until now.
    pub fn add(&mut self, step: &str, start_us: u64) {
        self.add_until(step, start_us, now_us());
    }

    /// Records a step that ended a while ago.
    pub fn add_until(&mut self, step: &str, start_us: u64, end_us: u64) {
        let duration_us = end_us.saturating_sub(start_us);
        self.0.push(GuestStep { step: step.to_owned(), start_us, duration_us });
    }

    /// All of them.
    pub fn into_list(self) -> Vec<GuestStep> {
        self.0
    }
}
