//! What has run: batches by their ids, and clients' sessions. Part of the replicated state and of every snapshot.
//!
//! Both tables commute as the commands do. A session keeps the *set* of numbers it has executed, with the replies that its client
//! may still ask for, never a last number; a batch's id goes into a set a run of its origin's process. Two commands of a session
//! commute unless they bear the same number, and none commutes with the beginning of the session ([`InSession::footprint`]).
//!
//! A session ends by logged time alone. There is no bound on how many replies a client may leave unclaimed within that time, nor
//! on how many sessions there are: refusing one would not commute. Whoever admits requests keeps those bounds.

use bytes::Bytes;
use concur_core::wire::encoded;
use concur_core::{
    BatchId, BootCount, Change, Corrupt, Footprint, Malformed, RangeSet, Reader, ReplicaId, SessionId, Span, Wire, wire_struct,
};
use std::collections::{BTreeMap, BTreeSet};

/// A command's place in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InSession {
    /// The session.
    pub session: SessionId,
    /// The command's number in it; each number is executed at most once.
    pub number: u64,
    /// The client has the replies to every number below this one.
    pub received_below: u64,
}

impl Wire for InSession {
    fn put(&self, out: &mut Vec<u8>) {
        self.session.put(out);
        self.number.put(out);
        self.received_below.put(out);
    }

    fn get(r: &mut Reader) -> Result<Self, Malformed> {
        let place = Self { session: Wire::get(r)?, number: Wire::get(r)?, received_below: Wire::get(r)? };
        // The numbers that ran are kept as half-open ranges.
        if place.number > Self::NUMBER_MAX { Err(Malformed { what: "number in a session" }) } else { Ok(place) }
    }
}

impl InSession {
    /// The largest number of a command in a session.
    pub const NUMBER_MAX: u64 = u64::MAX - 1;

    /// What a command of a session touches besides what the state machine says of it: it needs the session, and no other command
    /// may bear its number. Two that bear one are executed in one order everywhere, so that the same one is executed everywhere.
    pub fn footprint(&self) -> Footprint {
        let (mut session, mut number) = (session_key(self.session), session_key(self.session));
        session.push(0);
        number.push(1);
        number.extend_from_slice(&self.number.to_be_bytes());
        Footprint::Spans { reads: vec![Span::Key(session.into())], writes: vec![Span::Key(number.into())] }
    }

    /// What the beginning of a session touches: every command of it comes before or after.
    pub fn beginning(session: SessionId) -> Footprint {
        let mut key = session_key(session);
        key.push(0);
        Footprint::write(key.into())
    }
}

/// Beside the state machine's own keys; should one of them be equal, two commands are ordered that need not be.
fn session_key(session: SessionId) -> Vec<u8> {
    let mut key = Vec::with_capacity(32);
    key.extend_from_slice(b"\0session\0");
    key.extend_from_slice(&session.0.to_be_bytes());
    key
}

/// Which batches ran, and the clients' sessions.
#[derive(Debug, Clone, Default)]
pub struct Executed {
    batches: BTreeMap<(ReplicaId, BootCount), RangeSet>,
    sessions: BTreeMap<SessionId, Session>,
    logged_ms: u64,
    changed_batches: BTreeSet<(ReplicaId, BootCount)>,
    changed_sessions: BTreeSet<SessionId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Session {
    /// Logged time of its latest command.
    active_ms: u64,
    /// Replies below are not asked for again.
    received_below: u64,
    executed: RangeSet,
    replies: BTreeMap<u64, Bytes>,
}

wire_struct!(Session { active_ms, received_below, executed, replies });

/// What a session says of a command that is about to be executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// Execute it.
    First,
    /// It ran, and this was the reply; empty if the client had said that it has it.
    Before(Bytes),
    /// The session is unknown.
    NoSession,
}

const BATCHES: u8 = b'b';
const SESSIONS: u8 = b's';
const LOGGED: u8 = b't';

