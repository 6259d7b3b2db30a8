//! Patience with a package manager: fresh machines hold its locks for minutes with upgrades of their own, and networks fail for a moment.

use std::time::Duration;

use crate::sys::package_lock::{self, LockHolder, PackageLock};

use super::SetupError;
use crate::context::Result;

/// How long others may hold the locks.
const LOCK_LIMIT: Duration = Duration::from_secs(900);
/// How often is looked whether they still do.
const LOCK_INTERVAL: Duration = Duration::from_millis(500);
/// How long to wait where only the package manager itself may look at its locks.
const BLIND_INTERVAL: Duration = Duration::from_secs(5);
/// The pauses before what the network failed at is tried again.
const NETWORK_PAUSES: [Duration; 3] =
    [Duration::from_secs(2), Duration::from_secs(8), Duration::from_secs(30)];

/// What a package manager says when another process holds its lock: apt, dpkg, dnf, rpm, pacman, zypper.
const LOCKED: [&str; 6] = [
    "could not get lock",
    "was locked by another process",
    "failed to obtain rpm transaction lock",
    "transaction lock on",
    "unable to lock database",
    "system management is locked",
];

/// What it says when a network failed that may be back in a moment. apt has the words of its own methods, the others curl's.
const NETWORK: [&str; 19] = [
    "temporary failure resolving",
    "could not resolve",
    "couldn't resolve",
    "could not connect",
    "unable to connect",
    "connection failed",
    "connection timed out",
    "connection reset",
    "connection refused",
    "error reading from server",
    "network is unreachable",
    "timeout was reached",
    "hash sum mismatch",
    "unexpected size",
    "curl error",
    "500 internal server error",
    "502 bad gateway",
    "503 service unavailable",
    "504 gateway time",
];

/// The first of the lines in `complaints` that has one of `phrases`.
fn first<'a>(complaints: &'a str, phrases: &[&str]) -> Option<&'a str> {
    complaints.split("; ").find(|line| {
        // apt has two blanks behind a status of HTTP.
        let line = line.to_lowercase().replace("  ", " ");
        phrases.iter().any(|phrase| line.contains(phrase))
    })
}

/// What has been waited for so far.
pub struct Patience<'a> {
    locks: &'a [PackageLock<'a>],
    say: &'a dyn Fn(String),
    pause: &'a dyn Fn(Duration) -> Result<()>,
    pauses: std::slice::Iter<'static, Duration>,
    /// How long locks of others have been waited for.
    waited: Duration,
    told: Option<String>,
}

