//! The guest's account of its boot, on the host's clock.

use banger_contract::record::Timing;
use banger_protocol::guest::GuestStep;

/// How many steps are believed.
const MAX_STEPS: usize = 32;

/// `steps` as timings of `banger-guest boot`. The guest's clock read `guest_now_us` when the host's read `now_us`; whatever the
/// guest says lies between `from_us`, when the VMM was started, and then. Steps with odd names are left out.
pub fn converted(steps: &[GuestStep], guest_now_us: u64, from_us: u64, now_us: u64) -> Vec<Timing> {
    let named = |step: &&GuestStep| {
        let plain = step.step.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        plain && (1..=32).contains(&step.step.len())
    };
    let on_host =
        |guest_us: u64| now_us.saturating_sub(guest_now_us.saturating_sub(guest_us)).clamp(from_us, now_us);
    let timing = |step: &GuestStep| {
        let start_us = on_host(step.start_us);
        let end_us = on_host(step.start_us.saturating_add(step.duration_us));
        Timing {
            tool: "banger-guest".into(),
            verb: "boot".into(),
            step: step.step.clone(),
            start_us,
            duration_us: end_us - start_us,
        }
    };
    steps.iter().take(MAX_STEPS).filter(named).map(timing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: &str, start_us: u64, duration_us: u64) -> GuestStep {
        GuestStep { step: step.into(), start_us, duration_us }
    }

    #[test]
    fn steps_are_converted_and_lies_are_bounded() {
        let steps = [
            step("kernel", 0, 400),
            step("ready", 900, u64::MAX),
            step("\x1b[2J", 0, 1),
            step("late", u64::MAX, 5),
        ];
        let timings = converted(&steps, 1_000, 10_000, 11_200);
        let shown: Vec<_> = timings.iter().map(|t| (t.step.as_str(), t.start_us, t.duration_us)).collect();
        assert_eq!(shown, [("kernel", 10_200, 400), ("ready", 11_100, 100), ("late", 11_200, 0)]);
        let lied = converted(&[step("kernel", 0, 5)], u64::MAX, 10_000, 11_200);
        assert_eq!((lied[0].start_us, lied[0].duration_us), (10_000, 0));
    }
}
