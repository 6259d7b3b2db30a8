//! Firecracker's program: its name, its versions, its limits.

/// The first Firecracker that banger speaks to: `(1, 14)`. nixpkgs 26.05 ships it.
pub const OLDEST: (u32, u32) = (1, 14);

/// The program's name.
pub const PROGRAM: &str = "firecracker";

/// The most vCPUs that Firecracker gives a VM.
pub const MAX_VCPUS: u8 = 32;

/// Whether the Firecracker of this version can tell a guest's driver the MTU; one that cannot refuses the field.
pub fn tells_mtu(version: &str) -> bool {
    numbers(version).is_some_and(|numbers| numbers >= FIRST_WITH_MTU)
}

/// The first that knows of MTUs.
const FIRST_WITH_MTU: (u32, u32) = (1, 16);

/// The first two numbers of a version; `None` where it has none.
pub fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']).map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
