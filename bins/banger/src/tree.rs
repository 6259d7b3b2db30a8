//! The tree of verbs.

use clap::{Args, Parser, Subcommand};

use crate::commands::completion::Completion;
use crate::commands::config::ConfigArgs;
use crate::commands::dns;
use crate::commands::doctor::Doctor;
use crate::commands::image::Image;
use crate::commands::kernel::Kernel;
use crate::commands::vm::delete::Delete;
use crate::commands::vm::exec::Exec;
use crate::commands::vm::prune::Prune;
use crate::commands::vm::run::Run;
use crate::commands::vm::set::Set;
use crate::commands::vm::show::Show;
use crate::commands::vm::ssh::Ssh;
use crate::commands::vm::start::Start;
use crate::commands::vm::stats::StatsArgs;
use crate::commands::vm::stop::Stop;
use crate::commands::vm::{apply, diff, fetch, logs, reset, workspace};
use crate::context::Globals;
use crate::options::OneVm;
use crate::options::spec::NamedSpec;

/// Disposable, hardware-isolated Linux VMs around a git checkout
#[derive(Debug, Parser)]
#[command(name = "banger", version, max_term_width = 110)]
pub struct Banger {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, run and inspect VMs
    Vm(Box<Vm>),
    /// List VMs (the same as `vm list`)
    Ps,
    /// Build and inspect images
    Image(Image),
    /// Have this host resolve the names of VMs: NAME.vm
    Dns(dns::Dns),
    /// Import and inspect kernels that are not part of an image
    Kernel(Kernel),
    /// Remove what crashed commands left behind
    Gc,
    /// Say what this host can do and what it lacks
    Doctor(Doctor),
    /// Show and check the configuration
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completion(Completion),
}

impl Command {
    /// The verb's name for error records.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Vm(vm) => match vm.command {
                VmCommand::Run(_) => "vm run",
                VmCommand::Plan(_) => "vm plan",
                VmCommand::Create(_) => "vm create",
                VmCommand::Start(_) => "vm start",
                VmCommand::Stop(_) => "vm stop",
                VmCommand::Delete(_) => "vm delete",
                VmCommand::Show(_) => "vm show",
                VmCommand::List => "vm list",
                VmCommand::Set(_) => "vm set",
                VmCommand::Net(_) => "vm net",
                VmCommand::Logs(_) => "vm logs",
                VmCommand::Stats(_) => "vm stats",
                VmCommand::Ports(_) => "vm ports",
                VmCommand::Health(_) => "vm health",
                VmCommand::Prune(_) => "vm prune",
                VmCommand::Exec(_) => "vm exec",
                VmCommand::Ssh(_) => "vm ssh",
                VmCommand::Diff(_) => "vm diff",
                VmCommand::Apply(_) => "vm apply",
                VmCommand::Reset(_) => "vm reset",
                VmCommand::Fetch(_) => "vm fetch",
                VmCommand::Workspace(_) => "vm workspace",
            },
            Self::Ps => "ps",
            Self::Image(_) => "image",
            Self::Dns(dns) => dns.command.verb(),
            Self::Kernel(_) => "kernel",
            Self::Gc => "gc",
            Self::Doctor(_) => "doctor",
            Self::Config(_) => "config",
            Self::Completion(_) => "completion",
        }
    }
}

#[derive(Debug, Args)]
pub struct Vm {
    #[command(subcommand)]
    pub command: VmCommand,
}

#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Boot a VM, copy a checkout into it, run a command there, bring exit code and patch back
    Run(Box<Run>),
    /// Define a VM and print its record: the beginning of a pipeline
    Plan(NamedSpec),
    /// Define a VM without starting it
    Create(NamedSpec),
    /// Start a VM
    Start(Start),
    /// Shut a VM down; its disks stay
    Stop(Stop),
    /// Delete a VM and its disks
    #[command(visible_alias = "rm")]
    Delete(Delete),
    /// Show one VM
    Show(Show),
    /// List VMs
    #[command(visible_alias = "ps")]
    List,
    /// Change a VM, at once where it runs: what it may reach, its disks, limits and time to live
    Set(Set),
    /// Show a VM's network: policy, addresses, published ports, and what its rules have counted
    Net(OneVm),
    /// Show what the guest's console or the VMM printed
    Logs(logs::Logs),
    /// Show what running VMs use: processor, memory, disks, network
    Stats(StatsArgs),
    /// List the sockets in a running VM that wait for connections
    Ports(OneVm),
    /// Say whether a VM runs and its agent answers
    Health(OneVm),
    /// Delete VMs that do not run
    Prune(Prune),
    /// Run a command in a running VM's workspace
    Exec(Exec),
    /// Show what changed in a running VM's workspace
    Diff(diff::Diff),
    /// Apply what changed in a running VM's workspace to the checkout, all of it or nothing
    Apply(apply::Apply),
    /// Throw away what changed in a running VM's workspace
    Reset(reset::Reset),
    /// Make the commits of a running VM's workspace a branch of the checkout's repository
    Fetch(fetch::Fetch),
    /// Copy the checkout into a running VM again, or list what changed there
    Workspace(workspace::Verbs),
    /// Log in to a running VM with the system's ssh
    Ssh(Ssh),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Banger::command().debug_assert();
    }

    /// Clap hands a global option's value, its variable's included, to whatever below has the same name.
    #[test]
    fn no_verb_has_an_option_with_the_name_of_a_global_one() {
        fn check(command: &clap::Command, globals: &[&str]) {
            for verb in command.get_subcommands() {
                for option in verb.get_arguments() {
                    assert!(!globals.contains(&option.get_id().as_str()), "{} {option}", verb.get_name());
                }
                check(verb, globals);
            }
        }
        let banger = Banger::command();
        let globals: Vec<_> =
            banger.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().as_str()).collect();
        assert!(globals.contains(&"config"), "{globals:?}");
        check(&banger, &globals);
    }
}
