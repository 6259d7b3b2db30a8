//! What the supervisor's socket serves: `/v1/stop` and `/v1/kill` itself, every other `/v1/…` by the guest's agent.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::agent::{Agent, Answer};
use super::server::{Request, Server};
use super::shutdown::Deadlines;

/// The longest path that is forwarded, bytes.
const MAX_PATH: usize = 64;

/// The body of `POST /v1/stop`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How long the guest may take once its agent was asked.
    deadline_ms: u64,
    /// How long it may take once its power button was pressed; the same where this is absent.
    #[serde(default)]
    button_ms: Option<u64>,
    /// How long the VMM may take after SIGTERM.
    #[serde(default)]
    term_ms: Option<u64>,
}

impl From<Deadlines> for StopRequest {
    fn from(deadlines: Deadlines) -> Self {
        let ms = |limit: Duration| limit.as_millis().try_into().unwrap_or(u64::MAX);
        let Deadlines { agent, button, term } = deadlines;
        Self { deadline_ms: ms(agent), button_ms: Some(ms(button)), term_ms: Some(ms(term)) }
    }
}

impl StopRequest {
    /// The deadlines that it asks for; `usual` are those of a request that leaves them to us.
    fn deadlines(&self, usual: Deadlines) -> Deadlines {
        let agent = Duration::from_millis(self.deadline_ms);
        Deadlines {
            agent,
            button: self.button_ms.map_or(agent, Duration::from_millis),
            term: self.term_ms.map_or(usual.term, Duration::from_millis),
        }
    }
}

/// How a client wants the VM to end.
#[derive(Debug, Clone, Copy)]
pub enum Ending {
    /// At once.
    Kill,
    /// In order.
    Stop(Deadlines),
}

/// Which client waits for which of the agent's answers.
#[derive(Debug, Default)]
pub struct Routes {
    waiting: Vec<(u64, u64)>,
}

impl Routes {
    /// Serves `request`, or passes it on. Where it is one to end the VM: how. `usual` are the VM's own deadlines.
    pub fn ask(
        &mut self,
        server: &mut Server,
        agent: &mut Agent,
        client: u64,
        request: &Request,
        usual: Deadlines,
    ) -> Option<Ending> {
        match (request.method.as_str(), request.path.as_str()) {
            ("POST", "/v1/kill") => {
                server.answer(client, 202, &json!({ "state": "killing" }));
                Some(Ending::Kill)
            }
            ("POST", "/v1/stop") => match serde_json::from_slice(&request.body) {
                Ok(stop) => {
                    let stop: StopRequest = stop;
                    server.answer(client, 202, &json!({ "state": "stopping" }));
                    Some(Ending::Stop(stop.deadlines(usual)))
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
