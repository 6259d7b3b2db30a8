//! Tables and records for people. Everything in them is escaped: some of it comes from guests.

use std::io::IsTerminal;

use banger_contract::error::escape_controls;
use comfy_table::{Table, presets};
use serde_json::Value;

/// Columns with a heading, as other command-line tools print them.
pub fn table(heading: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(heading.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| escape_controls(cell)).collect::<Vec<_>>());
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.map(|line| line + "\n").collect()
}

/// A list of images or of kernels: the values of `keys`, and in what state each is. Those that cannot be read are among them.
pub fn inventory(answer: &Value, columns: [(&str, &str); 4]) -> String {
    let list = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
    let row = |item: Value, state: String| {
        let cells = columns.iter().map(|(_, key)| item[*key].as_str().unwrap_or("-").to_owned());
        cells.chain([state]).collect::<Vec<_>>()
    };
    let whole = list("items").into_iter().map(|item| {
        let missing = item["missing"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let missing = missing.collect::<Vec<_>>().join(", ");
        let state = if missing.is_empty() { "ready".to_owned() } else { format!("lacks {missing}") };
        row(item, state)
    });
    let damaged = list("damaged").into_iter().map(|item| row(item, "damaged".to_owned()));
    let mut rows: Vec<_> = whole.chain(damaged).collect();
    rows.sort();
    let heading: Vec<&str> = columns.iter().map(|(heading, _)| *heading).chain(["STATE"]).collect();
    table(&heading, rows)
}

/// A record as indented JSON for a terminal, or on one line for a pipe.
pub fn pretty(value: &Value) -> String {
    // serde_json escapes C0 controls itself; C1 and bidirectional ones are left to us.
    let text = if std::io::stdout().is_terminal() {
        serde_json::to_string_pretty(value).expect("a value has string keys only")
    } else {
        value.to_string()
    };
    text.lines().map(|line| escape_controls(line) + "\n").collect()
}
