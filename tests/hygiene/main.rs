//! Tier `hygiene`: the layer rules and the state of the tree.
