//! Who is in, and by which strategy, changes while commands are executed.

use crate::pump::{ELECTION, Pump, Setup};
use crate::tally::sum_of;
use concur_core::{Epoch, Frontier, ReplicaId, Rng};
use concur_peers::{Change, ChangeError, Configuration, Newcomer, Outcome, Role};
use concur_replica::{Level, Request};
use std::sync::Arc;
use std::time::Duration;

fn setups(replicas: usize) -> impl Iterator<Item = Setup> {
    concur_decision::registry().iter().map(move |&strategy| Setup::new(strategy, replicas))
}

fn ready(setup: Setup) -> Pump {
    let mut pump = Pump::new(setup);
    let token = pump.command(0, None, &[255, 0]);
    pump.ok(token);
    pump
}

fn done(outcome: Outcome) -> Configuration {
    match outcome {
        Outcome::Done(configuration) => configuration,
        Outcome::Refused(error) => panic!("refused: {error}"),
    }
}

fn configuration(pump: &Pump, index: usize) -> Arc<Configuration> {
    pump.replica(index).status().configuration
}

fn newcomer(name: &str) -> Newcomer {
    Newcomer { name: name.into(), peer: format!("{name}:1"), ..Newcomer::default() }
}

/// A change that leaves everybody in.
fn elsewhere(id: u8) -> Change {
    Change::Move { id: ReplicaId(id), peer: format!("n{id}:77"), client: String::new() }
}

/// Adds a machine that follows.
fn observer(pump: &mut Pump, name: &str, votes: bool) -> usize {
    let next = done(pump.change(0, Change::Add { newcomer: newcomer(name), votes }));
    let index = pump.join(Arc::new(next));
    pump.until("the newcomer holds the state", |pump| pump.replica(index).status().role != "joining");
    index
}

#[test]
fn a_strategy_is_switched_to_every_other_and_back_while_commands_are_executed() {
    for setup in setups(3) {
        let first = setup.strategy.traits.name;
        let mut pump = ready(setup);
        for (at, other) in concur_decision::registry().iter().map(|strategy| strategy.traits.name).filter(|&name| name != first).enumerate()
        {
            for (asked, name) in [(at % 3, other), ((at + 1) % 3, first)] {
                let tokens: Vec<_> = (0..30).map(|n| pump.command(n % 3, None, &[1, 1])).collect();
                let next = done(pump.change(asked, Change::Switch { strategy: name.into() }));
                assert_eq!(next.strategy, name);
                for token in tokens {
                    pump.ok(token);
                }
            }
        }
        pump.converge();
        assert_eq!(pump.count(0, 1), 60 * (concur_decision::registry().len() as u64 - 1));
        assert_eq!(configuration(&pump, 2).epoch, Epoch(2 * (concur_decision::registry().len() as u64 - 1)));
    }
}

#[test]
fn an_observer_follows_serves_reads_and_forwards_writes() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        let index = observer(&mut pump, "n4", false);
        assert_eq!(pump.replica(index).status().role, "observer");
        let token = pump.command(index, None, &[7, 3]);
        assert_eq!(sum_of(&pump.ok(token).body), 3);
        let token = pump.command(1, None, &[7, 4]);
        pump.ok(token);
        let token = pump.strong(index, 7);
        assert_eq!(sum_of(&pump.ok(token).body), 7);
        pump.crash(index);
        pump.start(index);
        let token = pump.strong(index, 7);
        assert_eq!(sum_of(&pump.ok(token).body), 7);
        pump.converge();
    }
}

