//! What is compared and how it is judged: phases with bounds and goals, statistics, and the contents of the
//! files that are read. Pure, so that the same seed gives the same bytes and the same samples the same table.

mod content;
mod phase;
mod python;
mod statistics;
mod text;

pub(crate) use content::Content;
pub(crate) use phase::{Better, Phase, Reference, Unit};
pub(crate) use python::Package;
pub(crate) use statistics::{Summary, ratio};
