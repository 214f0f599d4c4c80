//! Why a request has no answer, and whether anything was done.

use concur_kv::KvError;
use std::error::Error;
use tonic::{Code, Status};

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// An address or a limit in the options cannot be used.
    #[error("{0}")]
    Options(String),
    /// Time, or the budget for trying again, was up before anything was done.
    #[error("nothing was done: {0}")]
    NotDone(String),
    /// Time, or the budget for trying again, was up. The command may have been executed, or be executed yet, once.
    #[error("whether it was done is not known: {0}")]
    Unknown(String),
    /// The request cannot be served, wherever it is asked.
    #[error("refused: {0}")]
    Refused(String),
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] KvError),
    /// The history that a watch asks for is gone.
    #[error("the history is compacted; the oldest revision left is {oldest}")]
    Compacted {
        /// The oldest revision that is left.
        oldest: u64,
    },
    /// The server answered with something that is no answer.
    #[error("the server's answer makes no sense: {0}")]
    Malformed(&'static str),
}

/// What a status means for trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing was done, and this member has too much to do.
    Busy,
    /// Nothing was done; another member may serve it.
    NotDone,
    /// It may be done yet.
    Unknown,
    /// Nothing was done; another member has the namespace.
    Elsewhere,
    /// Nothing was done: the session is not known.
    NoSession,
    /// It is wrong wherever it is asked.
    Refused,
}

pub(crate) fn judge(status: &Status) -> Verdict {
    match status.code() {
        Code::ResourceExhausted => Verdict::Busy,
        Code::Unavailable if status.source().is_none() || was_not_connected(status) => Verdict::NotDone,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => Verdict::Unknown,
        Code::FailedPrecondition => Verdict::Elsewhere,
        Code::Aborted => Verdict::NoSession,
        _ => Verdict::Refused,
    }
}

/// Whether nobody listened: what was asked never left.
fn was_not_connected(status: &Status) -> bool {
    let mut error: Option<&(dyn Error + 'static)> = status.source();
    while let Some(cause) = error {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        error = cause.source();
    }
    false
}

/// What a status says, of its causes the innermost.
pub(crate) fn said(status: &Status) -> String {
    let Some(mut cause) = status.source() else { return status.message().to_owned() };
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