#[test]
fn a_newcomer_is_promoted_when_it_is_close_and_everybody_else_may_leave() {
    for setup in setups(1) {
        let mut pump = ready(setup);
        for name in ["n2", "n3"] {
            let index = observer(&mut pump, name, true);
            pump.until("it votes", |pump| pump.replica(index).status().role == "voter");
        }
        let token = pump.command(2, None, &[5, 1]);
        pump.ok(token);
        let next = done(pump.change(1, Change::Remove { id: ReplicaId(0) }));
        assert_eq!(next.voters(), [ReplicaId(1), ReplicaId(2)].into_iter().collect());
        let token = pump.command(1, None, &[5, 1]);
        pump.ok(token);
        pump.until("it is removed", |pump| pump.replica(0).status().role == "removed");
        let token = pump.strong(2, 5);
        assert_eq!(sum_of(&pump.ok(token).body), 2);
        done(pump.change(1, Change::Remove { id: ReplicaId(2) }));
        let token = pump.command(1, None, &[5, 1]);
        assert_eq!(sum_of(&pump.ok(token).body), 3);
        assert_eq!(pump.change(1, Change::Remove { id: ReplicaId(1) }), Outcome::Refused(ChangeError::LastVoter { name: "n2".into() }));
    }
}

#[test]
fn who_was_removed_forwards_what_it_is_asked() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        done(pump.change(1, Change::Remove { id: ReplicaId(0) }));
        pump.until("it is removed", |pump| pump.replica(0).status().role == "removed");
        let token = pump.command(0, None, &[5, 1]);
        pump.ok(token);
    }
}

/// It would vote in a life of its disk that is over, that is, never; with state it is promoted in the life that it is in.
#[test]
fn an_observer_whose_disk_was_lost_is_not_promoted_for_what_it_held_before() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        let index = observer(&mut pump, "n4", false);
        let id = ReplicaId(index as u8);
        pump.until("all know that it is close", |pump| (0..3).all(|n| pump.replica(n).status().peers.iter().any(|peer| peer.0 == id)));
        let now = configuration(&pump, 0);
        pump.cut.extend((0..3).map(|from| (from, index)));
        pump.lose_disk(index, now);
        pump.run(ELECTION);
        let promote = Change::Promote { id, incarnation: 0 };
        for asked in 0..3 {
            let refused = pump.change(asked, promote.clone());
            assert!(matches!(refused, Outcome::Refused(ChangeError::Behind { .. })), "{refused:?}");
        }
        pump.cut.clear();
        pump.until("it holds the state again", |pump| pump.replica(index).status().role == "observer");
        pump.run(ELECTION);
        let next = done(pump.change(0, promote));
        assert!(next.may_vote(id, pump.replica(index).settings().incarnation));
        pump.until("it votes", |pump| pump.replica(index).status().role == "voter");
        pump.converge();
    }
}

/// What a member promised in its votes stands in its log. State that is gone, or was put back from before, would have it begin to vote
/// with nothing promised.
#[test]
fn a_member_whose_state_alone_is_lost_or_put_back_does_not_start() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        let index = observer(&mut pump, "n4", false);
        let before = pump.nodes[index].image.clone();
        let id = ReplicaId(index as u8);
        let incarnation = pump.replica(index).settings().incarnation;
        done(pump.change(0, Change::Promote { id, incarnation }));
        pump.until("it votes", |pump| pump.replica(index).status().role == "voter");
        let token = pump.command(index, None, &[7, 1]);
        pump.ok(token);
        pump.converge();
        pump.crash(index);
        assert!(!pump.nodes[index].records.is_empty());
        let whole = std::mem::take(&mut pump.nodes[index].image);
        let error = pump.try_start(index).expect_err("its state is gone");
        assert!(error.to_string().contains("the executed state is gone"), "{error}");
        pump.nodes[index].image = before;
        let error = pump.try_start(index).expect_err("its state is of before");
        assert!(error.to_string().contains("a later epoch than the executed state"), "{error}");
        pump.nodes[index].image = whole;
        pump.start(index);
        pump.converge();
    }
}

#[test]
fn who_missed_the_seal_executes_it_from_the_feed_or_gets_the_state_behind_it() {
    for setup in setups(3) {
        for feed in [true, false] {
            let mut pump = ready(setup.clone());
            pump.converge();
            pump.isolate(2);
            let writes = if feed { 3 } else { 40_000 };
            for n in 0..writes {
                let token = pump.command(0, None, &[(n % 7) as u8, 1]);
                if n % 500 == 0 {
                    pump.ok(token);
                }
            }
            let asked = pump.command(0, None, &[9, 1]);
            pump.ok(asked);
            done(pump.change(0, elsewhere(2)));
            pump.converge();
            assert_eq!(configuration(&pump, 2).epoch, Epoch(1));
        }
    }
}

