//! The one lock of banger-netd, and the patience with it.

use std::time::Duration;

/// The lock under which all changes to links and rules are made, whichever state directory they are for: whether a subnet is
/// free is a question about all of them.
pub const LOCK: &str = "netd.lock";

/// How long others may hold it. A change takes some 20 ms.
pub const PATIENCE: Duration = Duration::from_secs(20);