impl Executed {
    /// Marks a batch executed; false if it was.
    pub fn begin(&mut self, id: BatchId) -> bool {
        let first = self.batches.entry((id.origin, id.boot)).or_default().insert(id.number);
        if first {
            self.changed_batches.insert((id.origin, id.boot));
        }
        first
    }

    /// Whether a batch is executed.
    pub fn contains(&self, id: BatchId) -> bool {
        self.batches.get(&(id.origin, id.boot)).is_some_and(|numbers| numbers.contains(id.number))
    }

    /// Moves logged time, which never falls, and answers with it.
    pub fn advance_time(&mut self, logged_ms: u64) -> u64 {
        self.logged_ms = self.logged_ms.max(logged_ms);
        self.logged_ms
    }

    /// Logged time.
    pub fn logged_ms(&self) -> u64 {
        self.logged_ms
    }

    /// Opens a session; opening it twice is nothing.
    pub fn open(&mut self, id: SessionId, time_ms: u64) {
        let session = self.sessions.entry(id).or_default();
        session.active_ms = session.active_ms.max(time_ms);
        self.changed_sessions.insert(id);
    }

    /// Whether a command of a session is to be executed.
    pub fn seen(&mut self, at: InSession, time_ms: u64) -> Seen {
        let Some(session) = self.sessions.get_mut(&at.session) else {
            return Seen::NoSession;
        };
        session.active_ms = session.active_ms.max(time_ms);
        session.received_below = session.received_below.max(at.received_below);
        while session.replies.first_key_value().is_some_and(|(&number, _)| number < session.received_below) {
            session.replies.pop_first();
        }
        self.changed_sessions.insert(at.session);
        if session.executed.insert(at.number) {
            return Seen::First;
        }
        Seen::Before(session.replies.get(&at.number).cloned().unwrap_or_default())
    }

    /// Keeps the reply of a command of a session for a client that asks again.
    pub fn keep_reply(&mut self, at: InSession, reply: Bytes) {
        if let Some(session) = self.sessions.get_mut(&at.session)
            && at.number >= session.received_below
        {
            session.replies.insert(at.number, reply);
        }
    }

    /// Ends the sessions that had no command since `before_ms`.
    pub fn expire(&mut self, before_ms: u64) {
        let changed = &mut self.changed_sessions;
        self.sessions.retain(|&id, session| {
            let live = session.active_ms >= before_ms;
            if !live {
                changed.insert(id);
            }
            live
        });
    }

