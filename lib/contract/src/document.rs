//! The record: one document that flows through a pipeline, each program filling in its own section.
//!
//! [`Document`] keeps the whole of it, keys unknown to this program included; a section is parsed, strictly, only by the
//! program that reads it.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use thiserror::Error;

use super::error::{Coded, ErrorCode};
use super::record::{Disk, MAX_RECORD_BYTES, Net, Outcome, SECTIONS, Timing, VM_SCHEMA, Vm, Vmm, Workspace};

/// Why a record cannot be used.
#[derive(Debug, Error)]
pub enum RecordError {
    /// Nothing at all came.
    #[error("no record came on stdin")]
    Empty,
    /// More than [`MAX_RECORD_BYTES`] came.
    #[error("the record is larger than {MAX_RECORD_BYTES} bytes")]
    TooLarge,
    /// It is not a JSON object.
    #[error("the record is not one JSON object")]
    Json(#[source] serde_json::Error),
    /// The schema is another one.
    #[error("the record's schema is {0}; this program speaks {VM_SCHEMA:?}")]
    Schema(String),
    /// A section that the program reads is missing or null.
    #[error("the record has no section {0:?}")]
    Missing(&'static str),
    /// A section is not of its shape.
    #[error("the record's section {section:?} is not valid")]
    Section {
        /// Which one.
        section: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Coded for RecordError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Empty => ErrorCode::NoInput,
            Self::Schema(_) => ErrorCode::UnsupportedSchema,
            _ => ErrorCode::BadInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Empty => Some("begin a pipeline with: banger vm plan NAME".into()),
            Self::Schema(_) => {
                Some("use programs of one version throughout a pipeline: banger --version".into())
            }
            Self::Missing("vm") => Some("a record comes from: banger vm plan NAME".into()),
            Self::Missing("net") => Some("run banger-netd attach before this stage".into()),
            Self::Missing("disk") => Some("run banger-disk attach before this stage".into()),
            Self::Missing("vmm") => Some("run banger-qemu start or banger-fc start before this stage".into()),
            Self::Missing("workspace") => Some("run banger-ws prepare before this stage".into()),
            _ => None,
        }
    }
}

/// A record with everything that it holds, known or not.
#[derive(Debug, Clone, PartialEq)]
pub struct Document(Map<String, Value>);

impl Document {
    /// A new record: the VM, and every other section `null`.
    pub fn new(vm: &Vm) -> Self {
        let mut map = Map::new();
        map.insert("schema".into(), VM_SCHEMA.into());
        for section in SECTIONS {
            map.insert(section.into(), Value::Null);
        }
        map.insert("timings".into(), Value::Array(Vec::new()));
        let mut document = Self(map);
        document.set("vm", Some(vm));
        document
    }

    /// Reads a record of this program's schema. An error record is not one: see [`super::ErrorRecord`].
    pub fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() as u64 > MAX_RECORD_BYTES {
            return Err(RecordError::TooLarge);
        }
        if bytes.trim_ascii().is_empty() {
            return Err(RecordError::Empty);
        }
        let mut map: Map<String, Value> = serde_json::from_slice(bytes).map_err(RecordError::Json)?;
        match map.get("schema") {
            Some(Value::String(schema)) if schema == VM_SCHEMA => {}
            other => {
                let shown = other.map_or_else(|| "missing".to_owned(), |v| v.to_string());
                return Err(RecordError::Schema(shown.chars().take(60).collect()));
            }
        }
        for section in SECTIONS {
            map.entry(section).or_insert(Value::Null);
        }
        map.entry("timings").or_insert_with(|| Value::Array(Vec::new()));
        Ok(Self(map))
    }

