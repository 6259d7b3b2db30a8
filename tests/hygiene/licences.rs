//! The licences of everything that is linked in, against the list in deny.toml.

use serde_json::Value;

/// The SPDX names in the list `allow` of deny.toml's section `[licenses]`.
pub fn allowed(deny_toml: &str) -> Vec<String> {
    let section = deny_toml.split("\n[licenses]").nth(1).unwrap_or_default();
    let list = section.split("allow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
    list.split('"').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Packages of `metadata` (`cargo metadata`) that the list does not cover: one line each.
pub fn violations(metadata: &Value, allowed: &[String]) -> Vec<String> {
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    let of = |package: &Value| {
        let name = package["name"].as_str().unwrap_or_default().to_owned();
        match package["license"].as_str() {
            None => Some(format!("{name} names no licence")),
            Some(expression) if satisfied(expression, allowed) => None,
            Some(expression) => Some(format!("{name} is under {expression}, which deny.toml does not allow")),
        }
    };
    packages.iter().filter_map(of).collect()
}

/// Whether the SPDX expression can be met with `allowed`. A slash is an old way to write OR.
fn satisfied(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, allowed);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, allowed);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut met = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, allowed);
    }
    met
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, allowed);
        *at += 1;
        return met;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    allowed.contains(&name)
}

#[test]
fn expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0", "Unicode-3.0"].map(str::to_owned);
    for good in ["MIT", "MIT/GPL-3.0", "GPL-2.0 OR MIT", "(MIT OR Apache-2.0) AND Unicode-3.0"] {
        assert!(satisfied(good, &allowed), "{good}");
    }
    for bad in
        ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH LLVM-exception", "", "(MIT OR GPL-3.0) AND MPL-2.0"]
    {
        assert!(!satisfied(bad, &allowed), "{bad}");
    }
}

#[test]
fn a_licence_that_is_not_allowed_is_caught() {
    let metadata = serde_json::json!({"packages": [
        {"name": "good", "license": "MIT"}, {"name": "bad", "license": "GPL-3.0-only"}, {"name": "none", "license": null},
    ]});
    let list = allowed("[bans]\nallow = [\"GPL-3.0-only\"]\n[licenses]\nallow = [\n  \"MIT\",\n]\n");
    let said = violations(&metadata, &list);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("bad is under GPL-3.0-only") && said[1].contains("none names no licence"),
        "{said:?}"
    );
}