impl<'a> Patience<'a> {
    /// With these locks of the package manager, and how to tell people and to pause.
    pub fn new(
        locks: &'a [PackageLock<'a>],
        say: &'a dyn Fn(String),
        pause: &'a dyn Fn(Duration) -> Result<()>,
    ) -> Self {
        Self { locks, say, pause, pauses: NETWORK_PAUSES.iter(), waited: Duration::ZERO, told: None }
    }

    /// Waits until nobody is seen to hold a lock, and says for whom.
    pub fn wait_for_locks(&mut self) -> Result<()> {
        while let Some(holder) = package_lock::holder(self.locks) {
            self.wait_for(&holder)?;
        }
        Ok(())
    }

    /// Whether a try that failed with these `complaints` is worth another one, which can begin when this returns.
    pub fn wants_another_try(&mut self, complaints: &str) -> Result<bool> {
        if let Some(complaint) = first(complaints, &LOCKED) {
            match package_lock::holder(self.locks) {
                Some(holder) => self.wait_for(&holder)?,
                None => self.wait(BLIND_INTERVAL, complaint, None)?,
            }
            return Ok(true);
        }
        let Some(complaint) = first(complaints, &NETWORK) else { return Ok(false) };
        let Some(pause) = self.pauses.next() else { return Ok(false) };
        (self.say)(format!("the network failed, trying again in {} s: {complaint}", pause.as_secs()));
        (self.pause)(*pause)?;
        Ok(true)
    }

    fn wait_for(&mut self, holder: &LockHolder) -> Result<()> {
        self.wait(LOCK_INTERVAL, &format!("{holder}, which holds {}", holder.path), holder.pid)
    }

    /// Says that `whom` is waited for, once, and waits for `time`.
    fn wait(&mut self, time: Duration, whom: &str, pid: Option<i32>) -> Result<()> {
        if self.waited >= LOCK_LIMIT {
            let (holder, waited_s) = (whom.to_owned(), self.waited.as_secs());
            return Err(SetupError::Locked { holder, pid, waited_s }.into());
        }
        if self.told.as_deref() != Some(whom) {
            (self.say)(format!("waiting for {whom}"));
            self.told = Some(whom.to_owned());
        }
        self.waited += time;
        (self.pause)(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn what_managers_say_is_told_apart() {
        let locked = [
            "E: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 812 (unattended-upgr); E: Unable to acquire \
             the dpkg frontend lock (/var/lib/dpkg/lock-frontend), is another process using it?",
            "error: failed to synchronize all databases (unable to lock database)",
            "System management is locked by the application with pid 4711 (zypper).",
        ];
        for said in locked {
            assert!(first(said, &LOCKED).is_some() && first(said, &NETWORK).is_none(), "{said}");
        }
        assert!(first(locked[0], &LOCKED).unwrap().ends_with("(unattended-upgr)"));
        let network = [
            "W: Failed to fetch http://deb.example/dists/x/InRelease Temporary failure resolving 'deb.example'",
            "E: Failed to fetch http://deb.example/pool/q.deb  503  Service Unavailable [IP: 192.0.2.1 80]",
            "Curl error (6): Couldn't resolve host name for https://mirror.example/metalink",
        ];
        for said in network {
            assert!(first(said, &NETWORK).is_some() && first(said, &LOCKED).is_none(), "{said}");
        }
        for said in [
            "E: Unable to locate package qemu-system-x86",
            "E: Unable to acquire the dpkg frontend lock (/var/lib/dpkg/lock-frontend), are you root?",
            "",
        ] {
            assert!(first(said, &NETWORK).or(first(said, &LOCKED)).is_none(), "{said}");
        }
    }
    #[test]
    fn a_network_gets_three_more_chances_with_growing_pauses() {
        let (said, paused) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
        let say = |line: String| said.borrow_mut().push(line);
        let pause = |time: Duration| -> Result<()> {
            paused.borrow_mut().push(time.as_secs());
            Ok(())
        };
        let mut patience = Patience::new(&[], &say, &pause);
        assert!(!patience.wants_another_try("E: Unable to locate package x").unwrap());
        let tries =
            (0..9).take_while(|_| patience.wants_another_try("Could not resolve 'x'").unwrap()).count();
        assert_eq!((tries, paused.take()), (3, vec![2, 8, 30]));
        assert_eq!(said.take()[0], "the network failed, trying again in 2 s: Could not resolve 'x'");
    }

    #[test]
    fn a_lock_that_is_held_for_ever_is_given_up_at_last() {
        let pid_file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(pid_file.path(), std::process::id().to_string()).unwrap();
        let locks = [PackageLock::PidFile(pid_file.path().to_str().unwrap())];
        let (said, paused) = (RefCell::new(Vec::new()), RefCell::new(Duration::ZERO));
        let say = |line: String| said.borrow_mut().push(line);
        let pause = |time: Duration| -> Result<()> {
            *paused.borrow_mut() += time;
            Ok(())
        };
        let failure = Patience::new(&locks, &say, &pause).wait_for_locks().unwrap_err();
        assert_eq!(paused.take(), LOCK_LIMIT);
        assert_eq!(said.take().len(), 1, "it is said once");
        let fault = failure.into_fault("banger", "doctor");
        assert_eq!(fault.code, banger_contract::ErrorCode::Busy);
        assert!(fault.hint.unwrap().contains(&format!("ps -fp {}", std::process::id())));
    }
}
