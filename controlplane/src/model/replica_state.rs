//! What a site says of its replicas in a heartbeat.

use super::record::is_zero;
use super::timestamp::Timestamp;
use globalfs_proto::GlobalPath;
use serde::{Deserialize, Serialize};

/// The replicas at one site.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaHealth {
    /// Files that are copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// All that policies name was looked at; before, more may be missing than is told.
    pub surveyed: bool,
    /// Paths where something is in the way that is not from the master.
    pub obstructed: u64,
    /// What is to come, or to go, by policy.
    pub missing: Vec<MissingReplicas>,
    /// What was asked for by hand.
    pub asked: Vec<AskedReplica>,
    /// Why something does not come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// What is missing of one policy's replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingReplicas {
    /// The policy; `-` for what no policy wants there any more.
    pub policy: String,
    /// Paths.
    pub files: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// Since when the oldest of them is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest: Option<Timestamp>,
    /// Paths that are missing for longer than the policy permits.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub late: u64,
}

/// How far it is what somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedReplica {
    /// Chosen by who asked.
    pub number: u64,
    /// Of this path and all beneath it.
    pub path: GlobalPath,
    /// All that is missing is known.
    pub surveyed: bool,
    /// Paths that are missing.
    pub files: u64,
    /// Bytes of the files among them.
    pub bytes: u64,
    /// Why it does not go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl ReplicaHealth {
    /// What is missing of a policy's replica; `None`: nothing.
    pub fn missing_of(&self, policy: &str) -> Option<&MissingReplicas> {
        self.missing.iter().find(|missing| missing.policy == policy)
    }
}
