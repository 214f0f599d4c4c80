//! What the clients saw, held against the one history that every member's watch tells.
//!
//! Each revision has its changes; a watch of every key from the first revision on must bring all of them, one after another, alike
//! everywhere. An acknowledged write names its revision: there its changes must stand, and no others. A read names the revision that
//! it saw: what it answered must be what that revision left. Nobody is told of a revision below one that was known to anybody when
//! the call began, and a write is told of a later one.

use bytes::Bytes;
use concur_proto::mvccpb::event::EventType;
use concur_proto::mvccpb::{Event, KeyValue};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What one revision did to a key: a value, or none.
pub(crate) type Change = (Bytes, Option<Bytes>);

/// What a call was answered.
pub(crate) enum Answer {
    /// It changed these, in this order, and says what was there before, if it was asked to.
    Wrote { changes: Vec<Change>, before: Option<(Bytes, Option<KeyValue>)>, compared: Option<(Bytes, i64)> },
    /// It changed nothing, and found this; or it compared with that revision of change in vain.
    Read { key: Bytes, found: Option<KeyValue>, compared: Option<i64> },
}

pub(crate) struct Told {
    pub(crate) revision: i64,
    pub(crate) answer: Answer,
}

/// What is known of one run.
#[derive(Default)]
pub(crate) struct History {
    /// Every revision that was in any answer is at most this.
    pub(crate) known: i64,
    pub(crate) told: Vec<Told>,
    /// What was tried to be written; each value once.
    pub(crate) tried: BTreeSet<Change>,
    /// Keys whose deletion was asked for and not answered, and how often.
    pub(crate) unanswered: BTreeMap<Bytes, u64>,
    /// What each member's watch has told: the events of revision 2 first.
    pub(crate) watched: Vec<Vec<Vec<Event>>>,
    /// Keys with a lease, and until when it cannot end.
    pub(crate) leased: BTreeMap<Bytes, Instant>,
    pub(crate) violations: Vec<String>,
}

impl History {
    pub(crate) fn new(members: usize) -> Self {
        Self { known: 1, watched: vec![Vec::new(); members], ..Self::default() }
    }

    /// A call that began when `known` was is answered.
    pub(crate) fn tell(&mut self, known: i64, revision: i64, answer: Answer) {
        let least = known + i64::from(matches!(answer, Answer::Wrote { .. }));
        if revision < least {
            self.violations.push(format!("an answer says revision {revision}; {known} was known when the call began"));
        }
        self.known = self.known.max(revision);
        self.told.push(Told { revision, answer });
    }

    /// The next revision that a member's watch must tell of.
    pub(crate) fn next(&self, member: usize) -> i64 {
        self.watched[member].len() as i64 + 2
    }

    /// A member's watch tells of some events.
    pub(crate) fn watch(&mut self, member: usize, events: Vec<Event>) {
        for events in events.chunk_by(|a, b| mod_revision(a) == mod_revision(b)) {
            let (revision, next) = (mod_revision(&events[0]), self.next(member));
            if revision != next {
                return self.violations.push(format!("n{member}'s watch tells of revision {revision} where {next} must come"));
            }
            for event in events.iter().filter(|event| event.r#type() == EventType::Delete) {
                let key = &event.kv.as_ref().expect("an event has a key").key;
                if let Some(until) = self.leased.get(key).filter(|until| **until > Instant::now()) {
                    self.violations.push(format!("{} went {:?} too early", text(key), *until - Instant::now()));
                }
            }
            self.watched[member].push(events.to_vec());
        }
    }

    /// A key's lease was asked for just now.
    pub(crate) fn lease(&mut self, key: &Bytes, granted_at: Instant, ttl: Duration) {
        self.leased.insert(key.clone(), granted_at + ttl);
    }

