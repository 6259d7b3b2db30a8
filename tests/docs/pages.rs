//! Man pages: the generated options, and the markup.

use std::path::PathBuf;

use banger_contract::host_policy::{self, HostPolicy};

use crate::{PROGRAMS, assert_file, read, root, support, with_block};

fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("man")).expect("man/ is there");
    let mut pages: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    pages.sort();
    pages
}

#[test]
fn options_are_those_of_the_programs() {
    for (name, program) in PROGRAMS {
        let output = support::run(support::command(program).args(["--generate", "man-options"]), b"");
        let options = String::from_utf8(output.stdout).expect("roff is text");
        assert!(
            output.status.success() && options.contains(".TP\n"),
            "{name} --generate man-options says {:?}",
            options.lines().next()
        );
        let path = root().join(format!("man/{name}.1"));
        let page = read(&path);
        let wanted = with_block(&page, "OPTIONS", &options)
            .unwrap_or_else(|| panic!("{} has no lines BEGIN and END GENERATED OPTIONS", path.display()));
        assert_file(&path, &wanted);
        let headed = wanted.contains(".SH OPTIONS\n.\\\" BEGIN GENERATED OPTIONS\n");
        assert!(
            headed,
            "{}: the heading .SH OPTIONS stands right before the generated block",
            path.display()
        );
    }
}

#[test]
fn completions_are_there_for_every_shell() {
    for (name, program) in PROGRAMS {
        for shell in ["bash", "zsh", "fish"] {
            let what = format!("completion-{shell}");
            let output = support::run(support::command(program).args(["--generate", &what]), b"");
            let script = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success() && script.contains(name), "{name} --generate {what}: {script:?}");
        }
    }
}

#[test]
fn pages_have_their_sections() {
    for (name, _) in PROGRAMS {
        let page = read(&root().join(format!("man/{name}.1")));
        for section in ["NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "EXAMPLES", "SEE ALSO"] {
            let there = page
                .lines()
                .any(|line| line.strip_prefix(".SH ").is_some_and(|s| s.trim_matches('"') == section));
            assert!(there, "man/{name}.1 has no section {section}");
        }
    }
}

#[test]
fn the_policys_page_has_every_key_and_its_examples_are_policies() {
    let page = read(&root().join("man/banger-netd.toml.5"));
    for key in host_policy::keys() {
        assert!(page.contains(&format!("\n.TP\n.B {key}\n")), "no key {key}");
    }
    let examples: Vec<&str> =
        page.split("\n.nf\n").skip(1).filter_map(|part| part.split("\n.fi").next()).collect();
    assert_eq!(examples.len(), 2);
    for example in examples {
        HostPolicy::parse(example).unwrap_or_else(|e| panic!("{example}: {e}"));
    }
    let HostPolicy {
        uids: None,
        subnets,
        networks,
        taps,
        published_ports,
        connections,
        dm_snapshots,
        dm_size,
        dm_total_size,
    } = HostPolicy::default()
    else {
        panic!("the page says that by default nobody is left out")
    };
    let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
    assert!(page.contains(&format!(".BR {} .", subnets.join(" \" and \" "))), "{subnets:?}");
    for (key, default) in [
        ("networks", networks),
        ("taps", taps),
        ("published_ports", published_ports),
        ("connections", connections.all),
        ("new_connections", connections.new),
        ("dm.snapshots", dm_snapshots),
    ] {
        let part = page.split(&format!("\n.B {key}\n")).nth(1).and_then(|rest| rest.split("\n.TP\n").next());
        assert!(part.is_some_and(|part| part.contains(&format!("Default: {default}."))), "{key}: {default}");
    }
    for default in [dm_size, dm_total_size] {
        assert!(page.contains(&format!("Default: {default}.")), "{default}");
    }
}

#[test]
fn man_finds_nothing_to_warn_of() {
    if !support::require("docs", support::has("man"), "man(1) is not installed: the markup is not checked") {
        return;
    }
    for page in pages() {
        let mut man = support::command("man");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]).arg(&page);
        let output = support::run(man.env("MANWIDTH", "80").env("LC_ALL", "C.UTF-8"), b"");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{}: {said}", page.display());
    }
}

#[test]
fn mandoc_finds_no_error() {
    if !support::require("docs", support::has("mandoc"), "mandoc(1) is not installed: its lint is not run") {
        return;
    }
    for page in pages() {
        let output = support::run(support::command("mandoc").args(["-Tlint", "-Werror"]).arg(&page), b"");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.is_empty(), "{}", said);
    }
}

#[test]
fn see_also_leads_to_pages_that_exist() {
    let names: Vec<String> =
        pages().iter().filter_map(|p| p.file_name()?.to_str().map(str::to_owned)).collect();
    for page in pages() {
        for line in read(&page).lines().filter(|line| line.starts_with(".BR banger")) {
            let words: Vec<String> = line
                .split(' ')
                .map(|w| {
                    w.replace("\\-", "-").replace(['(', ')', ',', ';'], "").trim_end_matches('.').to_owned()
                })
                .collect();
            if let [_, name, section, ..] = words.as_slice()
                && section.chars().all(|c| c.is_ascii_digit())
                && !section.is_empty()
            {
                assert!(
                    names.contains(&format!("{name}.{section}")),
                    "{}: there is no {name}({section})",
                    page.display()
                );
            }
        }
    }
}
