//! `banger vm fetch`.

use std::fs::File;
use std::process::ExitCode;

use banger_contract::Document;
use banger_contract::record::Outcome;
use banger_host::git::{self, Git};
use banger_ws::cli::{FetchFormat, FetchSpec};
use banger_ws::guest::quote;

use crate::context::{self, Context, Result};
use crate::stage::{self, Stage};
use crate::{changes, lifecycle, pager};

#[derive(Debug, clap::Args)]
pub struct Fetch {
    /// The VM's name or id
    #[arg(value_name = "VM")]
    pub vm: String,
    #[command(flatten)]
    pub spec: FetchSpec,
}

fn stage(args: &Fetch) -> Stage {
    args.spec.words().into_iter().fold(Stage::new("banger-ws", "fetch"), Stage::arg)
}

/// `banger vm fetch`.
pub fn fetch(context: &Context, args: &Fetch) -> Result<ExitCode> {
    let (_, row) = lifecycle::find(context, &args.vm)?;
    if context.explain {
        return Ok(context::print(&stage::pipeline(&row.vm.name, [&stage(args)])));
    }
    let document = changes::workspace_of(&row)?;
    match args.spec.format {
        FetchFormat::Branch => make_branch(context, args, &document),
        FetchFormat::Mbox => write_mails(context, args, &document),
    }
}

fn make_branch(context: &Context, args: &Fetch, document: &Document) -> Result<ExitCode> {
    let value = stage(args).run(context, document.to_value().to_string().as_bytes(), None)?;
    if context.json {
        return Ok(context::emit(&value));
    }
    let outcome = Document::parse(value.to_string().as_bytes())?.outcome()?.unwrap_or_default();
    let home = document.required_workspace()?.host_path;
    context.say(summary(&outcome, &checked_out(&home)));
    Ok(ExitCode::SUCCESS)
}

fn write_mails(context: &Context, args: &Fetch, document: &Document) -> Result<ExitCode> {
    let dir = document.vm()?.paths.dir;
    let temp = tempfile::Builder::new().prefix(".mails-").tempfile_in(dir).map_err(changes::talk)?;
    let stage = stage(args).arg("--output").arg(temp.path());
    let value = stage.run(context, document.to_value().to_string().as_bytes(), None)?;
    let record = changes::without_file(&value)?;
    if context.json {
        return Ok(context::emit(&record.to_value()));
    }
    if record.outcome()?.unwrap_or_default().commits == Some(0) {
        context.say(NOTHING);
        return Ok(ExitCode::SUCCESS);
    }
    let mut file = File::open(temp.path()).map_err(changes::talk)?;
    context::arrived(pager::pass_on(context, document, &mut file, false))?;
    Ok(ExitCode::SUCCESS)
}

const NOTHING: &str = "no commits of the guest's own";

/// What came of it, in one line, for somebody who has `current` checked out.
fn summary(outcome: &Outcome, current: &str) -> String {
    let Some(branch) = &outcome.branch else { return NOTHING.to_owned() };
    if !outcome.changed {
        return format!("{branch} is up to date");
    }
    let count = outcome.commits.unwrap_or(0);
    let commits = if count == 1 { "commit" } else { "commits" };
    format!("{count} {commits} in {branch} (git log {})", word(&format!("{current}..{branch}")))
}

/// The branch that is checked out at `home`, or HEAD.
fn checked_out(home: &str) -> String {
    let said = Git::at(home).run(["symbolic-ref", "--short", "-q", "HEAD"]);
    said.map_or_else(|_| "HEAD".to_owned(), |said| git::line(&said))
}

/// `text` as a word of a shell.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./+=,%@".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { quote([text]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_what_came_of_it() {
        let outcome = |changed, branch: Option<&str>, commits| Outcome {
            changed,
            branch: branch.map(str::to_owned),
            commits: Some(commits),
            ..Outcome::default()
        };
        assert_eq!(summary(&outcome(false, None, 0), "main"), "no commits of the guest's own");
        assert_eq!(summary(&outcome(false, Some("a"), 0), "main"), "a is up to date");
        let line = "1 commit in banger/d/x (git log main..banger/d/x)";
        assert_eq!(summary(&outcome(true, Some("banger/d/x"), 1), "main"), line);
        let line = "3 commits in a'b (git log 'HEAD..a'\\''b')";
        assert_eq!(summary(&outcome(true, Some("a'b"), 3), "HEAD"), line);
    }
}
