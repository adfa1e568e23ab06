//! `cargo perf`: the WAN on one machine from the command line.

use clap::{Parser, Subcommand};
use globalfs_perf::compare::{Compare, Fetch, Matrix};
use globalfs_perf::link_test;
use globalfs_perf::wan::{self, LinkArgs, Wan};
use globalfs_perf::warm::Warm;
use globalfs_perf::write::WriteArgs;
use std::ffi::OsString;
use std::process::ExitCode;

/// Measures across sites, over a WAN on one machine.
#[derive(Parser)]
#[command(name = "cargo perf", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a command on the near side of a link; the far side is 198.19.0.1
    Shell {
        #[command(flatten)]
        link: LinkArgs,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Compares GlobalFS with what people use today, over one link
    Compare(Compare),
    /// The comparison over several links: 5, 40 and 150 ms, and 40 ms with 0.1 and 1 % loss
    Matrix(Matrix),
    /// Compares what is cached with the local file system, for GlobalFS and for what people use today
    Warm(Warm),
    /// Writes at the near site what is at home at the far one
    Write(WriteArgs),
    /// Runs `globalfs bench fetch` on the near side of a link
    Fetch(Fetch),
    /// Tests the link itself against ping, TCP and UDP, which takes about a minute
    LinkTest,
    /// Removes what killed runs have left
    Clean,
}

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Shell { link, command } => shell(&link, &command),
        Command::Compare(compare) => compare.run(),
        Command::Matrix(matrix) => matrix.run(),
        Command::Warm(warm) => warm.run(),
        Command::Write(write) => write.run(),
        Command::Fetch(fetch) => fetch.run(),
        Command::LinkTest => test_link(),
        Command::Clean => {
            wan::clean().iter().for_each(|name| println!("removed {name}"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Ends as the command ends.
fn shell(link: &LinkArgs, command: &[OsString]) -> anyhow::Result<ExitCode> {
    wan::remove_when_killed()?;
    let wan = Wan::start(link.options())?;
    let mut inside = wan.near().command(&command[0]);
    inside.args(&command[1..]).env("GLOBALFS_WAN_NEAR", wan.near().name());
    let status = inside.env("GLOBALFS_WAN_FAR", wan.far().name()).status()?;
    eprintln!("{}", wan.counters());
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// A line as soon as it is known; fails when one failed.
fn test_link() -> anyhow::Result<ExitCode> {
    wan::remove_when_killed()?;
    println!("{:<34} {:<52} {:<42} ", "link", "expected", "measured");
    let passed = link_test::run(|row| {
        let verdict = if row.passed { "ok" } else { "FAILED" };
        println!("{:<34} {:<52} {:<42} {verdict}", row.link, row.expected, row.measured);
    })?;
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