#[test]
fn a_lost_disk_does_not_vote_until_it_was_rebuilt() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        // The seal binds the lives that were seen.
        done(pump.change(0, elsewhere(1)));
        pump.converge();
        let current = configuration(&pump, 0);
        assert!(current.members.iter().all(|member| member.incarnation != 0), "{current:?}");
        pump.lose_disk(2, current);
        pump.until("it holds the state", |pump| pump.count(2, 255) == 1);
        assert_ne!(pump.replica(2).status().role, "voter");
        done(pump.change(0, Change::Rebuild { id: ReplicaId(2) }));
        pump.until("it votes", |pump| pump.replica(2).status().role == "voter");
        let token = pump.command(2, None, &[5, 1]);
        pump.ok(token);
        pump.converge();
    }
}

#[test]
fn an_observer_that_was_away_while_all_whom_it_knew_left_follows_those_who_came() {
    for setup in setups(1) {
        let mut pump = ready(setup);
        let away = observer(&mut pump, "n2", false);
        pump.isolate(away);
        for name in ["n3", "n4"] {
            let index = observer(&mut pump, name, true);
            pump.until("it votes", |pump| pump.replica(index).status().role == "voter");
        }
        let next = done(pump.change(2, Change::Remove { id: ReplicaId(0) }));
        pump.until("it is removed", |pump| pump.replica(0).status().role == "removed");
        let token = pump.command(2, None, &[5, 1]);
        pump.ok(token);
        pump.mend();
        pump.crash(0);
        pump.until("it follows", |pump| configuration(pump, away).epoch == next.epoch && pump.count(away, 5) == 1);
    }
}

#[test]
fn a_member_takes_anothers_place_in_one_change() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        let next = done(pump.change(1, Change::Replace { id: ReplicaId(0), newcomer: newcomer("n4") }));
        assert_eq!(next.member(ReplicaId(3)).unwrap().role, Role::Promised { replaces: Some(ReplicaId(0)) });
        let index = pump.join(Arc::new(next));
        pump.until("it votes", |pump| pump.replica(index).status().role == "voter");
        let voters = configuration(&pump, 3).voters();
        assert_eq!(voters, [1, 2, 3].map(ReplicaId).into_iter().collect());
        let token = pump.command(3, None, &[5, 1]);
        pump.ok(token);
    }
}

#[test]
fn of_two_changes_one_wins_and_the_other_is_told_and_none_is_taken_up_beside_one() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        let ask = |at: usize| pump.ask(at, Request::Change { change: elsewhere(at as u8), timeout: Duration::from_secs(30) });
        let tokens = [0, 1, 1].map(ask);
        let outcomes: Vec<Outcome> = tokens.iter().map(|&token| concur_core::Wire::from_bytes(&pump.ok(token).body).unwrap()).collect();
        let won = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Done(_))).count();
        assert!(won >= 1, "{outcomes:?}");
        let why = |outcome: &Outcome| match outcome {
            Outcome::Done(_) => true,
            Outcome::Refused(error) => matches!(error, ChangeError::UnderWay { .. } | ChangeError::Superseded { .. }),
        };
        assert!(outcomes.iter().all(why), "{outcomes:?}");
        pump.converge();
        assert_eq!(configuration(&pump, 2).epoch, Epoch(won as u64));
    }
}

#[test]
fn what_could_not_decide_is_refused_before_it_begins() {
    for setup in setups(3) {
        let mut pump = ready(setup);
        pump.converge();
        let before = configuration(&pump, 0);
        pump.crash(1);
        pump.crash(2);
        pump.run(ELECTION * 60);
        let outcome = pump.change(0, elsewhere(2));
        assert!(matches!(outcome, Outcome::Refused(ChangeError::NoQuorum { .. })), "{outcome:?}");
        pump.converge();
        assert_eq!(configuration(&pump, 1), before);
        let request =
            Request::Read { level: Level::Eventual, footprint: concur_core::Footprint::Everything, query: None, timeout: ELECTION };
        let token = pump.ask(1, request);
        pump.ok(token);
    }
}

