//! A VM's time to live: when it is over, and when its guest is told that it soon will be.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// How long before the end the guest is warned, seconds, the first warning first.
const WARNINGS_S: [u64; 3] = [300, 60, 10];

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// The guest is to be told that so many seconds are left.
    Warn(u64),
    /// The time is over.
    Over,
}

/// How long the VM has.
#[derive(Debug, Default)]
pub struct Ttl {
    over: Option<Instant>,
    expires_at: Option<String>,
    /// How many of [`WARNINGS_S`] are behind it.
    warned: usize,
}

impl Ttl {
    /// So many seconds from now; `None`: for ever.
    pub fn from_now(ttl_s: Option<u64>) -> Self {
        let over = ttl_s.and_then(|s| Instant::now().checked_add(Duration::from_secs(s)));
        let span = ttl_s.and_then(|s| i64::try_from(s).ok()).map(SignedDuration::from_secs);
        let expires_at = span.and_then(|span| Timestamp::now().checked_add(span).ok());
        let warned = WARNINGS_S.iter().filter(|before| ttl_s.is_some_and(|ttl_s| ttl_s <= **before)).count();
        Self { over, expires_at: expires_at.map(|at| format!("{at:.3}")), warned }
    }

    /// When that is, RFC 3339.
    pub fn expires_at(&self) -> Option<String> {
        self.expires_at.clone()
    }

    /// When [`Self::due`] has something to tell.
    pub fn wake(&self) -> Option<Instant> {
        let before = WARNINGS_S.get(self.warned).copied().unwrap_or(0);
        self.over.and_then(|over| over.checked_sub(Duration::from_secs(before)))
    }

    /// What is due at `now`. A warning is told once.
    pub fn due(&mut self, now: Instant) -> Option<Due> {
        let over = self.over?;
        if over <= now {
            return Some(Due::Over);
        }
        if self.wake()? > now {
            return None;
        }
        self.warned += 1;
        Some(Due::Warn((over - now).as_secs() + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_come_once_each_and_before_the_end() {
        let mut ttl = Ttl::from_now(Some(200));
        let over = ttl.over.unwrap();
        assert_eq!(ttl.due(Instant::now()), None);
        assert_eq!(ttl.wake(), Some(over - Duration::from_secs(60)), "five minutes before is over already");
        assert_eq!(ttl.due(over - Duration::from_millis(59_900)), Some(Due::Warn(60)));
        assert_eq!(ttl.due(over - Duration::from_millis(59_900)), None);
        assert_eq!(ttl.due(over - Duration::from_millis(9_500)), Some(Due::Warn(10)));
        assert_eq!(ttl.due(over - Duration::from_millis(1)), None);
        assert_eq!(ttl.due(over), Some(Due::Over));
        assert_eq!(Ttl::from_now(None).wake(), None);
        let before = Instant::now();
        assert!(Ttl::from_now(Some(5)).wake().unwrap() >= before + Duration::from_secs(5));
        assert!(Ttl::from_now(Some(u64::MAX)).expires_at().is_none());
    }
}
