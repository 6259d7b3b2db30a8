//! `--generate WHAT`, which every program understands as its first argument and none lists: the options block of its man
//! page, its completions, the contract's schemas. All of it follows from the clap command and from `contract`.

use std::fmt::Write as _;

use clap::{Arg, Command, CommandFactory, ValueEnum};
use clap_complete::aot::{self, Shell};
use serde_json::{Map, Value};

use super::plumbing::UsageError;
use banger_contract::schema;

/// What a program can print about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// The options of the program and of all its verbs, in man(7) markup.
    ManOptions,
    /// A completion script for bash.
    CompletionBash,
    /// A completion script for zsh.
    CompletionZsh,
    /// A completion script for fish.
    CompletionFish,
    /// The contract's JSON Schemas: an object with one member per file of lib/schema.
    Schema,
}

/// What the arguments ask for, where they begin with `--generate`; `None` leaves them to the program. Only the first
/// argument counts, since later ones may belong to a command in the guest.
pub fn requested<A: CommandFactory>(
    mut args: impl Iterator<Item = std::ffi::OsString>,
) -> Option<Result<String, UsageError>> {
    let first = args.nth(1)?;
    let first = first.to_str()?;
    let name = match first.strip_prefix("--generate")? {
        "" => args.next().unwrap_or_default().to_string_lossy().into_owned(),
        joined => joined.strip_prefix('=')?.to_owned(),
    };
    let known = || What::value_variants().iter().filter_map(ValueEnum::to_possible_value);
    Some(match What::from_str(&name, false) {
        Ok(what) => Ok(run(A::command(), what)),
        Err(_) => {
            let names: Vec<String> = known().map(|v| v.get_name().to_owned()).collect();
            Err(UsageError(format!("--generate takes one of {}", names.join(", "))))
        }
    })
}

/// The text that `what` stands for, of the program that `command` describes.
pub fn run(mut command: Command, what: What) -> String {
    match what {
        What::ManOptions => man_options(command),
        What::CompletionBash => completion(&mut command, Shell::Bash),
        What::CompletionZsh => completion(&mut command, Shell::Zsh),
        What::CompletionFish => completion(&mut command, Shell::Fish),
        What::Schema => {
            let parsed = |text: &str| serde_json::from_str(text).expect("tests compare it with what is made");
            let all = schema::FILES.iter().map(|(name, text)| ((*name).to_owned(), parsed(text)));
            format!("{:#}\n", Value::Object(all.collect::<Map<String, Value>>()))
        }
    }
}

fn completion(command: &mut Command, shell: Shell) -> String {
    let name = command.get_name().to_owned();
    let mut bytes = Vec::new();
    aot::generate(shell, command, name, &mut bytes);
    String::from_utf8(bytes).expect("completions are made of the command's own strings")
}

/// What stands below the heading OPTIONS: one subsection for every verb. Help and version, which all have, are said once.
fn man_options(command: Command) -> String {
    let name = command.get_name().to_owned();
    let mut out = String::from("Every verb takes\n.B \\-\\-help\nas well.\n");
    subsection(&mut out, &name, &command);
    out
}

/// The options of `command`, then those of its verbs, depth first. A verb without any has no subsection.
fn subsection(out: &mut String, title: &str, command: &Command) {
    let shown = |arg: &&Arg| !arg.is_hide_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    let arguments: Vec<&Arg> = command.get_arguments().filter(shown).collect();
    if !arguments.is_empty() {
        writeln!(out, ".SS {}", escape(title)).expect("writing to a string");
    }
    for argument in arguments {
        entry(out, argument);
    }
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set() && verb.get_name() != "help");
    for verb in verbs {
        subsection(out, &format!("{title} {}", verb.get_name()), verb);
    }
}