#[test]
fn a_voter_that_is_long_away_is_gone_on_without_and_votes_again_when_it_is_back() {
    for setup in setups(3).filter(|setup| !setup.strategy.traits.has_leader) {
        let mut pump = ready(Setup { absence_max: Some(ELECTION * 20), retained_bytes_max: 1 << 10, ..setup.clone() });
        pump.converge();
        pump.crash(2);
        // Those who are left have not met it since they were started.
        for index in [0, 1] {
            pump.crash(index);
            pump.start(index);
        }
        for n in 0..600 {
            let token = pump.command(n % 2, None, &[(n % 9) as u8, 1]);
            pump.ok(token);
            pump.run(Duration::from_millis(10));
        }
        let away = configuration(&pump, 0);
        assert_eq!(away.voters(), [0, 1].map(ReplicaId).into_iter().collect());
        assert_eq!(away.member(ReplicaId(2)).unwrap().role, Role::Promised { replaces: None });
        let retained = pump.replica(0).status().protocol.retained;
        assert!(retained < 100, "{}: {retained} instances are kept for nobody", setup.strategy.traits.name);
        pump.start(2);
        pump.until("it votes again", |pump| pump.replica(2).status().role == "voter" && configuration(pump, 2).voters().len() == 3);
        pump.converge();
    }
}

#[test]
fn commands_wait_for_a_few_round_trips_while_an_epoch_ends() {
    for setup in setups(3) {
        for at in 0..3 {
            let mut pump = ready(setup.clone());
            pump.converge();
            let request = Request::Change { change: elsewhere(1), timeout: Duration::from_secs(30) };
            let change = pump.ask(at, request);
            let mut longest = Duration::ZERO;
            for n in 0..60 {
                let (asked, token) = (pump.now, pump.command(n % 3, None, &[n as u8, 1]));
                while !pump.answers.contains_key(&token) {
                    pump.run(Duration::from_micros(100));
                }
                longest = longest.max(pump.now.since(asked));
            }
            assert!(matches!(pump.answers.get(&change), Some(Ok(_))));
            assert_eq!(configuration(&pump, 0).epoch, Epoch(1));
            println!("{} {at}: {longest:?}", setup.strategy.traits.name);
            // A message takes 1.5 ms at most, and a heartbeat comes every 20.
            assert!(longest < Duration::from_millis(18), "{longest:?}");
        }
    }
}

/// What happens in one random run.
struct Random {
    pump: Pump,
    rng: Rng,
    /// The newest configuration that anybody entered.
    newest: Arc<Configuration>,
    /// Unanswered and acknowledged commands, by key: each key is written once.
    asked: Vec<(concur_replica::Token, u8)>,
    names: usize,
}

