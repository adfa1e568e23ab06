//! Sites, policies, certificates and the metadata store: what no single site can know.
//!
//! *Invariants:* nothing is answered to a peer whose certificate or token was not checked first; every
//! record is JSON that an operator can read; decisions live in [`model`] without IO or clock.

pub mod ca;
pub mod client;
pub mod files;
pub mod leases;
pub mod model;
pub mod service;
pub mod store;
pub mod tls;

/// The gRPC service, generated from `proto/control.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)]
mod proto {
    tonic::include_proto!("globalfs.control.v1");
}
