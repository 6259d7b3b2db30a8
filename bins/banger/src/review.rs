//! A patch in one line for people: how much it changes, and what of it to look at before it is applied.

use std::io::{self, IsTerminal};
use std::path::Path;

use banger_contract::Document;
use banger_contract::record::{Flagged, Outcome};

use crate::context::{Context, Result};

/// How many flagged files the line names.
const MAX_NAMED: usize = 4;

/// Says on a terminal what the patch at `patch` is, and anywhere what of it to look at.
pub fn tell(context: &Context, patch: &Path, document: &Document) -> Result<()> {
    let outcome = document.outcome()?.unwrap_or_default();
    let flagged = outcome.flagged.as_ref().is_some_and(|flagged| !flagged.is_empty());
    if flagged || io::stderr().is_terminal() {
        let name = if patch == Path::new("-") { "the patch".into() } else { patch.to_string_lossy() };
        context.say(format!("{name}: {}", summary(&outcome, BEFORE)));
    }
    Ok(())
}

/// What to do about flagged files of a patch that is not applied yet.
pub const BEFORE: &str = "look before you apply it";
/// The same where they are in the checkout by now.
pub const AFTER: &str = "look before you use the checkout";

/// What the patch of `outcome` amounts to; `advice` is what to do about flagged files.
pub fn summary(outcome: &Outcome, advice: &str) -> String {
    let count = outcome.change_count.unwrap_or(0);
    if count == 0 {
        return "no changes".to_owned();
    }
    let files = if count == 1 { "file" } else { "files" };
    let (plus, minus) = (outcome.additions.unwrap_or(0), outcome.deletions.unwrap_or(0));
    let mut line = format!("{count} {files} changed, +{plus} -{minus}");
    let flagged = outcome.flagged.as_deref().unwrap_or_default();
    if !flagged.is_empty() {
        line += &format!("; {advice}: {}", named(flagged));
    }
    line
}

fn named(flagged: &[Flagged]) -> String {
    let first = flagged.iter().take(MAX_NAMED).map(|flag| format!("{} ({})", flag.path, flag.reason));
    let mut line = first.collect::<Vec<_>>().join(", ");
    if flagged.len() > MAX_NAMED {
        line += &format!(" and {} more", flagged.len() - MAX_NAMED);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_how_much_and_what_to_look_at() {
        let outcome = |count, flagged: usize| Outcome {
            change_count: Some(count),
            additions: Some(3),
            deletions: Some(1),
            flagged: Some(vec![Flagged { path: ".envrc".into(), reason: "why".into() }; flagged]),
            ..Outcome::default()
        };
        assert_eq!(summary(&outcome(0, 0), BEFORE), "no changes");
        assert_eq!(summary(&outcome(1, 0), BEFORE), "1 file changed, +3 -1");
        let line = summary(&outcome(6, 6), BEFORE);
        assert!(
            line.starts_with("6 files changed, +3 -1; look before you apply it: .envrc (why), "),
            "{line}"
        );
        assert!(line.ends_with(" and 2 more"), "{line}");
    }
}
