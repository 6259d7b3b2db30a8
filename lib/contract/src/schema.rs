//! JSON Schemas of everything in the contract, as committed in `lib/schema/`. `tests/docs` keeps them from drifting.
//!
//! Programs print the files; what makes them of the types is for that test alone, and is in no program.

use schemars::JsonSchema;
use serde_json::{Map, Value, json};

use super::catalog::Catalog;
use super::error::ErrorRecord;
use super::image::{ImageList, ImageRecord};
use super::kernel::{KernelList, KernelRecord};
use super::{config, dns, inside, names, record, reply};

/// File name and text of every schema.
pub const FILES: [(&str, &str); 21] = [
    ("banger.vm.1.json", include_str!("../../schema/banger.vm.1.json")),
    ("banger.error.1.json", include_str!("../../schema/banger.error.1.json")),
    ("banger.image.1.json", include_str!("../../schema/banger.image.1.json")),
    ("banger.images.1.json", include_str!("../../schema/banger.images.1.json")),
    ("banger.catalog.1.json", include_str!("../../schema/banger.catalog.1.json")),
    ("banger.kernel.1.json", include_str!("../../schema/banger.kernel.1.json")),
    ("banger.kernels.1.json", include_str!("../../schema/banger.kernels.1.json")),
    ("banger.vms.1.json", include_str!("../../schema/banger.vms.1.json")),
    ("banger.version.1.json", include_str!("../../schema/banger.version.1.json")),
    ("banger.gc.1.json", include_str!("../../schema/banger.gc.1.json")),
    ("banger.doctor.1.json", include_str!("../../schema/banger.doctor.1.json")),
    ("banger.usage.1.json", include_str!("../../schema/banger.usage.1.json")),
    ("banger.usages.1.json", include_str!("../../schema/banger.usages.1.json")),
    ("banger.ports.1.json", include_str!("../../schema/banger.ports.1.json")),
    ("banger.network.1.json", include_str!("../../schema/banger.network.1.json")),
    ("banger.names.1.json", include_str!("../../schema/banger.names.1.json")),
    ("banger.resolver.1.json", include_str!("../../schema/banger.resolver.1.json")),
    ("banger.dns.1.json", include_str!("../../schema/banger.dns.1.json")),
    ("banger.hook.1.json", include_str!("../../schema/banger.hook.1.json")),
    ("banger.config.1.json", include_str!("../../schema/banger.config.1.json")),
    ("banger.checkout.1.json", include_str!("../../schema/banger.checkout.1.json")),
];

/// File name and content of every schema, made of the types.
pub fn all() -> Vec<(&'static str, Value)> {
    vec![
        ("banger.vm.1.json", vm()),
        ("banger.error.1.json", schemars::schema_for!(ErrorRecord).to_value()),
        ("banger.image.1.json", schemars::schema_for!(ImageRecord).to_value()),
        ("banger.images.1.json", schemars::schema_for!(ImageList).to_value()),
        ("banger.catalog.1.json", schemars::schema_for!(Catalog).to_value()),
        ("banger.kernel.1.json", schemars::schema_for!(KernelRecord).to_value()),
        ("banger.kernels.1.json", schemars::schema_for!(KernelList).to_value()),
        ("banger.vms.1.json", vms()),
        ("banger.version.1.json", schemars::schema_for!(reply::Version).to_value()),
        ("banger.gc.1.json", schemars::schema_for!(reply::Collected).to_value()),
        ("banger.doctor.1.json", schemars::schema_for!(reply::Checkup).to_value()),
        ("banger.usage.1.json", schemars::schema_for!(inside::Usage).to_value()),
        ("banger.usages.1.json", schemars::schema_for!(inside::Usages).to_value()),
        ("banger.ports.1.json", schemars::schema_for!(inside::Ports).to_value()),
        ("banger.network.1.json", schemars::schema_for!(reply::NetworkReply).to_value()),
        ("banger.names.1.json", schemars::schema_for!(names::Names).to_value()),
        ("banger.resolver.1.json", schemars::schema_for!(reply::Resolver).to_value()),
        ("banger.dns.1.json", schemars::schema_for!(dns::DnsReply).to_value()),
        ("banger.hook.1.json", schemars::schema_for!(dns::HookReply).to_value()),
        ("banger.config.1.json", schemars::schema_for!(config::Settings).to_value()),
        ("banger.checkout.1.json", schemars::schema_for!(reply::CheckoutReply).to_value()),
    ]
}

/// A list of VMs: whole records from `banger ps`, at least an id each where a `gc` reads it.
fn vms() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": record::VMS_SCHEMA,
        "description": "The VMs of a state directory; see banger-json(7)",
        "type": "object",
        "required": ["schema", "items"],
        "properties": {
            "schema": { "const": record::VMS_SCHEMA },
            "state_id": { "type": "string", "pattern": "^[0-9a-f]{8}$" },
            "items": { "type": "array", "items": { "type": "object" } },
        },
        "additionalProperties": true,
    })
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
