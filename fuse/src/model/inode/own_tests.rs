//! What this mount changes, in the table of nodes.
