//! The short form of the link's self-test, on the real devices. Needs root.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use globalfs_perf::link_test::{self, Row};
use globalfs_perf::model::LinkOptions;
use globalfs_perf::wan::{self, Wan};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

/// The right to use the machine: figures of two tests at once would be of neither.
fn can_measure(test: &str) -> Option<MutexGuard<'static, ()>> {
    static MACHINE: Mutex<()> = Mutex::new(());
    let missing = match (rustix::process::geteuid().is_root(), Path::new("/dev/net/tun").exists()) {
        (false, _) => "root",
        (_, false) => "/dev/net/tun",
        _ => return Some(MACHINE.lock().unwrap_or_else(|poison| poison.into_inner())),
    };
    let full = std::env::var_os("GLOBALFS_TEST_FULL").is_some_and(|value| value == "1");
    assert!(!full, "{test} needs {missing}, and GLOBALFS_TEST_FULL=1 forbids to skip");
    eprintln!("SKIPPED: {test} needs {missing}");
    None
}

fn assert_passed(row: anyhow::Result<Row>) {
    let row = row.unwrap();
    assert!(row.passed, "{}: expected {}, measured {}", row.link, row.expected, row.measured);
}

#[test]
fn round_trips_are_as_set() {
    let Some(_machine) = can_measure("round_trips_are_as_set") else { return };
    assert_passed(link_test::round_trip(5, 30));
    assert_passed(link_test::round_trip(40, 20));
}

#[test]
fn tcp_fills_the_rate_and_never_passes_it() {
    let Some(_machine) = can_measure("tcp_fills_the_rate_and_never_passes_it") else { return };
    assert_passed(link_test::rate(100_000_000, 10, Duration::from_millis(500), Duration::from_millis(1_500)));
}

#[test]
fn losses_are_as_many_as_set_and_as_counted() {
    let Some(_machine) = can_measure("losses_are_as_many_as_set_and_as_counted") else { return };
    assert_passed(link_test::loss(0.02, 8_000));
}

#[test]
fn what_the_link_cuts_arrives_intact() {
    let Some(_machine) = can_measure("what_the_link_cuts_arrives_intact") else { return };
    assert_passed(link_test::reordering(0.02, 8_000));
    assert_passed(link_test::intact());
}

#[test]
fn the_same_seed_loses_the_same_packets() {
    let Some(_machine) = can_measure("the_same_seed_loses_the_same_packets") else { return };
    let lost = |seed| {
        let wan = Wan::start(LinkOptions { loss: 0.05, seed, ..LinkOptions::default() }).unwrap();
        link_test::datagrams(&wan, 1_600).unwrap().lost
    };
    let first = lost(7);
    assert!(!first.is_empty());
    assert_eq!(first, lost(7));
    assert_ne!(first, lost(8));
}

#[test]
fn a_link_is_cut_and_mended_while_it_is_up() {
    let Some(_machine) = can_measure("a_link_is_cut_and_mended_while_it_is_up") else { return };
    assert_passed(link_test::cut());
}

#[test]
fn nothing_is_left_of_a_link_and_of_a_killed_run() {
    let Some(_machine) = can_measure("nothing_is_left_of_a_link_and_of_a_killed_run") else { return };
    let exists = |name: &str| Path::new("/run/netns").join(name).exists();
    let wan = Wan::start(LinkOptions::default()).unwrap();
    let names = [wan.near().name().to_owned(), wan.far().name().to_owned()];
    let mut inside = wan.near().command("sleep").arg("60").spawn().unwrap();
    wan::clean();
    assert!(names.iter().all(|name| exists(name)), "who lives keeps his own");
    drop(wan);
    assert!(!names.iter().any(|name| exists(name)));
    assert!(!inside.wait().unwrap().success(), "what ran inside has ended");

    // No process has number 0.
    let left = "globalfs-wan-0-0-0-near";
    assert!(Command::new("ip").args(["netns", "add", left]).status().unwrap().success());
    assert!(wan::clean().iter().any(|name| name == left));
    assert!(!exists(left));
}

#[test]
fn both_sides_see_lo_and_the_mounts_of_all() {
    let Some(_machine) = can_measure("both_sides_see_lo_and_the_mounts_of_all") else { return };
    let wan = Wan::start(LinkOptions::default()).unwrap();
    for side in [wan.near(), wan.far()] {
        let output = side.command("ip").args(["-4", "-o", "addr"]).output().unwrap();
        let addresses = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(addresses.contains("127.0.0.1/8"), "{addresses}");
        assert!(addresses.contains(&side.address().to_string()), "{addresses}");
        let mounts = side.command("readlink").arg("/proc/self/ns/mnt").output().unwrap().stdout;
        let ours = std::fs::read_link("/proc/self/ns/mnt").unwrap();
        assert_eq!(String::from_utf8_lossy(&mounts).trim(), ours.to_string_lossy());
    }
}

#[test]
fn nonsense_is_refused_before_anything_is_made() {
    let wrong = [
        LinkOptions { loss: 1.5, ..LinkOptions::default() },
        LinkOptions { reorder: f64::NAN, ..LinkOptions::default() },
        LinkOptions { rate_bits_per_s: Some(0), ..LinkOptions::default() },
        LinkOptions { mtu: 100, ..LinkOptions::default() },
        LinkOptions { rtt: Duration::from_secs(60), ..LinkOptions::default() },
    ];
    for options in wrong {
        assert!(Wan::start(options).is_err());
    }
}
