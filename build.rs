//! Makes banger-guest available to banger-disk.

fn main() {}
