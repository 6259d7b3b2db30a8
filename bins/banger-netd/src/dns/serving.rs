//! Who serves a bridge: at most one process, which holds a lock and says in it which bridge it is for.

use std::time::{Duration, Instant};

use banger_host::fs::rootlock::{self, Beacon};

use crate::NetError;
use crate::dns::error::ServeError;
use crate::realm::Realm;

/// What a server says that has seen its last VM go and is about to end.
const ENDING: &str = "ending";

/// How long a server that ends may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn lock_name(realm: &Realm) -> String {
    format!("dns-{}.lock", realm.key())
}

/// The proof that this process alone serves a state directory's bridge.
#[derive(Debug)]
pub struct Serving {
    beacon: Beacon,
    bridge: u32,
}

impl Serving {
    /// Takes the lock for the bridge with the number `bridge`; `None` where a server of that very bridge has it. One of an older
    /// bridge is waited for: it is ending.
    ///
    /// # Errors
    /// Another server does not end, or the lock cannot be used.
    pub fn claim(realm: &Realm, bridge: u32) -> Result<Option<Self>, ServeError> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(beacon) = Beacon::light(&lock_name(realm)).map_err(NetError::from)? {
                let serving = Self { beacon, bridge };
                // Those who ask from now on wait until this one can be asked.
                serving.say(ENDING)?;
                return Ok(Some(serving));
            }
            if bridge_served(realm) == Some(bridge) {
                return Ok(None);
            }
            if Instant::now() >= until {
                return Err(ServeError::Stuck(realm.state().clone()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn say(&self, text: &str) -> Result<(), ServeError> {
        self.beacon.say(text).map_err(ServeError::io("write the resolver's lock file"))
    }

    /// Says that questions are answered.
    pub fn announce(&self) -> Result<(), ServeError> {
        self.say(&self.bridge.to_string())
    }

    /// Says that it is about to end. Look once more whether it may after this: who came before has counted on this server, who
    /// comes after starts another.
    pub fn retract(&self) -> Result<(), ServeError> {
        self.say(ENDING)
    }

    /// Keeps the lock until this process is no more: its threads hold the port as long, and whoever comes next wants that.
    pub fn keep(self) {
        std::mem::forget(self.beacon);
    }
}

/// Whether the bridge of a state directory, as it is now, has a resolver that answers.
pub fn is_served(realm: &Realm) -> bool {
    let index = nix::net::if_::if_nametoindex(realm.bridge().as_str());
    index.is_ok_and(|index| bridge_served(realm) == Some(index))
}

/// Whether a resolver of a state directory runs, be it beginning or ending.
pub fn runs(realm: &Realm) -> bool {
    rootlock::beacon(&lock_name(realm)).is_some()
}

/// The number of the bridge whose resolver runs; `None` where none of this state directory does.
fn bridge_served(realm: &Realm) -> Option<u32> {
    rootlock::beacon(&lock_name(realm))?.parse().ok()
}
