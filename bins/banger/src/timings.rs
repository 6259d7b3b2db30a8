//! The account of every millisecond, for people: `--timings`.

use std::io::{self, Write};

use banger_contract::Document;

use crate::context::Result;
use crate::table;

/// Prints every step, in order of its beginning, relative to the first, on stderr.
pub fn print(document: &Document) -> Result<()> {
    let mut timings = document.timings()?;
    timings.sort_by_key(|timing| timing.start_us);
    let zero = timings.first().map_or(0, |timing| timing.start_us);
    let milliseconds = |us: u64| format!("{}.{:03}", us / 1000, us % 1000);
    let rows = timings.iter().map(|timing| {
        let start = timing.start_us.saturating_sub(zero);
        vec![
            milliseconds(start),
            milliseconds(timing.duration_us),
            timing.tool.clone(),
            timing.verb.clone(),
            timing.step.clone(),
        ]
    });
    let text = table::table(&["START_MS", "TOOK_MS", "PROGRAM", "VERB", "STEP"], rows);
    // With nobody to read stderr there is nobody to tell about it.
    drop(io::stderr().write_all(text.as_bytes()));
    Ok(())
}
