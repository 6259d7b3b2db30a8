//! Checking: the record against what the kernel holds.

use banger_contract::record::{Net, NetMode, Vm};

use crate::bridge::{absent, present};
use crate::caller::Caller;
use crate::request::{Names, TapRequest};
use crate::{NetError, user};

/// Compares the record's network with the host. Nothing is changed.
///
/// # Errors
/// [`NetError::Mismatch`] with every difference; or the record is not valid, or the rules cannot be read.
pub fn check(vm: &Vm, net: Option<Net>, caller: &Caller) -> Result<(), NetError> {
    let differences = match (vm.net_mode, net) {
        (NetMode::User, None) => Vec::new(),
        (NetMode::User, Some(net)) => {
            user::attach(vm, caller, Some(net))?;
            Vec::new()
        }
        (NetMode::Tap, None) => absent(&Names::new(vm, caller)?)?,
        (NetMode::Tap, Some(net)) => present(&TapRequest::new(vm, caller)?, &net, caller)?,
    };
    if differences.is_empty() {
        return Ok(());
    }
    Err(NetError::Mismatch { vm: vm.id.clone(), differences })
}
