//! How many read leases one granter gives, renews and takes back in a second, on one core, without the network:
//! `cargo run --release -p globalfs-controlplane --example lease_rate [leases]`.
//!
//! 16 sites hold the leases on files of 1,000 directories; 4,096 write leases lie beside them, and one write lease
//! is asked for over everything in the end.
#![allow(clippy::unwrap_used, reason = "an example ends at the first error")]

use globalfs_controlplane::model::lease::granter::{Action, Durable, Granter};
use globalfs_controlplane::model::lease::message::ToGranter;
use globalfs_controlplane::model::lease::{
    Incarnation, LeaseKind, LeaseScope, RequestNumber, Stamp, Terms, WriteRecord,
};
use globalfs_proto::{GlobalPath, SiteName};
use std::time::{Duration, Instant};

const SITES: u64 = 16;
const WRITES: u64 = 4096;

fn request(number: u64) -> RequestNumber {
    RequestNumber { incarnation: Incarnation(1), number }
}

fn path(text: String) -> GlobalPath {
    GlobalPath::new(text.as_bytes()).unwrap()
}

fn ask(n: u64, kind: LeaseKind, scope: LeaseScope, at: Duration) -> ToGranter {
    let stamp = Stamp { incarnation: Incarnation(1), at };
    ToGranter::Ask { request: request(n), kind, scope, held: None, stamp }
}

fn file(n: u64) -> LeaseScope {
    LeaseScope::alone(path(format!("/datasets/imagenet/train/class-{:04}/image-{n:08}.jpeg", n % 1000)))
}

fn records(writer: &SiteName) -> Durable {
    let record = |n| WriteRecord {
        request: request(n),
        scope: LeaseScope::subtree(path(format!("/results/job-{n}"))),
        epoch: globalfs_controlplane::model::lease::Epoch(n),
        abandoned: false,
    };
    let last_epoch = globalfs_controlplane::model::lease::Epoch(WRITES);
    Durable { last_epoch, records: (1..=WRITES).map(|n| (writer.clone(), record(n))).collect() }
}

/// Sends a message for each of `count` leases and says how long that took; messages are made beforehand.
fn time(what: &str, granter: &mut Granter, now: Duration, messages: Vec<(SiteName, ToGranter)>) {
    let count = messages.len();
    let begin = Instant::now();
    let mut actions = 0_usize;
    for (site, message) in messages {
        granter.receive(&site, message, now);
        while let Some(action) = granter.poll() {
            actions += usize::from(matches!(action, Action::Send { .. }));
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{what:>8}: {count} messages, {actions} answers, {:.0} a second", count as f64 / seconds);
}

fn main() {
    let leases = std::env::args().nth(1).map_or(1_500_000, |text| text.parse().unwrap());
    let sites: Vec<SiteName> = (0..SITES).map(|n| SiteName::new(&format!("site-{n}")).unwrap()).collect();
    let writer = SiteName::new("writer").unwrap();
    let mut granter = Granter::recover(Terms::default(), records(&writer), Duration::ZERO).unwrap();
    let each = |make: &dyn Fn(u64) -> ToGranter| -> Vec<(SiteName, ToGranter)> {
        (0..leases).map(|n| (sites[(n % SITES) as usize].clone(), make(n))).collect()
    };
    let at = Duration::from_secs;
    time("grant", &mut granter, at(1), each(&|n| ask(n, LeaseKind::Read, file(n), at(1))));
    time("renew", &mut granter, at(11), each(&|n| ask(n, LeaseKind::Read, file(n), at(11))));
    let all = ask(leases, LeaseKind::Write, LeaseScope::subtree(path("/datasets".to_owned())), at(12));
    time("recall", &mut granter, at(12), vec![(SiteName::new("other").unwrap(), all)]);
    time("release", &mut granter, at(13), each(&|n| ToGranter::Release { request: request(n) }));
}
