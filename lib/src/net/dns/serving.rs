//! Who serves a bridge: at most one process, which holds a lock and says in it which bridge it is for.

use std::time::{Duration, Instant};

use super::serve::ServeError;
use crate::sys::rootlock::{self, Beacon};
use crate::types::StateId;

/// What a server says that has seen its last VM go and is about to end.
const ENDING: &str = "ending";

/// How long a server that ends may take.
const PATIENCE: Duration = Duration::from_secs(5);

fn lock_name(state: &StateId) -> String {
    format!("dns-{state}.lock")
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
    pub fn claim(state: &StateId, bridge: u32) -> Result<Option<Self>, ServeError> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(beacon) = Beacon::light(&lock_name(state))? {
                let serving = Self { beacon, bridge };
                // Those who ask from now on wait until this one can be asked.
                serving.say(ENDING)?;
                return Ok(Some(serving));
            }
            if bridge_served(state) == Some(bridge) {
                return Ok(None);
            }
            if Instant::now() >= until {
                return Err(ServeError::Stuck(state.clone()));
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
}

/// The number of the bridge whose resolver runs; `None` where none of this state directory does.
pub fn bridge_served(state: &StateId) -> Option<u32> {
    rootlock::beacon(&lock_name(state))?.parse().ok()
}
