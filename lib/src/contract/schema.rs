//! JSON Schemas of everything in the contract, as committed in `lib/schema/`. `tests/docs` keeps them from drifting.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::error::ErrorRecord;
use super::image::{ImageList, ImageRecord};
use super::record;

/// File name and content of every schema.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("banger.vm.1.json", vm()),
        ("banger.error.1.json", schemars::schema_for!(ErrorRecord).to_value()),
        ("banger.image.1.json", schemars::schema_for!(ImageRecord).to_value()),
        ("banger.images.1.json", schemars::schema_for!(ImageList).to_value()),
    ]
}

/// The record: known sections strict, further keys allowed.
fn vm() -> Value {
    let mut generator = schemars::generate::SchemaSettings::draft2020_12().into_generator();
    let mut properties = Map::new();
    properties.insert("schema".into(), json!({ "const": record::VM_SCHEMA }));
    let mut add = |name: &str, schema: schemars::Schema| {
        properties.insert(name.into(), schema.to_value());
    };
    add("vm", generator.subschema_for::<Option<record::Vm>>());
    add("net", generator.subschema_for::<Option<record::Net>>());
    add("disk", generator.subschema_for::<Option<record::Disk>>());
    add("vmm", generator.subschema_for::<Option<record::Vmm>>());
    add("workspace", generator.subschema_for::<Option<record::Workspace>>());
    add("result", generator.subschema_for::<Option<record::Outcome>>());
    add("timings", Vec::<record::Timing>::json_schema(&mut generator));
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": record::VM_SCHEMA,
        "description": "A virtual machine as it passes through banger's stages; see banger-json(7)",
        "type": "object",
        "required": ["schema", "vm", "net", "disk", "vmm", "workspace", "result", "timings"],
        "properties": properties,
        "additionalProperties": true,
        "$defs": generator.take_definitions(true),
    })
}
