//! Errors that teach: a code, a place, what is wrong, why it matters, what to do.

use std::fmt;

/// Whether a system with this can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and probably was not meant so.
    Warning,
}

/// A place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The character in it, from 1.
    pub column: usize,
}

/// One thing that is wrong with a system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its code, for [`explain`](crate::explain()).
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// The field, as `members[2].weight`.
    pub field: String,
    /// Where it stands, if it was read from a file.
    pub place: Option<Place>,
    /// What is wrong.
    pub what: String,
    /// Why it matters.
    pub why: String,
    /// What to do.
    pub fix: String,
}

/// A system that cannot be run, with everything that is wrong with it, warnings too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// What was found, in the order of the file.
    pub findings: Vec<Finding>,
}

impl Finding {
    pub(crate) fn error(
        code: &'static str,
        field: impl Into<String>,
        what: String,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        debug_assert!(crate::explain(code).is_some(), "{code} is not explained");
        let (field, why, fix) = (field.into(), why.into(), fix.into());
        Self { code, severity: Severity::Error, field, place: None, what, why, fix }
    }

    pub(crate) fn warning(
        code: &'static str,
        field: impl Into<String>,
        what: String,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, field, what, why, fix) }
    }

    /// Whether it keeps the system from being run.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.severity, self.code)?;
        match self.place {
            Some(place) => write!(f, " at {}:{} ({})", place.line, place.column, self.field)?,
            None => write!(f, " in {}", self.field)?,
        }
        write!(f, ": {}\n  why: {}\n  do:  {}", self.what, self.why, self.fix)
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, finding) in self.findings.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}