    /// Whether a session had no command since `before_ms`.
    pub fn any_idle_since(&self, before_ms: u64) -> bool {
        self.sessions.values().any(|session| session.active_ms < before_ms)
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// What changed in the durable image since the last call.
    pub fn changes(&mut self) -> Vec<Change> {
        let mut out = Vec::with_capacity(2);
        for key in std::mem::take(&mut self.changed_batches) {
            let value = self.batches.get(&key).map(Wire::to_bytes);
            out.push(Change { key: image_key(BATCHES, &key), value });
        }
        for id in std::mem::take(&mut self.changed_sessions) {
            let value = self.sessions.get(&id).map(Wire::to_bytes);
            out.push(Change { key: image_key(SESSIONS, &id), value });
        }
        if !out.is_empty() {
            out.push(Change { key: image_key(LOGGED, &()), value: Some(self.logged_ms.to_bytes()) });
        }
        out
    }

    /// The whole durable image.
    pub fn image(&self) -> Vec<(Bytes, Bytes)> {
        let batches = self.batches.iter().map(|(key, numbers)| (image_key(BATCHES, key), numbers.to_bytes()));
        let sessions = self.sessions.iter().map(|(id, session)| (image_key(SESSIONS, id), session.to_bytes()));
        let logged = std::iter::once((image_key(LOGGED, &()), self.logged_ms.to_bytes()));
        batches.chain(sessions).chain(logged).collect()
    }

    /// Takes one entry of an image.
    pub fn load(&mut self, key: &Bytes, value: &Bytes) -> Result<(), Corrupt> {
        match key.first() {
            Some(&BATCHES) => {
                self.batches.insert(Wire::from_bytes(&key.slice(1..))?, RangeSet::from_bytes(value)?);
            }
            Some(&SESSIONS) => {
                self.sessions.insert(SessionId::from_bytes(&key.slice(1..))?, Session::from_bytes(value)?);
            }
            Some(&LOGGED) => self.logged_ms = u64::from_bytes(value)?,
            _ => return Err(Corrupt::new("unknown entry in the table of what was executed")),
        }
        Ok(())
    }

    /// A hash of what two replicas with equal frontiers must agree on.
    pub fn digest(&self) -> u64 {
        let mut bytes = Vec::new();
        for (key, value) in self.image() {
            if key.first() != Some(&LOGGED) {
                key.put(&mut bytes);
                value.put(&mut bytes);
            }
        }
        bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }
}

fn image_key(kind: u8, key: &impl Wire) -> Bytes {
    encoded(|out| {
        out.push(kind);
        key.put(out);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, received_below: u64) -> InSession {
        InSession { session: SessionId(9), number, received_below }
    }

    #[test]
    fn a_command_runs_once_and_its_reply_is_kept_until_received() {
        let mut executed = Executed::default();
        assert_eq!(executed.seen(at(0, 0), 5), Seen::NoSession);
        executed.open(SessionId(9), 5);
        assert_eq!(executed.seen(at(0, 0), 5), Seen::First);
        executed.keep_reply(at(0, 0), Bytes::from_static(b"r"));
        assert_eq!(executed.seen(at(0, 0), 6), Seen::Before(Bytes::from_static(b"r")));
        assert_eq!(executed.seen(at(1, 1), 7), Seen::First);
        assert_eq!(executed.seen(at(0, 0), 8), Seen::Before(Bytes::new()));
        executed.expire(9);
        assert_eq!(executed.sessions(), 0);
    }

    #[test]
    fn the_tables_commute() {
        let run = |order: &[u64]| {
            let mut executed = Executed::default();
            executed.open(SessionId(9), 0);
            for &n in order {
                if executed.seen(at(n, n / 2), n) == Seen::First {
                    executed.keep_reply(at(n, n / 2), Bytes::from(vec![n as u8]));
                }
            }
            executed.digest()
        };
        assert_eq!(run(&[0, 1, 2, 3, 4]), run(&[4, 2, 0, 1, 3]));
    }

    #[test]
    fn what_does_not_commute_in_a_session_interferes() {
        let other = InSession { session: SessionId(8), number: 0, received_below: 0 };
        assert!(!at(0, 0).footprint().interferes(&at(1, 0).footprint()));
        assert!(!at(0, 0).footprint().interferes(&other.footprint()));
        assert!(at(0, 0).footprint().interferes(&at(0, 1).footprint()));
        assert!(at(0, 0).footprint().interferes(&InSession::beginning(SessionId(9))));
        assert!(!at(0, 0).footprint().interferes(&InSession::beginning(SessionId(8))));
    }

    #[test]
    fn an_image_holds_everything() {
        let mut executed = Executed::default();
        executed.open(SessionId(9), 3);
        executed.seen(at(4, 0), 3);
        executed.keep_reply(at(4, 0), Bytes::from_static(b"x"));
        executed.begin(BatchId { origin: ReplicaId(1), boot: BootCount(300), number: 2 });
        let mut copy = Executed::default();
        for (key, value) in executed.image() {
            copy.load(&key, &value).unwrap();
        }
        assert_eq!(copy.digest(), executed.digest());
        let mut replayed = Executed::default();
        for change in executed.changes() {
            replayed.load(&change.key, &change.value.unwrap()).unwrap();
        }
        assert_eq!(replayed.digest(), executed.digest());
    }
}
