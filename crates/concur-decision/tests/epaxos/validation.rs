//! Recovery where more than one voter may be missing from a fast quorum: scenarios of five.

use bytes::Bytes;
use concur_core::*;
use concur_decision::epaxos::{Deps, EPaxos, Message, Record, Timer, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const VOTERS: u8 = 5;

/// Five cores, and links that carry what a test lets pass. Records are durable at once.
struct Group {
    cores: Vec<Option<EPaxos>>,
    contexts: Vec<Context<EPaxos>>,
    flying: Vec<(u8, u8, Message)>,
    decided: BTreeMap<Instance, (Value, Deps)>,
    notes: Vec<&'static str>,
}

impl Group {
    fn new() -> Self {
        let contexts = (0..VOTERS).map(|me| {
            let config = Config {
                group: GroupId(1),
                epoch: Epoch(1),
                me: ReplicaId(me),
                quorums: EPaxos::quorums(ReplicaSet::first(usize::from(VOTERS))),
                heartbeat: Duration::from_millis(20),
                election: Duration::from_millis(100),
                window_max: 64,
                message_bytes_max: 4096,
                retained_bytes_max: 0,
            };
            Context::new(Time(0), Rng::new(u64::from(me)), Arc::new(config))
        });
        let contexts = contexts.collect();
        let mut group =
            Self { cores: vec![None; usize::from(VOTERS)], contexts, flying: Vec::new(), decided: BTreeMap::new(), notes: Vec::new() };
        (0..VOTERS).for_each(|at| group.start(at, Vec::new()));
        group
    }

    fn start(&mut self, at: u8, records: Vec<Record>) {
        let boot = Boot { records, mark: Mark::start(Epoch(1)), first: None, fresh: false, boot: BootCount(1) };
        let core = EPaxos::recover(boot, &mut self.contexts[usize::from(at)]).expect("nothing is corrupt");
        self.cores[usize::from(at)] = Some(core);
        self.perform(at);
    }

    fn crash(&mut self, at: u8) {
        self.cores[usize::from(at)] = None;
        for other in 0..VOTERS {
            self.step(other, Input::Peer(ReplicaId(at), Health::Down));
        }
    }

    fn step(&mut self, at: u8, input: Input<EPaxos>) {
        if let Some(core) = &mut self.cores[usize::from(at)] {
            core.step(input, &mut self.contexts[usize::from(at)]);
            self.perform(at);
        }
    }

    fn perform(&mut self, at: u8) {
        for effect in self.contexts[usize::from(at)].take_effects() {
            match effect {
                Effect::Send { to, message, .. } => self.flying.extend(to.iter().map(|to| (at, to.0, message.clone()))),
                Effect::Solicit { message, .. } => self.flying.extend((0..VOTERS).map(|to| (at, to, message.clone()))),
                Effect::Decide { run, value, order } => {
                    let before = self.decided.insert(run.first, (value.clone(), order.clone()));
                    assert!(before.is_none_or(|before| before == (value, order)), "{} is decided differently", run.first);
                }
                Effect::Note { name, .. } => self.notes.push(name),
                _ => {}
            }
        }
    }

    /// Delivers what passes, and what follows, until nothing that passes is in flight; the rest is lost.
    fn deliver(&mut self, passes: impl Fn(u8, u8, &Message) -> bool) {
        while !self.flying.is_empty() {
            let (from, to, message) = self.flying.remove(0);
            if from == to || passes(from, to, &message) {
                self.step(to, Input::Receive { from: ReplicaId(from), message });
            }
        }
    }

    /// A command on one key, proposed at `at` and noted by `by`; every answer is lost if `silent`.
    fn propose(&mut self, at: u8, by: &[u8], silent: bool) -> Instance {
        let id = BatchId { origin: ReplicaId(at), boot: BootCount(1), number: 0 };
        let footprint = Footprint::write(Bytes::from_static(b"k"));
        self.step(at, Input::Submit(Value::Batch(Batch { id, logged_ms: 0, footprint, commands: Bytes::new() })));
        self.deliver(|from, to, message| match message {
            Message::PreAccept { .. } => by.contains(&to),
            Message::PreAccepted { .. } => by.contains(&from) && !silent,
            _ => false,
        });
        Instance { lane: LaneId(at), number: 0 }
    }

    /// Has `at` take up `instance`, with only `with` to hear and to answer it.
    fn recover(&mut self, at: u8, instance: Instance, with: &[u8]) {
        self.step(at, Input::Peer(ReplicaId(instance.lane.0), Health::Down));
        for _ in 0..200 {
            self.step(at, Input::Expired(Timer::Tick));
            let about = |message: &Message| matches!(message, Message::Recover { instance: taken_up, .. } if *taken_up == instance);
            if self.flying.iter().any(|(_, _, message)| about(message)) {
                self.deliver(|from, to, message| {
                    let other = if from == at { to } else { from };
                    with.contains(&other)
                        && (about(message)
                            || matches!(message, Message::Recovered { .. } | Message::Validate { .. } | Message::Validated { .. }))
                });
                return;
            }
            self.flying.clear();
        }
        panic!("a coordinator that is gone is recovered from");
    }

    /// Everyone who lives goes on, with every link up, until these are decided.
    fn settle(&mut self, instances: &[Instance]) {
        for _ in 0..1000 {
            (0..VOTERS).for_each(|at| self.step(at, Input::Expired(Timer::Tick)));
            self.deliver(|_, _, _| true);
            if instances.iter().all(|instance| self.decided.contains_key(instance)) {
                return;
            }
        }
        panic!("{instances:?} are not decided: {:?}", self.cores.iter().flatten().map(Protocol::inspect).collect::<Vec<_>>());
    }

    fn is_noop(&self, instance: Instance) -> bool {
        self.decided[&instance].0.is_noop()
    }
}

#[test]
fn quorums_are_those_of_the_paper() {
    let sizes = |voters: usize| {
        let quorums = EPaxos::quorums(ReplicaSet::first(voters));
        (quorums.size(Phase::Accept), quorums.size(Phase::Fast))
    };
    assert_eq!((1..=9).map(sizes).collect::<Vec<_>>(), [(1, 1), (2, 2), (2, 2), (3, 3), (3, 3), (4, 4), (4, 5), (5, 5), (5, 6)]);
    for voters in 1..=16 {
        let quorums = EPaxos::quorums(ReplicaSet::first(voters));
        for (a, b) in [(Phase::Accept, Phase::Accept), (Phase::Accept, Phase::Fast), (Phase::Fast, Phase::Fast)] {
            assert_eq!(quorums.disjoint(a, b), None, "{voters} voters");
        }
    }
}

#[test]
fn a_fast_commit_by_three_of_five_outlives_its_coordinator_and_one_more() {
    let mut group = Group::new();
    let instance = group.propose(0, &[1, 2], false);
    assert!(group.notes.contains(&"fast path"));
    let decided = group.decided.remove(&instance).expect("decided where it was proposed");
    group.crash(0);
    group.crash(1);
    group.settle(&[instance]);
    assert!(group.notes.contains(&"command validated"));
    assert_eq!(group.decided[&instance], decided);
}

#[test]
fn a_command_beside_which_another_was_decided_becomes_a_no_op() {
    let mut group = Group::new();
    let lost = group.propose(0, &[2], true);
    let decided = group.propose(1, &[3, 4], false);
    assert!(!group.is_noop(decided));
    group.step(1, Input::Expired(Timer::Tick));
    // Those who noted it learn of it, whoever had noted the other does not.
    let (value, deps) = group.decided[&decided].clone();
    for to in [3, 4] {
        let chosen = concur_decision::epaxos::Chosen::Command(value.clone());
        let message = Message::Commit { instance: decided, chosen, deps: deps.clone() };
        group.step(to, Input::Receive { from: ReplicaId(1), message });
    }
    group.flying.clear();
    group.crash(0);
    group.crash(1);
    group.settle(&[lost]);
    assert!(group.notes.contains(&"recovery in doubt"), "{:?}", group.notes);
    assert!(group.is_noop(lost));
}

/// One that is in doubt is decided and lists the other, which is then decided too.
#[test]
fn what_is_in_doubt_is_waited_for() {
    let mut group = Group::new();
    let first = group.propose(0, &[2], true);
    let second = group.propose(1, &[3], true);
    group.crash(0);
    group.recover(2, first, &[1, 3]);
    assert!(group.notes.contains(&"recovery in doubt"), "{:?}", group.notes);
    assert!(!group.decided.contains_key(&first));
    group.settle(&[first, second]);
    assert!(!group.is_noop(second));
    assert!(group.is_noop(first) || group.decided[&second].1.lists(first) || group.decided[&first].1.lists(second));
}

#[test]
fn two_that_wait_for_each_other_are_not_stuck() {
    let mut group = Group::new();
    let first = group.propose(0, &[2], true);
    let second = group.propose(1, &[3], true);
    // Each is taken up with the other's coordinator, which then dies.
    group.recover(2, first, &[1, 3]);
    group.recover(3, second, &[0, 2]);
    assert_eq!(group.notes.iter().filter(|&&note| note == "recovery in doubt").count(), 2, "{:?}", group.notes);
    assert!(group.decided.is_empty());
    group.crash(0);
    group.crash(1);
    group.settle(&[first, second]);
}

fn instance(lane: u8, number: u64) -> Instance {
    Instance { lane: LaneId(lane), number }
}

fn write(key: &'static [u8], number: u64) -> Value {
    let id = BatchId { origin: ReplicaId(0), boot: BootCount(1), number };
    Value::Batch(Batch { id, logged_ms: 0, footprint: Footprint::write(Bytes::from_static(key)), commands: Bytes::new() })
}

/// The verdict of `at` on the first command of lane 1, on the key "k", with these dependencies in lane 0.
fn verdict(group: &mut Group, at: u8, below: u64) -> Option<Verdict> {
    group.flying.clear();
    let (first, initial) = (instance(1, 0), Deps(vec![below, 0, 0, 0, 0]));
    let ballot = concur_decision::epaxos::Ballot { round: 1, owner: ReplicaId(2) };
    group.step(at, Input::Receive { from: ReplicaId(2), message: Message::Recover { instance: first, ballot } });
    let message = Message::Validate { instance: first, ballot, value: write(b"k", 99), initial };
    group.step(at, Input::Receive { from: ReplicaId(2), message });
    group.flying.iter().find_map(|(_, _, message)| match message {
        Message::Validated { verdict, .. } => Some(verdict.clone()),
        _ => None,
    })
}

/// Replica 4 with four commands of lane 0, decided and executed there: on "k", "k", "k" and "other".
fn after_four() -> Group {
    let mut group = Group::new();
    for number in 0..4 {
        let chosen = concur_decision::epaxos::Chosen::Command(write(if number == 3 { b"other" } else { b"k" }, number));
        let message = Message::Commit { instance: instance(0, number), chosen, deps: Deps(vec![number, 0, 0, 0, 0]) };
        group.step(4, Input::Receive { from: ReplicaId(0), message });
    }
    let lane = Lane { below: 4, beyond: RangeSet::new() };
    group.step(4, Input::Floor(Frontier { epoch: Epoch(1), lanes: vec![lane] }));
    group
}

fn retained(group: &Group, at: u8) -> u64 {
    group.cores[usize::from(at)].as_ref().expect("lives").inspect().retained
}

#[test]
fn what_is_evicted_and_not_forgotten_is_looked_at_exactly() {
    for (below, expected) in [(0, Verdict::Impossible), (2, Verdict::Impossible), (3, Verdict::Possible { doubts: vec![] })] {
        let mut group = after_four();
        (0..VOTERS - 1).for_each(|peer| group.step(4, Input::Peer(ReplicaId(peer), Health::Down)));
        group.step(4, Input::Expired(Timer::Tick));
        assert_eq!(retained(&group, 4), 4, "nobody has pledged to list anything");
        assert_eq!(verdict(&mut group, 4, below), Some(expected), "a list below {below}");
    }
}

#[test]
fn nothing_is_forgotten_before_a_slow_quorum_has_pledged_to_list_it() {
    use concur_decision::epaxos::Pledge;
    let mut group = after_four();
    (0..VOTERS - 1).for_each(|peer| group.step(4, Input::Peer(ReplicaId(peer), Health::Down)));
    let pledged = |group: &mut Group, from: u8, noted: u64| {
        let pledge = Pledge { bounds: vec![4, 0, 0, 0, 0], noted: vec![4, noted, 0, 0, 0] };
        group.step(4, Input::Receive { from: ReplicaId(from), message: Message::Pledged { pledge } });
        (0..VOTERS - 1).for_each(|peer| group.step(4, Input::Peer(ReplicaId(peer), Health::Down)));
        group.step(4, Input::Expired(Timer::Tick));
        retained(group, 4)
    };
    assert_eq!(pledged(&mut group, 0, 0), 4);
    assert_eq!(pledged(&mut group, 4, 0), 4);
    // Who pledges now and had noted something before may have noted it with nothing to add, unless it is decided.
    assert_eq!(pledged(&mut group, 1, 1), 4);
    assert_eq!(pledged(&mut group, 3, 0), 0);
    // What lists less has a slow quorum against it; what lists as much has nothing against it that could be forgotten.
    assert_eq!(verdict(&mut group, 4, 3), Some(Verdict::Impossible));
    let mut again = Group::new();
    let records = group.cores[4].as_ref().expect("lives").checkpoint();
    again.start(4, records);
    assert_eq!(verdict(&mut again, 4, 4), None, "the dependencies of a command do not change");
    assert_eq!(verdict(&mut again, 4, 3), Some(Verdict::Impossible));
}

/// A state says that instances are decided, not as what: whoever voted on them still answers those who must know.
#[test]
fn who_installed_state_still_votes_on_what_it_covers() {
    let mut group = Group::new();
    let noted = group.propose(0, &[4], true);
    let lane = Lane { below: 1, beyond: RangeSet::new() };
    let frontier = Frontier { epoch: Epoch(1), lanes: vec![lane] };
    group.step(4, Input::Installed(Mark { frontier, orders: Vec::new() }));
    group.flying.clear();
    let ballot = concur_decision::epaxos::Ballot { round: 1, owner: ReplicaId(2) };
    group.step(4, Input::Receive { from: ReplicaId(2), message: Message::Recover { instance: noted, ballot } });
    let remembers = |message: &Message| {
        matches!(message, Message::Recovered { report: concur_decision::epaxos::Report::PreAccepted { equal: true, .. }, .. })
    };
    assert!(group.flying.iter().any(|(_, _, message)| remembers(message)), "{:?}", group.flying);
    // And what it noted speaks against what does not list it, as long as it is not known to be nothing.
    assert_eq!(verdict(&mut group, 4, 0), Some(Verdict::Possible { doubts: vec![noted] }));
}