    /// Everything that must hold in the end; the state that the history leads to.
    pub(crate) fn judge(mut self) -> BTreeMap<Bytes, KeyValue> {
        assert!(self.violations.is_empty(), "{:#?}", self.violations);
        let history = self.watched[0].clone();
        for (member, watched) in self.watched.iter().enumerate() {
            let differs = (0..history.len()).find(|&i| watched.get(i) != history.get(i)).map(|i| i + 2);
            assert_eq!((differs, watched.len()), (None, history.len()), "the watches of n0 and n{member} differ");
        }
        self.told.sort_by_key(|told| (told.revision, matches!(told.answer, Answer::Read { .. })));
        let mut told = std::mem::take(&mut self.told).into_iter().peekable();
        let (mut state, mut done) = (BTreeMap::new(), BTreeSet::new());
        while let Some(before) = told.next_if(|told| told.revision < 2) {
            check_read(&state, &before);
        }
        for (revision, events) in (2..).zip(&history) {
            let before = state.clone();
            let changes: Vec<Change> = events.iter().map(|event| apply(&mut state, revision, event)).collect();
            let write = told.next_if(|told| told.revision == revision && matches!(told.answer, Answer::Wrote { .. }));
            match write {
                Some(Told { answer: Answer::Wrote { changes: said, before: found, compared }, .. }) => {
                    assert_eq!(said, changes, "revision {revision} is not what its writer was told");
                    if let Some((key, found)) = found {
                        assert_eq!(before.get(&key), found.as_ref(), "what was before revision {revision} in {}", text(&key));
                    }
                    if let Some((key, modified)) = compared {
                        assert_eq!(before.get(&key).map_or(0, |kv| kv.mod_revision), modified, "what revision {revision} compared");
                    }
                }
                _ => changes.iter().for_each(|change| self.unexplained(revision, change)),
            }
            for change in changes.into_iter().filter(|(_, value)| value.is_some()) {
                assert!(self.tried.contains(&change), "revision {revision} has what nobody wrote: {}", text(&change.0));
                assert!(done.insert(change.clone()), "revision {revision} writes {} a second time", text(&change.0));
            }
            while let Some(read) = told.next_if(|told| told.revision == revision) {
                check_read(&state, &read);
            }
        }
        assert!(told.next().is_none(), "an answer says a revision that never came");
        state
    }

    /// Changes whose writer was told nothing.
    fn unexplained(&mut self, revision: i64, (key, value): &Change) {
        if value.is_none() && !self.leased.contains_key(key) {
            let left = self.unanswered.get_mut(key).filter(|left| **left > 0);
            *left.unwrap_or_else(|| panic!("revision {revision} deletes {}, and nobody asked for that", text(key))) -= 1;
        }
    }
}

fn check_read(state: &BTreeMap<Bytes, KeyValue>, told: &Told) {
    let Answer::Read { key, found, compared } = &told.answer else {
        panic!("two writes were told of revision {}, or it is not there", told.revision);
    };
    let is = state.get(key);
    assert_eq!(is, found.as_ref(), "a read of {} at revision {}", text(key), told.revision);
    if let Some(compared) = compared {
        assert_ne!(is.map_or(0, |kv| kv.mod_revision), *compared, "a comparison of {} at revision {} failed", text(key), told.revision);
    }
}

/// Changes the state by an event, which must say what the state says.
fn apply(state: &mut BTreeMap<Bytes, KeyValue>, revision: i64, event: &Event) -> Change {
    let kv = event.kv.clone().expect("an event has a key");
    if event.r#type() == EventType::Delete {
        assert!(state.remove(&kv.key).is_some(), "revision {revision} deletes {}, which is not there", text(&kv.key));
        return (kv.key, None);
    }
    let before = state.get(&kv.key);
    let (created, version) = before.map_or((revision, 1), |before| (before.create_revision, before.version + 1));
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (created, revision, version), "{}", text(&kv.key));
    state.insert(kv.key.clone(), kv.clone());
    (kv.key, Some(kv.value))
}

fn mod_revision(event: &Event) -> i64 {
    event.kv.as_ref().map_or(0, |kv| kv.mod_revision)
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}
