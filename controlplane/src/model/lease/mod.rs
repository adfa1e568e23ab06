//! Leases: permission to cache (read) or to change (write) a path or a subtree, for a term.
//!
//! Two machines exchange the messages of [`message`]: the [`Granter`] in the coordinator and a [`Holder`] at each
//! site. Both are pure: events and the `now` of a monotonic clock of their own machine go in, actions come out.
//! Nothing is assumed of the network: messages may be lost, repeated, reordered, and late by any time.
//!
//! *Invariants*, for every two sites, in true time:
//! - never may two sites acknowledge changes to one path, nor one use a read lease where another may acknowledge
//!   a change; what one site does itself is not ordered here;
//! - epochs and generations only grow, also over restarts of the coordinator;
//! - a write lease ends by its holder's release or by an administrator's `abandon`, never by time alone;
//! - whoever asks, and goes on asking, is served in the order of arrival among those that conflict.
//!
//! **A write lease and the right under it are two things.** The lease is a durable record: its holder may have data
//! that is nowhere else, so it outlives its holder's silence. The right to acknowledge changes has a term
//! ([`Terms::write`]) that the holder renews, so that `abandon` knows when nobody acknowledges any more. A site cut
//! off from the coordinator therefore stops acknowledging after that term; it is long, so that local writes outlast
//! an outage of the WAN, and an `abandon` that its holder confirms does not wait for it.
//!
//! **Terms and clocks.** A holder counts a term from when it *sent* the request that was answered: each request
//! carries a [`Stamp`] that the answer repeats. The granter counts from when it *answered*, and longer by what two
//! clocks may differ in rate ([`CLOCK_RATE_PERCENT`]). Where clocks stand does not matter. A stamp names the
//! holder's incarnation, because a monotonic clock may begin anew with the machine.
//!
//! **Restarts.** The granter forgets read leases, so it grants no write lease for one read term; write records are
//! read back. A holder forgets read leases too and does not answer for those of earlier incarnations: nodes of its
//! site may still rely on them, so they run out. It persists write leases before use and forgets them, durably,
//! before it tells that they are released: else a late release could end a lease that a restart has revived.
//!
//! **No message needs an acknowledgement of its own.** Requests are repeated until answered; a recall is repeated
//! until the lease ends; who hears of a lease that it does not know answers with a release. A record whose holder
//! is silent is asked after ([`message::ToHolder::Check`]), which finds releases that were lost.
//!
//! **A generation** is the epoch of the last write grant that overlaps a scope, or more. Equal generations mean that
//! nothing there has changed, so a reader whose lease ran out may keep what it cached. Being derived, it needs no
//! record of its own; what is forgotten counts as changed.
//!
//! What drivers must keep: one granter at a time and one holder per site, whose store applies nothing after a
//! successor has read it; a new [`Incarnation`] at each start of a holder; changes are acknowledged only while
//! [`Holder::may_finish`] says so; a drain never waits for an operation that waits for a lease; every site takes
//! leases where leases rule, a path's primary too.

mod generations;
pub mod granter;
pub mod holder;
mod index;
pub mod message;
pub mod term;
pub mod types;

pub use granter::Granter;
pub use holder::Holder;
pub use term::{CLOCK_RATE_PERCENT, Terms};
pub use types::{
    Epoch, Generation, Incarnation, LeaseId, LeaseKind, LeaseScope, Reach, RequestNumber, Stamp, WriteRecord,
};

use std::time::Duration;

/// A request that is not answered is repeated after so long.
pub const ASK_INTERVAL: Duration = Duration::from_secs(1);
/// A recall that is not answered is repeated after so long.
pub const RECALL_INTERVAL: Duration = Duration::from_secs(1);
/// A waiting request that is not repeated for so long is forgotten: who is gone must not be granted a record that
/// only an administrator can end.
pub const WAITING_EXPIRY: Duration = Duration::from_secs(10);

/// Most sites that one granter hears of.
pub const MAX_LEASE_SITES: usize = 1024;
/// Most read leases of one site.
pub const MAX_READ_LEASES_PER_SITE: usize = 1 << 18;
/// Most write leases of one site.
pub const MAX_WRITE_LEASES_PER_SITE: usize = 4096;
/// Most requests of one site that wait.
pub const MAX_WAITING_PER_SITE: usize = 1024;
/// Most read leases that are recalled at once for one request; the others follow, or run out.
pub const MAX_RECALLS_AT_ONCE: usize = 1 << 16;
/// Most requests and leases of one holder.
pub const MAX_REQUESTS_PER_HOLDER: usize =
    MAX_READ_LEASES_PER_SITE + MAX_WRITE_LEASES_PER_SITE + MAX_WAITING_PER_SITE;

// A request that is repeated in time is not forgotten because two of its messages were lost.
const _: () = assert!(WAITING_EXPIRY.as_millis() > 3 * ASK_INTERVAL.as_millis());

#[cfg(test)]
mod simulation;
