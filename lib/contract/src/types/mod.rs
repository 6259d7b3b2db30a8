//! Values that are parsed once at the edge and trusted afterwards: a [`VmName`] is a valid name wherever it appears.
//!
//! Every type here validates in [`std::str::FromStr`] ([`Environment`], which is not a string: where it is set), serialises as what it was
//! parsed from, and so is validated again whenever a record or a database row is read. Nothing here touches the host.

mod cidr;
mod environment;
mod id;
mod name;
mod proxy;
mod size;
mod span;

pub use cidr::{Cidr, MacAddr, ParseCidrError, ParseMacError};
pub use environment::{Environment, EnvironmentError, is_variable};
pub use id::{ParseIdError, StateId, VmId};
pub use name::{ImageName, KernelName, LinkName, ParseNameError, VmName};
pub use proxy::{ParseProxyError, Proxy};
pub use size::{ParseSizeError, Size};
pub use span::{ParseSpanError, Span};

/// Implements `Serialize`, `Deserialize` and `JsonSchema` through `Display` and `FromStr`.
macro_rules! string_type {
    ($name:ty, $pattern:expr) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "pattern": $pattern })
            }
        }
    };
}
pub(crate) use string_type;
