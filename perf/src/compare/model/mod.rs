//! What is compared and how it is judged: phases with bounds and goals, and a package for Python to import.

mod phase;
mod python;

pub(crate) use phase::{Phase, Reference, Unit};
pub(crate) use python::Package;
