//! How the fake is to behave, and what it tells the test.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Write, stderr, stdout};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

/// The variables, all of them optional. A *point* is `socket` (before the API socket is made), a request such as
/// `PUT /drives/root`, or `ready` (when the guest would say so).
pub struct Scenario {
    /// `FAKE_FC_VERSION`: which Firecracker to be; 1.14.0 otherwise.
    pub version: String,
    /// `FAKE_FC_GUEST`: `ready` (the default), `silent`, `failed` (pushes a failure and ends), `garbage` (pushes nonsense
    /// without end), `deaf` (says "ready" and answers nothing), `stubborn` (answers, and does not shut down).
    pub guest: String,
    /// `FAKE_FC_FAIL`: `POINT=STATUS:WORDS`, refuses the request there.
    fail: Option<(String, String)>,
    /// `FAKE_FC_EXIT`: `POINT=STATUS:WORDS`, ends there, the words in the log.
    exit: Option<(String, String)>,
    /// `FAKE_FC_HANG`: `POINT`, never gets beyond it.
    hang: Option<String>,
    /// `FAKE_FC_DELAY_MS`: milliseconds before the API socket is made and before the guest says "ready".
    delay: Duration,
    /// `FAKE_FC_RECORD`: a file that takes one JSON line for each thing that happens.
    record: Option<Mutex<File>>,
    log: Mutex<Option<File>>,
}

fn pair(text: &str) -> (String, String) {
    let (point, rest) = text.split_once('=').unwrap_or_else(|| panic!("{text:?} is not POINT=STATUS:WORDS"));
    (point.to_owned(), rest.to_owned())
}

impl Scenario {
    /// What the environment says.
    pub fn from_environment() -> Self {
        let mut variables: HashMap<String, String> =
            std::env::vars().filter(|(k, _)| k.starts_with("FAKE_FC_")).collect();
        let mut take = |name: &str| variables.remove(&format!("FAKE_FC_{name}")).filter(|v| !v.is_empty());
        let append = |path: String| OpenOptions::new().create(true).append(true).open(path);
        let scenario = Self {
            version: take("VERSION").unwrap_or_else(|| "1.14.0".to_owned()),
            guest: take("GUEST").unwrap_or_else(|| "ready".to_owned()),
            fail: take("FAIL").map(|text| pair(&text)),
            exit: take("EXIT").map(|text| pair(&text)),
            hang: take("HANG"),
            delay: Duration::from_millis(
                take("DELAY_MS").map_or(0, |ms| ms.parse().expect("FAKE_FC_DELAY_MS is a number")),
            ),
            record: take("RECORD")
                .map(|path| Mutex::new(append(path).expect("FAKE_FC_RECORD can be written"))),
            log: Mutex::new(None),
        };
        assert!(variables.is_empty(), "unknown variables: {variables:?}");
        scenario
    }

    /// Opens Firecracker's log; stdout otherwise, as Firecracker does.
    pub fn open_log(&self, path: Option<&str>) {
        let open = |path: &str| {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.unwrap_or_else(|e| self.die(1, &format!("Could not initialize logger: {path}: {e}")))
        };
        *self.log.lock().expect("nobody panics with the log") = path.map(open);
    }

    /// A line of Firecracker's log.
    pub fn say(&self, words: &str) {
        let line = format!("2026-01-01T00:00:00.000000000 [fake] {words}\n");
        match &mut *self.log.lock().expect("nobody panics with the log") {
            Some(file) => drop(file.write_all(line.as_bytes())),
            None => drop(stdout().write_all(line.as_bytes())),
        }
    }

    /// Tells the test what happened.
    pub fn note(&self, event: Value) {
        if let Some(file) = &self.record {
            let line = format!("{event}\n");
            file.lock()
                .expect("nobody panics with the record")
                .write_all(line.as_bytes())
                .expect("the record grows");
        }
    }

    /// Ends as Firecracker does: the reason in its log and on stderr.
    pub fn die(&self, status: i32, words: &str) -> ! {
        if !words.is_empty() {
            self.say(words);
            drop(stderr().write_all(format!("Error: {words}\n").as_bytes()));
        }
        self.note(json!({"exit": status}));
        std::process::exit(status)
    }

    /// Misbehaves if `point` is where it is to: ends, hangs, or gives the refusal (status and words).
    pub fn perhaps(&self, point: &str, body: Option<&str>) -> Option<(u16, String)> {
        if point == "socket" || point == "ready" {
            std::thread::sleep(self.delay);
        }
        if let Some((_, rest)) = self.exit.as_ref().filter(|(p, _)| p == point) {
            let (status, words) = rest.split_once(':').unwrap_or((rest, ""));
            self.note(json!({"request": point, "body": body}));
            self.die(status.parse().expect("FAKE_FC_EXIT has a status"), words);
        }
        if self.hang.as_deref() == Some(point) {
            self.note(json!({"hang": point}));
            loop {
                std::thread::park();
            }
        }
        let (_, rest) = self.fail.as_ref().filter(|(p, _)| p == point)?;
        let (status, words) = rest.split_once(':').expect("FAKE_FC_FAIL is POINT=STATUS:WORDS");
        Some((status.parse().expect("FAKE_FC_FAIL has a status"), words.to_owned()))
    }
}
