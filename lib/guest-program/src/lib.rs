//! banger-guest, built for the guest by this crate's build script: what runs inside every VM and compares its files with what was sent. It
//! is embedded, so that there is no companion file to lose.

/// The program: a static executable.
pub static BYTES: &[u8] = include_bytes!(env!("BANGER_GUEST_BIN"));

/// Where the build put it. It is of no use but to tests.
pub const BUILT_AT: &str = env!("BANGER_GUEST_BIN");
