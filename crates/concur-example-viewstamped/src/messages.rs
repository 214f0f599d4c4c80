//! What replicas send each other, what they persist, and what they wait for.
//!
//! The names of messages are the paper's. Nothing is derived: [`wire_enum!`] lists tags and fields, and that list is the format.

use concur_core::{Malformed, Order, ReadId, Reader, Urgent, Value, Wire, wire_enum, wire_newtype, wire_struct};
use std::sync::Arc;

/// A view: a time in which one replica, known to everybody by the view's number, orders what is proposed. Nobody is the primary of
/// view 0, in which every group begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct View(pub u64);

impl View {
    /// The view after this one. Numbers come from messages too, so that this must not overflow.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// The order of a decided slot is the view in which it was first proposed. Execution has no use for it; it comes back in the mark
/// of a state that a peer sends, and says there which log the state stands for.
impl Order for View {}

/// What stands at one position of a log. The value is shared, so that the log, the record and the messages hold one copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// The view whose primary put it there first.
    pub view: View,
    /// The value.
    pub value: Arc<Value>,
}

/// A prefix of a log: its length, and the view of its last entry. Two logs that both have a point are equal up to it, since the
/// primary of a view puts one entry at a position, behind a log that does not change any more below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Point {
    /// The view of the last entry; 0 if there is none.
    pub view: View,
    /// How many entries: the paper's op-number.
    pub length: u64,
}

/// What replicas send each other. Whatever names a view, but for a wish, is said by somebody who has promised to that view.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Message {
    /// I do not hear the primary, and would go over to this view. Binds nobody.
    StartViewChange {
        /// The view that is wished for.
        view: View,
    },
    /// I have left all earlier views. To the primary of the view.
    DoViewChange {
        /// The view.
        view: View,
        /// The last view whose log I held in full: the paper's v'.
        normal: View,
        /// How long my log is.
        length: u64,
    },
    /// Send me what I lack of your log.
    GetState {
        /// The view.
        view: View,
        /// The end of what I have.
        end: Point,
        /// The end of what I know to be decided, should your log not have the other point.
        decided: Point,
    },
    /// A part of my log.
    NewState {
        /// The view.
        view: View,
        /// What it follows.
        prior: Point,
        /// The part.
        entries: Vec<Entry>,
        /// The log that the view begins with has so many.
        until: u64,
        /// So many are decided.
        decided: u64,
    },
    /// The view has begun: get its log, if you lack it.
    StartView {
        /// The view.
        view: View,
    },
    /// Put these behind what you have. Within a view no log conflicts with the primary's, so that a position says enough.
    Prepare {
        /// The view.
        view: View,
        /// The position of the first.
        at: u64,
        /// The entries.
        entries: Vec<Entry>,
        /// So many are decided: the paper's commit-number.
        decided: u64,
    },
    /// My log is the primary's up to this length, durably.
    PrepareOk {
        /// The view.
        view: View,
        /// How long it is.
        length: u64,
    },
    /// The primary lives, and so many are decided.
    Commit {
        /// The view.
        view: View,
        /// How many.
        decided: u64,
    },
    /// What you lack is no longer in my log: fetch my state.
    Behind {
        /// The view.
        view: View,
        /// The state covers this many at least.
        base: u64,
    },
    /// The view that you speak of is over.
    Newer {
        /// The view now.
        view: View,
    },
    /// How long is your log? A read waits for the answers of a quorum.
    Read {
        /// The read's name at the replica that asks.
        id: ReadId,
    },
    /// The answer to it.
    Length {
        /// The read's name.
        id: ReadId,
        /// How long the log is.
        length: u64,
    },
}

impl Message {
    /// The view in which it is said, if it is said in one.
    pub fn view(&self) -> Option<View> {
        match *self {
            Self::StartViewChange { .. } | Self::Read { .. } | Self::Length { .. } => None,
            Self::DoViewChange { view, .. } | Self::GetState { view, .. } | Self::NewState { view, .. } => Some(view),
            Self::StartView { view } | Self::Prepare { view, .. } | Self::PrepareOk { view, .. } => Some(view),
            Self::Commit { view, .. } | Self::Behind { view, .. } | Self::Newer { view } => Some(view),
        }
    }
}

/// Everything but bulk travels in a lane of its own.
impl Urgent for Message {
    fn urgent(&self) -> bool {
        match self {
            Self::StartViewChange { .. } | Self::DoViewChange { .. } | Self::StartView { .. } | Self::Newer { .. } => true,
            Self::Commit { .. } => true,
            Self::GetState { .. } | Self::NewState { .. } | Self::Prepare { .. } | Self::PrepareOk { .. } => false,
            Self::Behind { .. } | Self::Read { .. } | Self::Length { .. } => false,
        }
    }
}

/// What must survive a crash.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Record {
    /// Nothing of an earlier view is taken any more.
    View {
        /// The view.
        view: View,
    },
    /// The log of this view is held in full: what stood from `at` on gives way to these entries.
    Start {
        /// The view.
        view: View,
        /// The position of the first.
        at: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The log goes on with these entries.
    Append {
        /// The position of the first.
        at: u64,
        /// The entries.
        entries: Vec<Entry>,
    },
    /// The log begins here and is empty: executed state stands for everything before.
    Base {
        /// What the state covers.
        point: Point,
    },
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// The primary was not heard for too long, or a view did not begin.
    Patience,
    /// The primary's next sign of life; everybody's next attempt at what was not answered.
    Pulse,
}

impl Wire for Entry {
    fn put(&self, out: &mut Vec<u8>) {
        self.view.put(out);
        self.value.put(out);
    }
    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        Ok(Self { view: Wire::get(r)?, value: Arc::new(Wire::get(r)?) })
    }
}

wire_newtype!(View);
wire_struct!(Point { view, length });
wire_enum!(Message {
    0 => StartViewChange { view },
    1 => DoViewChange { view, normal, length },
    2 => GetState { view, end, decided },
    3 => NewState { view, prior, entries, until, decided },
    4 => StartView { view },
    5 => Prepare { view, at, entries, decided },
    6 => PrepareOk { view, length },
    7 => Commit { view, decided },
    8 => Behind { view, base },
    9 => Newer { view },
    10 => Read { id },
    11 => Length { id, length },
});
wire_enum!(Record {
    0 => View { view },
    1 => Start { view, at, entries },
    2 => Append { at, entries },
    3 => Base { point },
});
