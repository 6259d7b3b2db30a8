//! Whether a body is what the published description says: Firecracker denies unknown fields.

use serde_json::{Map, Value};

/// The description: requests and the definitions of their bodies.
pub struct Schema {
    api: Value,
    version: (u32, u32),
}

/// A request that the description knows.
pub struct Known<'a> {
    /// `before`, `after` or `any`: relative to the start.
    pub phase: &'a str,
    /// The name of the body's definition.
    pub body: Option<&'a str>,
    /// The identifier in the path: its field in the body, and its value.
    pub id: Option<(String, String)>,
}

fn major_minor(version: &str) -> (u32, u32) {
    let mut numbers = version.split(['.', '-']).map(|n| n.parse().expect("a version is made of numbers"));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

impl Schema {
    /// The description, as a Firecracker of `version` has it.
    pub fn new(version: &str) -> Self {
        let api = serde_json::from_str(include_str!("api.json")).expect("api.json is JSON");
        Self { api, version: major_minor(version) }
    }

    fn exists(&self, entry: &Value) -> bool {
        entry["since"].as_str().is_none_or(|since| major_minor(since) <= self.version)
    }

    /// What is known of `method path`.
    pub fn request(&self, method: &str, path: &str) -> Option<Known<'_>> {
        let requests = self.api["requests"].as_object().expect("api.json has requests");
        requests.iter().filter(|(_, entry)| self.exists(entry)).find_map(|(name, entry)| {
            let (wanted, template) = name.split_once(' ')?;
            let id = match template.split_once('{') {
                None if template == path => None,
                None => return None,
                Some((prefix, field)) => {
                    let id = path.strip_prefix(prefix).filter(|id| !id.contains('/'))?;
                    Some((field.trim_end_matches('}').to_owned(), id.to_owned()))
                }
            };
            let phase = entry["phase"].as_str().expect("a request has a phase");
            (wanted == method).then(|| Known { phase, body: entry["body"].as_str(), id })
        })
    }

    /// Checks `value` against the definition `name`.
    pub fn check(&self, name: &str, value: &Value) -> Result<(), String> {
        let definition = &self.api["definitions"][name];
        let properties = definition["properties"].as_object().unwrap_or_else(|| panic!("{name} is defined"));
        let object: &Map<String, Value> = value
            .as_object()
            .ok_or_else(|| format!("invalid type: {}, expected struct {name}", kind(value)))?;
        for (field, value) in object {
            let property = properties.get(field).filter(|property| self.exists(property));
            let property = property.ok_or_else(|| {
                let known: Vec<_> = properties.keys().map(|k| format!("`{k}`")).collect();
                format!("unknown field `{field}`, expected one of {}", known.join(", "))
            })?;
            self.check_property(field, property, value)?;
        }
        for required in definition["required"].as_array().expect("a definition says what it requires") {
            let field = required.as_str().expect("names are strings");
            if !object.contains_key(field) {
                return Err(format!("missing field `{field}`"));
            }
        }
        Ok(())
    }

    fn check_property(&self, field: &str, property: &Value, value: &Value) -> Result<(), String> {
        if let Some(name) = property["ref"].as_str() {
            return self.check(name, value);
        }
        let expected = property["type"].as_str().expect("a property has a type");
        let fits = match expected {
            "integer" => value.is_u64(),
            "boolean" => value.is_boolean(),
            _ => value.is_string(),
        };
        if !fits {
            return Err(format!("invalid type for `{field}`: {}, expected {expected}", kind(value)));
        }
        if let Some(variants) = property["enum"].as_array()
            && !variants.contains(value)
        {
            return Err(format!("unknown variant {value} for `{field}`"));
        }
        let number = value.as_u64().unwrap_or(0);
        let below = property["minimum"].as_u64().is_some_and(|minimum| number < minimum);
        let above = property["maximum"].as_u64().is_some_and(|maximum| number > maximum);
        if value.is_u64() && (below || above) {
            return Err(format!("invalid value for `{field}`: {number}"));
        }
        Ok(())
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "sequence",
        Value::Object(_) => "map",
    }
}
