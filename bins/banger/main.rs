//! `banger`: the program for people. See man/banger.1.

fn main() {}
