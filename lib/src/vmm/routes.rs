//! What the supervisor's socket serves: `/v1/stop` and `/v1/kill` itself, every other `/v1/…` by the guest's agent.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::agent::{Agent, Answer};
use super::exit::Cause;
use super::server::{Request, Server};

/// The longest path that is forwarded, bytes.
const MAX_PATH: usize = 64;

/// The body of `POST /v1/stop`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    deadline_ms: u64,
}

/// Which client waits for which of the agent's answers.
#[derive(Debug, Default)]
pub struct Routes {
    waiting: Vec<(u64, u64)>,
}

impl Routes {
    /// Serves `request`, or passes it on. Where it is one to end the VM: why, and how long that may take.
    pub fn ask(
        &mut self,
        server: &mut Server,
        agent: &mut Agent,
        client: u64,
        request: &Request,
    ) -> Option<(Cause, Duration)> {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/v1/kill") => {
                server.answer(client, 202, &json!({ "state": "killing" }));
                Some((Cause::Killed, Duration::ZERO))
            }
            ("POST", "/v1/stop") => match serde_json::from_slice(&request.body) {
                Ok(Stop { deadline_ms }) => {
                    server.answer(client, 202, &json!({ "state": "stopping" }));
                    Some((Cause::Stopped, Duration::from_millis(deadline_ms)))
                }
                Err(error) => {
                    server.answer(client, 400, &json!({ "error": error.to_string() }));
                    None
                }
            },
            ("GET" | "POST", path) if is_forwarded(path) => {
                let ticket = agent.ask(&request.method, path);
                self.waiting.push((ticket, client));
                None
            }
            _ => {
                server.answer(client, 404, &json!({ "error": "no such thing is served here" }));
                None
            }
        }
    }

    /// Passes the agent's answer on to the client that waits for it.
    pub fn answer(&mut self, server: &mut Server, ticket: u64, answer: Answer) {
        let Some(index) = self.waiting.iter().position(|(t, _)| *t == ticket) else { return };
        let (_, client) = self.waiting.swap_remove(index);
        match answer {
            Answer::Reply { status, body } => server.answer(client, status, &body),
            Answer::Malformed => {
                server.answer(client, 502, &json!({ "error": "the guest's reply is malformed" }))
            }
            Answer::Late => {
                server.answer(client, 504, &json!({ "error": "the guest did not reply in time" }))
            }
            Answer::Unreachable => {
                server.answer(client, 503, &json!({ "error": "the guest's agent cannot be reached" }));
            }
        }
    }
}

fn is_forwarded(path: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'/' | b'_' | b'-');
    path.len() <= MAX_PATH
        && path.strip_prefix("/v1/").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
}
