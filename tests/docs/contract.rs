//! The contract on paper: lib/schema and the tables of banger-json(7), both generated from the types.

use banger_contract::config::{KEYS, Key};
use banger_contract::{ErrorCode, schema};
use banger_ws::patch::known;
use serde_json::Value;

use crate::{assert_file, read, root, with_block};

#[test]
fn schemas_are_those_of_the_code() {
    let dir = root().join("lib/schema");
    let all = schema::all();
    for (name, value) in &all {
        assert_file(&dir.join(name), &format!("{value:#}\n"));
    }
    for entry in std::fs::read_dir(&dir).expect("lib/schema is there").flatten() {
        let name = entry.file_name();
        assert!(all.iter().any(|(known, _)| name == *known), "lib/schema/{name:?} is of no type any more");
        assert!(
            schema::FILES.iter().any(|(known, _)| name == *known),
            "no program prints lib/schema/{name:?}"
        );
    }
}

#[test]
fn banger_json_lists_every_field_and_every_code() {
    let path = root().join("man/banger-json.7");
    let page = read(&path);
    let wanted = [("FIELDS", fields()), ("IMAGE", image()), ("CODES", codes())].iter().fold(
        page,
        |page, (name, block)| {
            with_block(&page, name, block)
                .unwrap_or_else(|| panic!("banger-json.7 has no lines BEGIN and END GENERATED {name}"))
        },
    );
    assert_file(&path, &wanted);
}

#[test]
fn banger_config_lists_every_key() {
    let path = root().join("man/banger-config.5");
    let entry = |key: &Key| {
        let variable = key.variable.map_or_else(String::new, |name| format!("Environment: `{name}`. "));
        let told =
            format!("{} {variable}Allowed: {}. Default: {}.", key.help, key.allowed, key.default_text());
        format!(".TP\n.B {}\n{}", key.name, text(&Value::from(told)))
    };
    let keys: String = KEYS.iter().map(entry).collect();
    let wanted = with_block(&read(&path), "KEYS", &keys).expect("banger-config.5 has the lines of KEYS");
    assert_file(&path, &wanted);
}

#[test]
fn banger_ws_lists_every_file_that_is_flagged() {
    let path = root().join("man/banger-ws.1");
    let wanted =
        with_block(&read(&path), "KNOWN", &known::as_roff()).expect("banger-ws.1 has the lines of KNOWN");
    assert_file(&path, &wanted);
}

fn named(name: &str) -> Value {
    schema::all().into_iter().find(|(file, _)| *file == name).expect("the contract has this schema").1
}

/// One subsection for every section of the record.
fn fields() -> String {
    let record = named("banger.vm.1.json");
    let sections = record["properties"].as_object().expect("a record has properties");
    let mut out = String::new();
    for (section, schema) in sections.iter().filter(|(name, _)| *name != "schema") {
        let list = if section == "timings" { "[]" } else { "" };
        let body = resolve(&record, inner(schema));
        out += &format!(".SS {section}{list}\n{}", text(&body["description"]));
        out += &properties(&record, body, "");
    }
    out
}

fn image() -> String {
    let record = named("banger.image.1.json");
    properties(&record, &record, "")
}

/// One entry for every property but `schema`, those of objects inside it named `outer.inner`.
fn properties(record: &Value, object: &Value, prefix: &str) -> String {
    let mut out = String::new();
    for (name, schema) in
        object["properties"].as_object().into_iter().flatten().filter(|(name, _)| *name != "schema")
    {
        let body = resolve(record, inner(schema));
        let description =
            if schema["description"].is_string() { &schema["description"] } else { &body["description"] };
        out += &format!(".TP\n\\fB{prefix}{name}\\fR ({})\n{}", kind(record, schema), text(description));
        let list = if schema["type"] == "array" { "[]" } else { "" };
        out += &properties(record, body, &format!("{prefix}{name}{list}."));
    }
    out
}

/// What a schema is about once "or null" and "list of" are taken away.
fn inner(schema: &Value) -> &Value {
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().find(|choice| choice["type"] != "null").unwrap_or(schema);
    }
    if schema["items"].is_object() { &schema["items"] } else { schema }
}

fn resolve<'a>(record: &'a Value, schema: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|reference| reference.strip_prefix("#/$defs/")) {
        Some(name) => &record["$defs"][name],
        None => schema,
    }
}

/// The type in words.
fn kind(record: &Value, schema: &Value) -> String {
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let null = types.contains(&"null")
        || schema["anyOf"].as_array().is_some_and(|choices| choices.iter().any(|c| c["type"] == "null"));
    let or_null = if null { " or null" } else { "" };
    if schema["items"].is_object() {
        return format!("list of {}{or_null}", kind(record, &schema["items"]));
    }
    let body = resolve(record, inner(schema));
    let name = match choices(body) {
        values if !values.is_empty() => values.join(" | "),
        _ => match body["type"].as_str().or(types.iter().copied().find(|t| *t != "null")) {
            Some(name) => name.to_owned(),
            None => panic!("a type that cannot be told: {schema}"),
        },
    };
    name + or_null
}

/// The values of an enumeration.
fn choices(body: &Value) -> Vec<&str> {
    let tagged = body["oneOf"].as_array().into_iter().flatten().filter_map(|choice| choice["const"].as_str());
    let plain = body["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    tagged.chain(plain).collect()
}

/// Every error code with its exit status, in the order of the source.
fn codes() -> String {
    let schema = named("banger.error.1.json");
    let codes = schema["$defs"]["ErrorCode"]["oneOf"].as_array().expect("the codes are an enumeration");
    let entry = |choice: &Value| {
        let code: ErrorCode =
            serde_json::from_value(choice["const"].clone()).expect("a code reads as itself");
        let name = choice["const"].as_str().expect("a code is a string").replace('-', "\\-");
        format!(".TP\n\\fB{name}\\fR (exit status {})\n{}", code.exit_status(), text(&choice["description"]))
    };
    codes.iter().map(entry).collect()
}

/// A doc comment as roff: its code in bold, its links as words, a line for each sentence.
fn text(description: &Value) -> String {
    let plain = description.as_str().unwrap_or_default().replace("[`", "`").replace("`]", "`");
    let plain = plain.replace("`None`", "`null`");
    let escaped = plain.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ");
    let mut out = String::new();
    for (index, part) in escaped.split('`').enumerate() {
        out += &if index % 2 == 0 { part.to_owned() } else { format!("\\fB{part}\\fR") };
    }
    let out = out.trim().replace(". ", ".\n");
    let line =
        |line: &str| if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") };
    out.lines().map(|l| line(l.trim())).collect()
}
