//! How tables of comparisons look: a column for what is measured, some for ours, one for each peer.

use crate::systems::{Kind, OURS};
use comfy_table::{CellAlignment, Table, presets};

/// Columns on the left that hold words.
const WORDS: usize = 2;

/// A table with lines between rows, its figures to the right.
pub(crate) fn ruled(head: Vec<&str>, rows: impl Iterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(head);
    rows.for_each(|row| {
        table.add_row(row);
    });
    for column in table.column_iter_mut().skip(WORDS) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The peers of which `is_measured` is true, in the order in which they are always shown.
pub(crate) fn peers(is_measured: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let names = Kind::ALL.map(Kind::name).into_iter();
    names.filter(|name| *name != OURS && is_measured(name)).collect()
}
