//! Tier `vm`: real virtual machines through banger itself.