fn entry(out: &mut String, argument: &Arg) {
    writeln!(out, ".TP\n{}", term(argument)).expect("writing to a string");
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    // Where the default depends on the host, the help says it in clap's brackets itself.
    let (help, told) = match help.trim().strip_suffix(']').and_then(|help| help.rsplit_once(" [default: ")) {
        Some((help, default)) => (help.to_owned(), Some(format!("Default: {default}."))),
        None => (help.trim().to_owned(), None),
    };
    let mut sentences = vec![help.trim_end_matches('.').to_owned() + "."];
    let values = argument.get_possible_values();
    let values: Vec<&str> = values.iter().filter(|v| !v.is_hide_set()).map(|v| v.get_name()).collect();
    if !values.is_empty() && argument.get_action().takes_values() {
        sentences.push(format!("One of {}.", values.join(", ")));
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|v| v.to_string_lossy()).collect();
    if !defaults.is_empty() && argument.get_action().takes_values() && !argument.is_hide_default_value_set() {
        let default = defaults.join(" ");
        // A full stop behind the directory "." would make it another one.
        let stop = if default.ends_with('.') { "" } else { "." };
        sentences.push(format!("Default: `{default}`{stop}"));
    }
    sentences.extend(told);
    if let Some(variable) = argument.get_env() {
        sentences.push(format!("Environment: {}.", variable.to_string_lossy()));
    }
    for line in sentences.join("\n").lines().map(str::trim) {
        writeln!(out, "{}", if line.is_empty() { ".sp".to_owned() } else { escape(line) })
            .expect("writing to a string");
    }
}

/// `-o, --option FILE`, in the fonts that man pages use.
fn term(argument: &Arg) -> String {
    let bold = |text: String| format!("\\fB{}\\fR", escape(&text));
    let short = argument.get_short().map(|c| bold(format!("-{c}")));
    let long = argument.get_long().map(|name| bold(format!("--{name}")));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let mut term = flags.join(", ");
    if argument.is_positional() || argument.get_action().takes_values() {
        let names = match argument.get_value_names() {
            Some(names) => names.iter().map(|name| name.to_string()).collect(),
            None => vec![argument.get_id().as_str().to_uppercase()],
        };
        let more = argument.get_num_args().is_some_and(|range| range.max_values() > names.len());
        let values: Vec<String> = names.iter().map(|name| format!("\\fI{}\\fR", escape(name))).collect();
        let gap = if term.is_empty() { "" } else { " " };
        write!(term, "{gap}{}{}", values.join(" "), if more { "..." } else { "" })
            .expect("writing to a string");
    }
    term
}

/// `text` as it stands in a man page: backslashes and hyphens literal, what is in backquotes bold, no line a request.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-");
    let parts = escaped.split('`').enumerate();
    let escaped: String =
        parts.map(|(i, part)| if i % 2 == 1 { format!("\\fB{part}\\fR") } else { part.to_owned() }).collect();
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    #[command(name = "banger-x")]
    struct Sample {
        #[command(subcommand)]
        _verb: Verb,
    }

    #[derive(clap::Subcommand)]
    enum Verb {
        /// Start it
        Start {
            /// Read FILE; see a\b
            #[arg(short, long, value_name = "FILE", default_value = "-", env = "BANGER_X")]
            _input: String,
            /// Use `cc` [default: 2 of them]
            #[arg(long, value_name = "N")]
            _count: Option<u8>,
            /// .hidden
            #[arg(long, hide = true)]
            _secret: bool,
            /// The command
            #[arg(trailing_var_arg = true)]
            command: Vec<String>,
        },
    }

    fn ask(args: &[&str]) -> Option<Result<String, UsageError>> {
        requested::<Sample>(args.iter().map(Into::into))
    }

    #[test]
    fn man_options_list_what_is_not_hidden() {
        let text = ask(&["banger-x", "--generate", "man-options"]).unwrap().unwrap();
        assert!(
            text.contains(".SS banger\\-x start\n.TP\n\\fB\\-i\\fR, \\fB\\-\\-input\\fR \\fIFILE\\fR\n"),
            "{text}"
        );
        assert!(
            text.contains("Read FILE; see a\\eb.\nDefault: \\fB\\-\\fR.\nEnvironment: BANGER_X.\n"),
            "{text}"
        );
        assert!(text.contains("Use \\fBcc\\fR.\nDefault: 2 of them.\n"), "{text}");
        assert!(text.contains("\\fICOMMAND\\fR...\nThe command.\n"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn only_the_first_argument_asks() {
        assert!(ask(&["banger-x", "start", "--generate", "schema"]).is_none());
        assert!(ask(&["banger-x"]).is_none());
        assert!(ask(&["banger-x", "--generate", "poetry"]).unwrap().is_err());
        assert!(ask(&["banger-x", "--generate"]).unwrap().is_err());
        assert!(ask(&["banger-x", "--generate=completion-bash"]).unwrap().unwrap().contains("banger-x"));
        assert!(ask(&["banger-x", "--generate=schema"]).unwrap().unwrap().contains("banger.vm.1.json"));
    }
}
