//! From kernel requests to the [`Volume`] trait. Knows nothing of sites, caches and networks.

pub mod volume;

pub use volume::Volume;