    fn section<T: DeserializeOwned>(&self, section: &'static str) -> Result<Option<T>, RecordError> {
        match self.0.get(section) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                T::deserialize(value).map(Some).map_err(|source| RecordError::Section { section, source })
            }
        }
    }

    fn required<T: DeserializeOwned>(&self, section: &'static str) -> Result<T, RecordError> {
        self.section(section)?.ok_or(RecordError::Missing(section))
    }

    /// Replaces a section; `None` writes `null`.
    fn set<T: Serialize>(&mut self, section: &'static str, value: Option<&T>) {
        let value = serde_json::to_value(value).expect("sections have string keys only");
        self.0.insert(section.into(), value);
    }

    /// The VM. Every verb that takes a record needs it.
    pub fn vm(&self) -> Result<Vm, RecordError> {
        self.required("vm")
    }
    /// The network, if attached.
    pub fn net(&self) -> Result<Option<Net>, RecordError> {
        self.section("net")
    }
    /// The network, which a stage before this one must have attached.
    pub fn required_net(&self) -> Result<Net, RecordError> {
        self.required("net")
    }
    /// The disks, if attached.
    pub fn disk(&self) -> Result<Option<Disk>, RecordError> {
        self.section("disk")
    }
    /// The disks, which a stage before this one must have attached.
    pub fn required_disk(&self) -> Result<Disk, RecordError> {
        self.required("disk")
    }
    /// The VMM, if started.
    pub fn vmm(&self) -> Result<Option<Vmm>, RecordError> {
        self.section("vmm")
    }
    /// The VMM, which a stage before this one must have started.
    pub fn required_vmm(&self) -> Result<Vmm, RecordError> {
        self.required("vmm")
    }
    /// The workspace, if prepared.
    pub fn workspace(&self) -> Result<Option<Workspace>, RecordError> {
        self.section("workspace")
    }
    /// The workspace, which a stage before this one must have prepared.
    pub fn required_workspace(&self) -> Result<Workspace, RecordError> {
        self.required("workspace")
    }
    /// The outcome of the last program.
    pub fn outcome(&self) -> Result<Option<Outcome>, RecordError> {
        self.section("result")
    }

    /// Writes the VM.
    pub fn set_vm(&mut self, vm: &Vm) {
        self.set("vm", Some(vm));
    }
    /// Writes or clears the network.
    pub fn set_net(&mut self, net: Option<&Net>) {
        self.set("net", net);
    }
    /// Writes or clears the disks.
    pub fn set_disk(&mut self, disk: Option<&Disk>) {
        self.set("disk", disk);
    }
    /// Writes or clears the VMM.
    pub fn set_vmm(&mut self, vmm: Option<&Vmm>) {
        self.set("vmm", vmm);
    }
    /// Writes or clears the workspace.
    pub fn set_workspace(&mut self, workspace: Option<&Workspace>) {
        self.set("workspace", workspace);
    }
    /// Writes the outcome.
    pub fn set_outcome(&mut self, outcome: &Outcome) {
        self.set("result", Some(outcome));
    }

    /// The timings so far. Entries of another shape are an error.
    pub fn timings(&self) -> Result<Vec<Timing>, RecordError> {
        Ok(self.section("timings")?.unwrap_or_default())
    }

    /// Appends timings. Where `timings` is not a list it becomes one.
    pub fn push_timings(&mut self, timings: impl IntoIterator<Item = Timing>) {
        let slot = self.0.entry("timings").or_insert(Value::Null);
        if !slot.is_array() {
            *slot = Value::Array(Vec::new());
        }
        let list = slot.as_array_mut().expect("it was just made a list");
        list.extend(timings.into_iter().map(|t| serde_json::to_value(t).expect("a timing is an object")));
    }

    /// Takes `section` of `other`, which ran side by side with this one, and the timings that it added beyond `base`.
    pub fn merge(&mut self, section: &'static str, other: &Self, base_timings: usize) {
        if let Some(value) = other.0.get(section) {
            self.0.insert(section.into(), value.clone());
        }
        let added = other.timings().unwrap_or_default().into_iter().skip(base_timings);
        self.push_timings(added);
    }

    /// The whole record as a JSON value.
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_pass_through_and_absent_sections_become_null() {
        let document = Document::parse(br#"{"schema":"banger.vm/1","x-mine":{"a":[1]},"vm":{}}"#).unwrap();
        let value = document.to_value();
        assert_eq!(value["x-mine"]["a"][0], 1);
        assert!(value["net"].is_null() && value.get("net").is_some());
        assert!(matches!(document.vm(), Err(RecordError::Section { section: "vm", .. })));
        assert!(matches!(document.required_net(), Err(RecordError::Missing("net"))));
    }

    #[test]
    fn sections_are_strict() {
        let text = br#"{"schema":"banger.vm/1","result":{"changed":true,"surprise":1}}"#;
        let error = Document::parse(text).unwrap().outcome().unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadInput);
    }

    #[test]
    fn wrong_documents_are_refused_with_their_code() {
        let code = |bytes: &[u8]| Document::parse(bytes).unwrap_err().code();
        assert_eq!(code(b" \n"), ErrorCode::NoInput);
        assert_eq!(code(b"{\"schema\":\"banger.vm/1\""), ErrorCode::BadInput);
        assert_eq!(code(b"[]"), ErrorCode::BadInput);
        assert_eq!(code(b"{} {}"), ErrorCode::BadInput);
        assert_eq!(code(b"{\"schema\":\"banger.vm/2\"}"), ErrorCode::UnsupportedSchema);
        let newer = Document::parse(b"{\"schema\":\"banger.vm/2\"}").unwrap_err();
        assert_eq!(
            newer.to_string(),
            "the record's schema is \"banger.vm/2\"; this program speaks \"banger.vm/1\""
        );
        assert_eq!(code(b"{}"), ErrorCode::UnsupportedSchema);
        assert_eq!(code(&vec![b' '; MAX_RECORD_BYTES as usize + 1]), ErrorCode::BadInput);
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        assert_eq!(code(&deep), ErrorCode::BadInput);
    }
}
