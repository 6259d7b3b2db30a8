//! A Firecracker that boots nothing: a whole program for tests on machines without KVM. It makes the API socket, speaks
//! Firecracker's HTTP, refuses what Firecracker refuses (`api.json` is its description) with Firecracker's own words, opens the
//! files it is told of, makes the vsock's socket, and plays a guest that says "ready" and answers the agent's requests.
//!
//! It is an example of the package, so that cargo builds it with the tests and never installs it. How it is to misbehave is
//! said by the variables of [`scenario::Scenario`].

#![allow(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "dying in the middle of a request is what it is for"
)]

mod guest;
mod http;
mod machine;
mod scenario;
mod schema;

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use machine::Machine;
use scenario::Scenario;
use serde_json::json;

/// `FcExitCode::ArgParsing`.
const BAD_ARGUMENTS: i32 = 153;

/// What stands on the command line.
struct Arguments {
    api_sock: String,
    id: String,
    log_path: Option<String>,
}

fn main() {
    let scenario = Arc::new(Scenario::from_environment());
    scenario.note(json!({"argv": std::env::args().skip(1).collect::<Vec<_>>(), "pid": std::process::id()}));
    let arguments = arguments(&scenario);
    scenario.open_log(arguments.log_path.as_deref());
    scenario.perhaps("socket", None);
    // Real words: a socket that is there already, stale or not, ends Firecracker.
    let listener = UnixListener::bind(&arguments.api_sock).unwrap_or_else(|_| {
        let message = "Failed to open the API socket at: {}. Check that it is not already used.";
        scenario.die(1, &message.replace("{}", &arguments.api_sock))
    });
    scenario.say("Listening on API socket");
    let machine = Arc::new(Mutex::new(Machine::new(arguments.id, Arc::clone(&scenario))));
    for stream in listener.incoming() {
        let (machine, scenario) = (Arc::clone(&machine), Arc::clone(&scenario));
        let stream = stream.expect("the API socket accepts");
        std::thread::spawn(move || serve(stream, &machine, &scenario));
    }
}

/// Answers the requests of one connection.
fn serve(stream: UnixStream, machine: &Mutex<Machine>, scenario: &Scenario) {
    let mut connection = http::Connection::new(stream);
    while let Some(request) = connection.read_request() {
        let name = format!("{} {}", request.method, request.path);
        let body = String::from_utf8_lossy(&request.body).into_owned();
        let refusal = scenario.perhaps(&name, Some(&body));
        let answer = match refusal {
            Some((status, fault)) => (status, json!({"fault_message": fault})),
            None => machine.lock().expect("no request panics").answer(&request),
        };
        let (status, reply) = answer;
        let seen = serde_json::from_str(&body).unwrap_or(json!(body));
        scenario.note(json!({"request": name, "body": seen, "status": status, "reply": reply}));
        scenario.say(&format!("{name} with body {body}: {status}"));
        if connection.reply(status, &reply).is_err() {
            return;
        }
        if name == "PUT /actions" && status == 204 {
            machine.lock().expect("no request panics").boot();
        }
    }
}

/// The arguments that Firecracker knows and banger may use; any other ends it.
fn arguments(scenario: &Scenario) -> Arguments {
    let bad = |problem: String| -> ! {
        scenario.die(BAD_ARGUMENTS, &format!("Arguments parsing error: {problem}"))
    };
    let mut parsed =
        Arguments { api_sock: String::new(), id: "anonymous-instance".to_owned(), log_path: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value =
            || words.next().unwrap_or_else(|| bad(format!("The argument '{word}' requires a value.")));
        match word.as_str() {
            "--version" => {
                writeln!(std::io::stdout(), "Firecracker v{}\n", scenario.version).expect("stdout is there");
                std::process::exit(0);
            }
            "--api-sock" => parsed.api_sock = value(),
            "--id" => parsed.id = value(),
            "--log-path" => parsed.log_path = Some(value()),
            "--level" => drop(value()),
            "--show-level" | "--show-log-origin" | "--enable-pci" | "--boot-timer" => {}
            _ => {
                bad(format!("Found argument '{word}' which wasn't expected, or isn't valid in this context."))
            }
        }
    }
    let id_is_valid = (1..=64).contains(&parsed.id.len())
        && parsed.id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if !id_is_valid {
        scenario.die(134, "Invalid instance ID");
    }
    parsed
}
