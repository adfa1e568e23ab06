//! What is wrong with a configuration file and where.
//!
//! *Invariant:* a problem inside a file's text carries line and column, counted from 1 in characters; the
//! text of a problem has no control characters, whatever the file contains.

use std::cell::RefCell;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most problems that one error tells; more would only scroll the first ones away.
const MAX_PROBLEMS: usize = 20;

/// A place in a file, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: u64,
    /// The character in the line.
    pub column: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file as the user named it.
    pub file: Arc<Path>,
    /// Where in the file; `None`: the file as a whole.
    pub position: Option<Position>,
    /// What is wrong and what was expected.
    pub message: String,
}

/// A configuration that cannot be used: the user has to mend the files that it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one problem, in the order of the file.
    pub problems: Vec<Problem>,
}

/// Collects the problems of one file while it is read.
#[derive(Debug)]
pub(super) struct Problems {
    file: Arc<Path>,
    list: RefCell<Vec<Problem>>,
}

impl Problems {
    pub(super) fn new(file: &Path) -> Self {
        Self { file: file.into(), list: RefCell::default() }
    }

    pub(super) fn add(&self, position: Position, message: impl Into<String>) {
        self.push(Some(position), message.into());
    }

    pub(super) fn add_for_file(&self, message: impl Into<String>) {
        self.push(None, message.into());
    }

    /// Takes over what was found in another file.
    pub(super) fn append(&self, error: ConfigError) {
        self.list.borrow_mut().extend(error.problems);
    }

    /// The directory to which relative paths in the file refer.
    pub(super) fn directory(&self) -> PathBuf {
        self.file.parent().map(Path::to_path_buf).unwrap_or_default()
    }

    /// `value`, unless anything was found.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        let mut problems = self.list.into_inner();
        problems.sort_by_key(|problem| (problem.file != self.file, problem.position));
        match value {
            Some(value) if problems.is_empty() => Ok(value),
            _ => Err(ConfigError { problems }),
        }
    }

    fn push(&self, position: Option<Position>, message: String) {
        let message = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        self.list.borrow_mut().push(Problem { file: self.file.clone(), position, message });
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(Position { line, column }) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().take(MAX_PROBLEMS).enumerate() {
            write!(f, "{}{problem}", if n > 0 { "\n" } else { "" })?;
        }
        match self.problems.len().saturating_sub(MAX_PROBLEMS) {
            0 => Ok(()),
            more => write!(f, "\n... and {more} more"),
        }
    }
}
