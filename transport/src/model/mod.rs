//! Decisions of the transport without IO, clock or async: how much may be under way on a path.

pub(crate) mod clumps;
pub(crate) mod congestion;
pub(crate) mod delivery;
pub(crate) mod rate;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod simulation_tests;
