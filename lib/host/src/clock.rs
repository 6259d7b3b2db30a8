//! Time: CLOCK_BOOTTIME for durations, RFC 3339 for people, and the timeline of a stage.

use rustix::time::{ClockId, clock_gettime};

use banger_contract::record::Timing;

/// Seconds since 1970, as a file's time has them.
pub fn unix_seconds() -> u32 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}

/// Microseconds on CLOCK_BOOTTIME (clock_gettime(2)): monotonic, suspend included, the same for all processes.
pub fn boottime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1_000
}

/// Now, RFC 3339 in UTC with milliseconds.
pub fn now_rfc3339() -> String {
    let now = jiff::Timestamp::now();
    format!("{now:.3}")
}

/// What a verb's steps cost, in the order in which they ended.
#[derive(Debug)]
pub struct Timeline {
    tool: &'static str,
    verb: &'static str,
    timings: Vec<Timing>,
}

impl Timeline {
    /// An empty timeline of `tool verb`.
    pub fn new(tool: &'static str, verb: &'static str) -> Self {
        Self { tool, verb, timings: Vec::new() }
    }

    /// Runs `work` and notes what it cost as `step`, whether it succeeds or not.
    pub fn step<T>(&mut self, step: &str, work: impl FnOnce() -> T) -> T {
        let start_us = boottime_us();
        let result = work();
        self.note(step, start_us, boottime_us() - start_us);
        result
    }

    /// Notes a step that was measured elsewhere, on the host's CLOCK_BOOTTIME.
    pub fn note(&mut self, step: &str, start_us: u64, duration_us: u64) {
        let (tool, verb) = (self.tool.to_owned(), self.verb.to_owned());
        self.timings.push(Timing { tool, verb, step: step.to_owned(), start_us, duration_us });
    }

    /// Notes a step of another program's, such as the guest's.
    pub fn push(&mut self, timing: Timing) {
        self.timings.push(timing);
    }

    /// The timings.
    pub fn into_timings(self) -> Vec<Timing> {
        self.timings
    }
}
