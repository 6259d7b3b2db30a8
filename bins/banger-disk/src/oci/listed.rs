//! Lists in JSON that others wrote: of a few megabytes of it, hundreds of thousands of entries could come, each larger in memory.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};

/// The most entries.
const MAX_LISTED: usize = 10_000;

/// A list of a bounded length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T>(pub Vec<T>);

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for Listed<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Listed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
            type Value = Vec<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_LISTED} entries")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Vec<T>, A::Error> {
                let mut list = Vec::new();
                while let Some(entry) = entries.next_element()? {
                    if list.len() == MAX_LISTED {
                        return Err(A::Error::custom(format_args!(
                            "a list has more than {MAX_LISTED} entries"
                        )));
                    }
                    list.push(entry);
                }
                Ok(list)
            }
        }
        deserializer.deserialize_seq(List(PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_long_as_it_may_be() {
        let list =
            |count: usize| serde_json::from_str::<Listed<u8>>(&format!("[{}]", vec!["1"; count].join(",")));
        assert_eq!(list(0).unwrap().len(), 0);
        assert_eq!(list(MAX_LISTED).unwrap().len(), MAX_LISTED);
        assert!(list(MAX_LISTED + 1).unwrap_err().to_string().contains("more than 10000"));
        assert!(serde_json::from_str::<Listed<u8>>("{}").is_err());
    }
}
