//! What is measured warm and how it is judged: phases with goals, the work that a measurement did, what fio and
//! the kernel tell of it.

mod fio;
mod phase;
mod work;

pub(crate) use fio::parse_fio;
pub(crate) use phase::{Goal, Part, Phase};
pub(crate) use work::Work;
