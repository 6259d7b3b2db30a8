//! Tier `vm`: real virtual machines through banger itself.

#[path = "../support/mod.rs"]
mod support;
