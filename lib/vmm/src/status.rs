//! `status`: what is true of the VMM now.

use std::time::{Duration, Instant};

use super::exit;
use crate::sys::http;
use banger_contract::record::{Vmm, VmmState};
use banger_host::net::unix;
use banger_state::dir::VmDir;
use banger_state::handles::Handles;
use banger_state::lock::is_alive;

/// How long the agent may take to say that it is well. The supervisor gives up after 5 s.
const AGENT_LIMIT: Duration = Duration::from_secs(7);

/// The section as it should read now: `recorded`, or what the VM's directory says where that is `None`.
pub fn observe(dir: &VmDir, recorded: Option<Vmm>) -> Option<Vmm> {
    let vmm = Handles::load(dir).vmm.or(recorded)?;
    if is_alive(dir) {
        let agent_reachable = Some(agent_is_well(dir));
        return Some(Vmm { state: VmmState::Running, exit: None, agent_reachable, ..vmm });
    }
    let exit = Some(exit::load(dir, &vmm.started_at));
    Some(Vmm { state: VmmState::Exited, exit, agent_reachable: Some(false), ..vmm })
}

fn agent_is_well(dir: &VmDir) -> bool {
    let until = Instant::now() + AGENT_LIMIT;
    let answer = unix::connect(&dir.agent_socket())
        .and_then(|stream| http::exchange(stream, "GET", "/v1/healthz", "", until));
    matches!(answer, Ok((200, _)))
}
