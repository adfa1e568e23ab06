//! QUIC with mutual TLS between sites and nodes, and TCP beside it for large answers nearby: an [`Endpoint`] serves
//! requests through a [`Handler`] and reaches other daemons through a [`Peer`].
//!
//! *Invariants:* no byte is exchanged with a peer whose certificate the cluster's CA did not sign; every
//! wait ends before its request's deadline; every buffer and queue has a limit, named in [`options`].

mod answer;
mod client;
mod congestion;
mod connect;
mod counters;
mod endpoint;
mod failure;
mod frame;
mod identity;
mod lane;
mod model;
pub mod options;
mod pool;
mod receive;
mod reply;
mod server;
mod socket;
mod tls;

pub use answer::Answer;
pub use client::Peer;
pub use counters::Counters;
pub use endpoint::{BindError, Endpoint};
pub use identity::{Identity, IdentityError};
pub use options::Options;
pub use pool::Buffer;
pub use reply::Reply;
pub use server::Handler;
