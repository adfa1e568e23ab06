//! Names against a naive model.