impl Random {
    fn new(setup: Setup, seed: u64) -> Self {
        let mut pump = ready(Setup { seed, retained_bytes_max: 2000, ..setup });
        pump.converge();
        let newest = configuration(&pump, 0);
        Self { pump, rng: Rng::new(seed), newest, asked: Vec::new(), names: 10 }
    }

    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n as u64) as usize
    }

    fn look(&mut self) {
        for node in self.pump.nodes.iter().filter_map(|node| node.replica.as_ref()) {
            let configuration = node.status().configuration;
            if configuration.epoch > self.newest.epoch {
                self.newest = configuration;
            }
        }
        let next = self.pump.nodes.len();
        if self.newest.member(ReplicaId(next as u8)).is_some() {
            self.pump.join(self.newest.clone());
        }
    }

    fn change(&mut self) -> Change {
        let members = self.newest.members.len();
        let at = self.below(members);
        let id = self.newest.members[at].id;
        self.names += 1;
        let newcomer = newcomer(&format!("n{}", self.names));
        match self.below(9) {
            0 | 1 if members < 6 => Change::Add { newcomer, votes: self.rng.chance(700_000) },
            2 if members > 3 => Change::Remove { id },
            3 => Change::Promote { id, incarnation: 0 },
            4 => Change::Rebuild { id },
            5 if members < 6 => Change::Replace { id, newcomer },
            6 => Change::Lead { id },
            7 => Change::Move { id, peer: format!("moved{}:1", self.names), client: String::new() },
            _ => {
                let all = concur_decision::registry();
                Change::Switch { strategy: all[self.below(all.len())].traits.name.into() }
            }
        }
    }

    fn act(&mut self) {
        let index = self.below(self.pump.nodes.len());
        match self.below(20) {
            0..=9 if self.asked.len() < 200 => {
                let key = self.asked.len() as u8;
                let token = self.pump.command(index, None, &[key, 1]);
                self.asked.push((token, key));
            }
            10..=12 => {
                let change = self.change();
                self.pump.ask(index, Request::Change { change, timeout: Duration::from_secs(5) });
            }
            13 if self.pump.nodes[index].replica.is_some() => self.pump.crash(index),
            14 | 15 => {
                if self.pump.nodes[index].replica.is_none() {
                    self.pump.start(index);
                }
            }
            16 => self.pump.isolate(index),
            17 => self.pump.cut.clear(),
            18 => self.pump.nodes[index].holds_engine ^= true,
            _ => self.pump.loss = if self.rng.chance(500_000) { 100_000 } else { 0 },
        }
        let most = if self.rng.chance(100_000) { 3_000 } else { 60 };
        let time = self.rng.below(most);
        self.pump.run(Duration::from_millis(time));
        self.look();
    }

    /// Everything is mended: the members of the newest configuration come to one state, in which what was acknowledged is.
    fn end(mut self) {
        (self.pump.cut, self.pump.loss) = Default::default();
        for index in 0..self.pump.nodes.len() {
            (self.pump.nodes[index].holds_sync, self.pump.nodes[index].holds_engine) = (false, false);
            if self.pump.nodes[index].replica.is_none() {
                self.pump.start(index);
            }
            self.pump.settle(index);
        }
        let mut agreed = 0;
        for _ in 0..600 {
            self.pump.run(Duration::from_millis(200));
            self.look();
            let members = self.newest.everyone();
            let member = |index: &usize| members.contains(ReplicaId(*index as u8));
            let states = (0..self.pump.nodes.len()).filter(member).map(|index| {
                let replica = self.pump.replica(index);
                (replica.status().executed, replica.digest(), replica.status().role)
            });
            let states: Vec<_> = states.collect();
            // Of an epoch in which nothing is executed yet a frontier may list its lane, or not.
            let equal = |a: &Frontier, b: &Frontier| a.covers(b) && b.covers(a);
            let settled = states
                .iter()
                .all(|state| equal(&state.0, &states[0].0) && state.1 == states[0].1 && state.2 != "joining" && state.2 != "sealed");
            agreed = if settled { agreed + 1 } else { 0 };
            if agreed > 20 {
                return self.check(members);
            }
        }
        let status = |node: &crate::pump::Node| node.replica.as_ref().map(|replica| replica.status());
        for node in self.pump.nodes.iter().filter_map(|node| node.replica.as_ref()) {
            println!("{} {} {:?}", node.settings().config.me, node.digest(), node.machine().sums);
        }
        panic!("no agreement: {:#?}", self.pump.nodes.iter().map(status).collect::<Vec<_>>());
    }

    fn check(&self, members: concur_core::ReplicaSet) {
        for index in members.iter().map(|id| usize::from(id.0)) {
            for &(token, key) in &self.asked {
                let count = self.pump.count(index, key);
                let acknowledged = matches!(self.pump.answers.get(&token), Some(Ok(_)));
                assert!(count <= 1 && (!acknowledged || count == 1), "key {key} was executed {count} times; acknowledged: {acknowledged}");
            }
        }
    }
}

#[test]
fn whatever_changes_while_whatever_fails_what_was_acknowledged_is_executed_once() {
    let runs = std::env::var("CONCUR_RANDOM_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(40);
    let first = std::env::var("CONCUR_RANDOM_FIRST").ok().and_then(|first| first.parse().ok()).unwrap_or(0);
    for seed in first..first + runs {
        for setup in setups(3) {
            println!("seed {seed} {}", setup.strategy.traits.name);
            let mut random = Random::new(setup, seed);
            for _ in 0..200 {
                random.act();
            }
            random.end();
        }
    }
}
