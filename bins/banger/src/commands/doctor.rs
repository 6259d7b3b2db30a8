//! `banger doctor`: what this host can do and what it lacks.

use std::process::ExitCode;

use banger_cli::plumbing;
use banger_contract::ErrorCode;
use banger_contract::reply::{Check, CheckState, Checkup, DOCTOR_SCHEMA};
use banger_disk::sys::mmdebstrap::{self, SUBUID_FIX};
use banger_host::kvm;
use banger_host::process::exec;
use banger_netd::firewall::{self, Firewall};
use banger_netd::networkd::{self, Managed};
use clap::Args;

use crate::context::{self, Context, Result};
use crate::{resolver, setup, space, subnet, table, vmm};

#[derive(Debug, Args)]
pub struct Doctor {
    /// Install what is missing, without asking
    #[arg(long)]
    pub setup: bool,
}

pub fn doctor(context: &Context, args: &Doctor) -> Result<ExitCode> {
    if args.setup && !context.explain {
        setup::install(context, &[])?;
    }
    let missing = setup::missing();
    let fix = (!missing.is_empty()).then(|| setup::command_line(&missing)).flatten();
    if context.explain {
        return Ok(context::print(&format!("{}\n", fix.as_deref().unwrap_or("nothing to install"))));
    }
    let mut checks: Vec<Check> = setup::NEEDED.iter().map(check_program).collect();
    checks.extend([check_kvm(context), check_firecracker(context), check_tun(), check_state(context)]);
    checks.extend(resolver::checkup(context));
    checks.extend(space::checks(context));
    checks.extend(check_subuid());
    checks.extend(subnet::check(context).unwrap_or_else(|failure| {
        let detail = failure.into_fault("banger", "doctor").human_line();
        Some(Check { name: "subnet".into(), state: CheckState::Note, detail })
    }));
    checks.extend(check_firewalls());
    checks.extend(check_networkd());
    let well = checks.iter().all(|check| check.state != CheckState::Missing);
    let printed = if context.json {
        let schema = DOCTOR_SCHEMA.to_owned();
        context::emit(&plumbing::value(&Checkup { schema, ok: well, items: checks, fix }))
    } else {
        let rows = checks
            .iter()
            .map(|check| vec![check.state.as_str().to_owned(), check.name.clone(), check.detail.clone()]);
        let printed = context::print(&table::table(&["STATE", "WHAT", "DETAIL"], rows));
        if let Some(fix) = fix {
            context.say(format!("to install what is missing: banger doctor --setup, or: {fix}"));
        }
        printed
    };
    Ok(if well { printed } else { ExitCode::from(ErrorCode::Unsupported.exit_status()) })
}

fn check_program(needed: &setup::Needed) -> Check {
    let (state, detail) = match exec::find_program(needed.program.as_ref()) {
        Some(path) => (CheckState::Ok, path.display().to_string()),
        None if needed.required => (CheckState::Missing, needed.purpose.to_owned()),
        None => (CheckState::Note, format!("not installed: {}", needed.purpose)),
    };
    Check { name: needed.program.to_owned(), state, detail }
}

fn check_kvm(context: &Context) -> Check {
    let (state, detail) = match kvm::usable() {
        Err(reason) if context.config.force_kvm => {
            (CheckState::Note, format!("{reason}: it is used all the same, as vmm.force_kvm says"))
        }
        Ok(()) => (CheckState::Ok, "hardware virtualization".to_owned()),
        Err(reason) => (CheckState::Note, format!("{reason}: VMs run in software, several times slower")),
    };
    Check { name: "kvm".into(), state, detail }
}

fn check_firecracker(context: &Context) -> Check {
    let (state, detail) = match (vmm::firecracker(&context.config), &context.config.firecracker_bin) {
        (Some(path), _) => (CheckState::Ok, path.display().to_string()),
        (None, Some(path)) => {
            (CheckState::Missing, format!("{}: vmm.firecracker_bin is not a program", path.display()))
        }
        (None, None) => (CheckState::Note, "not installed: QEMU is used".to_owned()),
    };
    Check { name: "firecracker".into(), state, detail }
}

fn check_tun() -> Check {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let root = rustix::process::geteuid().is_root();
    let (state, detail) = match opened {
        Ok(_) if root => (CheckState::Ok, "VMs get a tap".to_owned()),
        Ok(_) => (CheckState::Note, "VMs get user networking; --net tap goes through sudo".to_owned()),
        Err(error) => (CheckState::Note, format!("/dev/net/tun: {error}: VMs get user networking")),
    };
    Check { name: "tap".into(), state, detail }
}

/// Whether an ordinary user may build images; root always may, and without newuidmap(1) that is said already.
fn check_subuid() -> Option<Check> {
    let uid = rustix::process::geteuid();
    exec::find_program("newuidmap".as_ref()).filter(|_| !uid.is_root())?;
    let user = nix::unistd::User::from_uid(uid.as_raw().into()).ok().flatten().map(|user| user.name);
    let user = user.unwrap_or_default();
    let (state, detail) = match mmdebstrap::check_user_namespace(&user, uid.as_raw()) {
        Ok(()) => (CheckState::Ok, "/etc/subuid gives this user a range".to_owned()),
        Err(error) => (CheckState::Note, format!("{error}; as root: {SUBUID_FIX} {user}")),
    };
    Some(Check { name: "subuid".into(), state, detail })
}

/// Other firewalls that drop what VMs send. Rules are shown to root only, and VMs of others have no tap.
fn check_firewalls() -> Vec<Check> {
    if !rustix::process::geteuid().is_root() {
        return Vec::new();
    }
    let check = |firewall: Firewall| {
        let detail = format!(
            "{} drops what is forwarded: give VMs --open-firewall, or let them through yourself",
            firewall.name()
        );
        Check { name: "firewall".into(), state: CheckState::Note, detail }
    };
    // Where the rules cannot be seen there is no privilege for a tap either, which is said above.
    firewall::present().unwrap_or_default().into_iter().map(check).collect()
}

/// Whether links of VMs are taken for the host's own networks.
fn check_networkd() -> Option<Check> {
    let Managed { link, file } = networkd::managed()?;
    let detail = format!(
        "systemd-networkd configures {link} by {file}, and may take its address away; to have it leave VMs' links alone: {}",
        networkd::REMEDY
    );
    Some(Check { name: "networkd".into(), state: CheckState::Note, detail })
}

fn check_state(context: &Context) -> Check {
    let root = context.state.root();
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
    let detail = root.display().to_string();
    match rustix::fs::access(existing, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Check { name: "state".into(), state: CheckState::Ok, detail },
        Err(errno) => {
            Check { name: "state".into(), state: CheckState::Missing, detail: format!("{detail}: {errno}") }
        }
    }
}
