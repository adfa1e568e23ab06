//! The tour through mounts, with the commands that a user would type.

use super::place::{CLOUD, MOUNT_POINTS, ONPREM};
use super::sample::{FIELD, FIELD_SIZE};
use super::{Tour, check_first_read, check_no_move, check_rest};
use anyhow::{Context, Result, bail, ensure};

const [FIRST, SECOND, AT_ONPREM]: [&str; 3] = MOUNT_POINTS;

/// Where the first node mounts.
pub(super) const FIRST_MOUNT: &str = FIRST;

const MIB: u64 = 1 << 20;
