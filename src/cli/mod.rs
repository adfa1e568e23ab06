//! The command lines of both programs, one file a command.
//!
//! *Invariants:* an error is printed once, on stderr, as `globalfs: what: cause: cause`; the exit status is
//! 0, 1 (it failed) or 2 (the command line is wrong); a reader that closes our stdout ends us quietly.

pub mod access;
pub mod bench;
mod cached;
pub mod config;
pub mod coordinator;
pub mod daemon;
pub mod demo;
mod helper;
pub mod lease;
pub mod mount;
pub mod node;
pub mod output;
pub mod policy;
pub mod prefetch;
pub mod progress;
mod replicate;
pub mod site;
pub mod status;
pub mod sync;
pub mod token;
pub mod trace;
pub mod version;

use clap::{Parser, Subcommand};
use helper::Call;
use std::ffi::OsString;
use std::io;
use std::process::ExitCode;

/// The exit status for a wrong command line.
const USAGE: u8 = 2;

/// The command line is wrong in a way that only the command itself could tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);

/// A command that was run for the user ended with this exit status, which becomes ours. It has said why.
#[derive(Debug, thiserror::Error)]
#[error("the command ended with exit status {0}")]
struct CommandEnded(u8);

impl UsageError {
    fn new(why: impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

const EXIT_HELP: &str = "\
Exit status: 0 it worked, 1 it failed (also a bad configuration file), 2 the command line is wrong.
Logs go to stderr; RUST_LOG chooses what is logged, as in RUST_LOG=debug or RUST_LOG=globalfs=trace.";

const GLOBALFS_HELP: &str = "\
Examples, in the order of a first use:
  globalfs demo                                       all of it on this machine, explained
  globalfs config check /etc/globalfs/*.yaml          is the configuration right?
  globalfs coordinator start                          once per cluster; or its systemd unit
  globalfs token create --site cloud                  a token lets one machine join, once
  globalfs site register cloud --token gfs1...        at the site
  globalfs site start                                 its daemon; or its systemd unit
  globalfs token create --site cloud --node c001
  globalfs node register c001 --token gfs1...         at the node
  globalfs mount /globalfs -o allow_other
  globalfs prefetch /datasets/x                       before a job reads it
  globalfs trace record --name train -- ./train.sh    what it reads, for 'prefetch --trace train'
  globalfs status                                     sites, health, caches
  globalfs lease list                                 which sites hold what, and what is not home
  globalfs drain cloud                                before the burst site is torn down
  globalfs bench fetch                                how fast, and what moves, on this machine
  globalfs policy test /results/job-1 --config /etc/globalfs/coordinator.yaml

Configurations are looked for in /etc/globalfs; 'globalfs COMMAND --help' has more examples.
Exit status: 0 it worked, 1 it failed (also a bad configuration file), 2 the command line is wrong.
Logs go to stderr; RUST_LOG chooses what is logged, as in RUST_LOG=debug or RUST_LOG=globalfs=trace.";

/// One file tree over an HPC centre's own storage and the cloud.
#[derive(Debug, Parser)]
#[command(name = "globalfs", version, after_help = GLOBALFS_HELP, arg_required_else_help = true)]
struct GlobalfsCli {
    #[command(subcommand)]
    command: GlobalfsCommand,
}

#[derive(Debug, Subcommand)]
enum GlobalfsCommand {
    /// Check configuration files
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// See what the placement policies say
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Run the control plane
    #[command(subcommand)]
    Coordinator(coordinator::CoordinatorCommand),
    /// Join, run, show and remove sites
    #[command(subcommand)]
    Site(site::SiteCommand),
    /// Join, list and remove nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Make one-time tokens with which sites and nodes join
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Show the cluster at a glance
    Status(status::Status),
    /// See which subtrees sites hold at this moment
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Show who masters a path, where its home is, and what is not home
    Where(lease::Where),
    /// Bring home what was changed at other sites
    Sync(sync::Sync),
    /// Bring home all that a site has changed, so that it may be torn down
    Drain(sync::Drain),
    /// Give up what a lost site has not brought home
    Reclaim(lease::Reclaim),
    /// Measure how fast files come
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Bring files to this node's site before they are read
    Prefetch(prefetch::Prefetch),
    /// Record what jobs read, so that it can be brought before they run again
    Trace(trace::TraceArgs),
    /// Mount the tree on this node
    Mount(mount::Mount),
    /// Unmount the tree
    Umount(mount::Umount),
    /// Show what GlobalFS does: two sites and a mount on this machine
    Demo(demo::Demo),
    /// Print the version
    Version(version::Version),
}

/// Mounts GlobalFS on a node.
#[derive(Debug, Parser)]
#[command(name = "globalfs-fuse", version, after_help = EXIT_HELP, arg_required_else_help = true)]
struct FuseCli {
    #[command(subcommand)]
    command: FuseCommand,
}

#[derive(Debug, Subcommand)]
enum FuseCommand {
    /// Mount the tree on this node
    Mount(mount::Mount),
    /// Unmount the tree
    Umount(mount::Umount),
    /// Print the version
    Version(version::Version),
}

/// The program `globalfs`.
pub fn main_globalfs() -> ExitCode {
    match GlobalfsCli::try_parse() {
        Ok(cli) => report("globalfs", cli.command.run()),
        Err(error) => usage(&error),
    }
}

/// The program `globalfs-fuse`, also under the name `mount.globalfs`.
pub fn main_fuse() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let parsed = helper::translate(arguments).and_then(|call| match call {
        Call::Arguments(arguments) => FuseCli::try_parse_from(arguments).map(Some),
        Call::Rehearsal => Ok(None),
    });
    match parsed {
        Ok(Some(cli)) => report("globalfs-fuse", cli.command.run()),
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => usage(&error),
    }
}

impl GlobalfsCommand {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Config(command) => command.run(),
            Self::Policy(command) => command.run(),
            Self::Coordinator(command) => command.run(),
            Self::Site(command) => command.run(),
            Self::Node(command) => command.run(),
            Self::Token(command) => command.run(),
            Self::Status(command) => command.run(),
            Self::Lease(command) => command.run(),
            Self::Where(command) => command.run(),
            Self::Sync(command) => command.run(),
            Self::Drain(command) => command.run(),
            Self::Reclaim(command) => command.run(),
            Self::Bench(command) => command.run(),
            Self::Prefetch(command) => command.run(),
            Self::Trace(command) => command.run(),
            Self::Mount(command) => command.run(),
            Self::Umount(command) => command.run(),
            Self::Demo(command) => command.run(),
            Self::Version(command) => command.run(),
        }
    }
}

impl FuseCommand {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Mount(command) => command.run(),
            Self::Umount(command) => command.run(),
            Self::Version(command) => command.run(),
        }
    }
}

fn report(program: &str, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_closed_pipe(&error) => ExitCode::SUCCESS,
        Err(error) if error.is::<CommandEnded>() => {
            error.downcast_ref().map_or(ExitCode::FAILURE, |CommandEnded(code)| ExitCode::from(*code))
        }
        Err(error) => {
            output::complain(format_args!("{program}: {}", causes(&error)));
            let is_usage = error.downcast_ref::<globalfs_fuse::OptionError>().is_some()
                || error.downcast_ref::<UsageError>().is_some();
            if is_usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// The error and its causes in one line, each said once: some errors name their cause themselves.
fn causes(error: &anyhow::Error) -> String {
    error.chain().map(ToString::to_string).fold(String::new(), |said, cause| match said {
        said if said.is_empty() => cause,
        said if said.ends_with(&cause) => said,
        said => format!("{said}: {cause}"),
    })
}

/// `globalfs ... | head` has got what it wanted.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Prints clap's message: help to stdout with status 0, errors to stderr with status 2.
fn usage(error: &clap::Error) -> ExitCode {
    // Help into a closed pipe was not wanted any more.
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use clap::CommandFactory;

    #[test]
    fn the_command_lines_are_consistent() {
        GlobalfsCli::command().debug_assert();
        FuseCli::command().debug_assert();
    }

    #[test]
    fn a_cause_is_said_once() {
        let inner =
            anyhow::anyhow!("no such file").context("cannot read x: no such file").context("no start");
        assert_eq!(causes(&inner), "no start: cannot read x: no such file");
    }

    #[test]
    fn only_closed_pipes_are_quiet() {
        let failed = |kind| Err::<(), _>(io::Error::from(kind)).context("cannot write").unwrap_err();
        assert!(is_closed_pipe(&failed(io::ErrorKind::BrokenPipe)));
        assert!(!is_closed_pipe(&failed(io::ErrorKind::StorageFull)));
    }
}
