//! Whole histories of clients, held to what was executed.
//!
//! The [ledger](crate::ledger) knows the one order in which commands that interfere were executed, and every read knows how much of
//! that order it saw. So no order has to be searched for; four things are checked, each nearly linear:
//! - the commands, executed once more in that order on an empty store, give the replies that clients got;
//! - every read, weak ones too, shows exactly the state at its place;
//! - places follow real time: what was asked after something else had been answered comes behind it (strong reads and commands);
//! - ordered per key, the orders of the keys and real time together have no cycle, so that what touches several keys is atomic.
//!
//! One history in a few is also given to a checker that knows nothing of places: [`linear`](crate::linear).

use crate::clients::{Client, Event};
use crate::ledger::{Ledger, Violation};
use crate::linear;
use crate::requests;
use crate::schedule::{Act, Schedule};
use crate::witness::{ChainId, key};
use crate::world::Verdict;
use bytes::Bytes;
use concur_core::{At, StateMachine, Wire};
use concur_kv::{Answer, Config, Kv, Ordering, Reply, Revision};
use std::collections::BTreeMap;

/// One history in so many goes to the second checker.
const SECOND_EVERY: u64 = 8;

/// Where an operation stands in a chain: commands at even numbers, reads between them.
type Place = u64;

/// An operation with its places.
struct Placed<'a> {
    event: &'a Event,
    places: Vec<(ChainId, Place)>,
}

/// What keys held, as their chains went on.
type Versions = BTreeMap<u8, Vec<(u64, Option<(Bytes, Revision)>)>>;

pub(crate) fn check(schedule: &Schedule, ledger: &Ledger, clients: &[Client]) -> Verdict {
    let events: Vec<&Event> = clients.iter().flat_map(|client| &client.history).collect();
    if let Err(violation) = ledger.decisions.check_ordered().and_then(|()| check_placed(schedule, ledger, &events)) {
        return Verdict::Violated(violation);
    }
    if schedule.seed.is_multiple_of(SECOND_EVERY) { linear::check(schedule, &events) } else { Verdict::Valid }
}

fn check_placed(schedule: &Schedule, ledger: &Ledger, events: &[&Event]) -> Result<(), Violation> {
    let versions = replay(schedule, ledger)?;
    let mut placed = Vec::with_capacity(events.len());
    for &event in events {
        if event.operation.act.is_read() {
            let Some(places) = check_read(schedule, ledger, &versions, event)? else { continue };
            if event.operation.act != Act::Peek {
                placed.push(Placed { event, places });
            }
        } else if let Some(executed) = ledger.executed(event.id) {
            placed.push(Placed { event, places: executed.places.iter().map(|&(chain, count)| (chain, 2 * count)).collect() });
        } else if event.returned.is_some() {
            return Err(Violation::new("lost", format!("{} was acknowledged and nobody executed it", event.id)));
        }
    }
    placed.sort_by_key(|placed| (placed.event.invoked, placed.event.id));
    for chain in 0..=schedule.keys {
        check_real_time(&placed, chain)?;
    }
    if schedule.ordering == Ordering::PerKey { check_acyclic(&placed) } else { Ok(()) }
}

/// Executes everything once more, on an empty store.
fn replay(schedule: &Schedule, ledger: &Ledger) -> Result<Versions, Violation> {
    let mut kv = Kv::new(Config { ordering: schedule.ordering, ..Config::default() });
    let mut versions = Versions::new();
    for executed in &ledger.executed {
        let reply = kv.apply(&executed.body, &At { time_ms: 0 });
        if reply != executed.reply {
            let (first, now) = (Reply::from_bytes(&executed.reply), Reply::from_bytes(&reply));
            let message = format!("{} was answered {first:?}, and executed again in order, {now:?}", executed.op);
            return Err(Violation::new("replay", message));
        }
        for number in 0..=schedule.keys {
            let chain = chain_of(schedule, number);
            let Some(&(_, count)) = executed.places.iter().find(|(id, _)| *id == chain) else { continue };
            let now = kv.get(&key(number)).map(|kv| (kv.value, kv.mod_revision));
            let known = versions.entry(number).or_default();
            if known.last().map(|(_, last)| last) != Some(&now) {
                known.push((count, now));
            }
        }
    }
    Ok(versions)
}

fn chain_of(schedule: &Schedule, number: u8) -> ChainId {
    if schedule.ordering == Ordering::Total { 0 } else { number }
}

/// A read must show the state at its place; answers with that place, a chain.
fn check_read(
    schedule: &Schedule,
    ledger: &Ledger,
    versions: &Versions,
    event: &Event,
) -> Result<Option<Vec<(ChainId, Place)>>, Violation> {
    if event.returned.is_none() {
        return Ok(None);
    }
    let Ok(Reply::Read(Answer::Range(range))) = Reply::from_bytes(&event.answer) else {
        return Err(Violation::new("read", format!("{} was answered with {:?}", event.id, Reply::from_bytes(&event.answer))));
    };
    let Some(seen) = ledger.seen(&event.query) else {
        return Err(Violation::new("read", format!("{} was answered by nobody", event.id)));
    };
    let count = |chain: ChainId| seen.iter().find(|(id, _)| *id == chain).map_or(0, |&(_, count)| count);
    let mut places = Vec::new();
    let mut expected = Vec::new();
    for number in requests::keys(&event.operation, schedule.keys) {
        let chain = chain_of(schedule, number);
        if !places.iter().any(|(id, _)| *id == chain) {
            places.push((chain, 2 * count(chain) + 1));
        }
        let known = versions.get(&number).map_or(&[][..], |known| &known[..]);
        let index = known.partition_point(|&(at, _)| at <= count(chain));
        if let Some((_, Some((value, revision)))) = index.checked_sub(1).map(|index| &known[index]) {
            expected.push((key(number), value.clone(), *revision));
        }
    }
    let found: Vec<_> = range.kvs.into_iter().map(|kv| (kv.key, kv.value, kv.mod_revision)).collect();
    if found != expected {
        let message = format!("{:?} {} after {places:?} shows {found:?} and not {expected:?}", event.operation.act, event.id);
        return Err(Violation::new("read", message));
    }
    Ok(Some(places))
}

/// What was asked after something was answered stands behind it.
fn check_real_time(placed: &[Placed<'_>], chain: ChainId) -> Result<(), Violation> {
    let of = |placed: &Placed<'_>| placed.places.iter().find(|(id, _)| *id == chain).map(|&(_, place)| place);
    let here: Vec<(&Event, Place)> = placed.iter().filter_map(|placed| Some((placed.event, of(placed)?))).collect();
    let mut returned: Vec<(&Event, Place)> = here.iter().copied().filter(|(event, _)| event.returned.is_some()).collect();
    returned.sort_by_key(|(event, _)| event.returned);
    let mut returned = returned.into_iter().peekable();
    let mut latest: Option<(&Event, Place)> = None;
    for (event, place) in here {
        while let Some(before) = returned.next_if(|(before, _)| before.returned < Some(event.invoked)) {
            if latest.is_none_or(|(_, most)| before.1 > most) {
                latest = Some(before);
            }
        }
        if let Some((before, most)) = latest
            && most > place
        {
            let message = format!(
                "{:?} {} stands at {place} of chain {chain}, before {:?} {} at {most}, which was answered before it was asked",
                event.operation.act, event.id, before.operation.act, before.id
            );
            return Err(Violation::new("linearizability", message));
        }
    }
    Ok(())
}

/// The orders of all chains, and real time, have no cycle together.
fn check_acyclic(placed: &[Placed<'_>]) -> Result<(), Violation> {
    let mut graph = Graph::new(placed.len());
    let mut chains: BTreeMap<ChainId, Vec<(Place, usize)>> = BTreeMap::new();
    for (index, placed) in placed.iter().enumerate() {
        for &(chain, place) in &placed.places {
            chains.entry(chain).or_default().push((place, index));
        }
    }
    for mut places in chains.into_values() {
        places.sort_unstable();
        // Between groups of one place stands a node of their own, so that edges stay few.
        let mut gate = None;
        for group in places.chunk_by(|a, b| a.0 == b.0) {
            let next = graph.add();
            for &(_, index) in group {
                gate.into_iter().for_each(|gate| graph.edge(gate, index));
                graph.edge(index, next);
            }
            gate = Some(next);
        }
    }
    let mut moments: Vec<_> = placed.iter().enumerate().map(|(index, placed)| (placed.event.invoked, false, index)).collect();
    moments.extend(placed.iter().enumerate().filter_map(|(index, placed)| Some((placed.event.returned?, true, index))));
    moments.sort_unstable();
    let mut now = graph.add();
    for (_, returns, index) in moments {
        if returns {
            let next = graph.add();
            graph.edge(now, next);
            graph.edge(index, next);
            now = next;
        } else {
            graph.edge(now, index);
        }
    }
    match graph.cycle() {
        None => Ok(()),
        Some(nodes) => {
            let names: Vec<String> =
                nodes.into_iter().filter_map(|node| placed.get(node)).map(|placed| placed.event.id.to_string()).collect();
            Err(Violation::new("serializability", format!("these cannot be put in one order: {}", names.join(", "))))
        }
    }
}

#[derive(Default)]
struct Graph {
    edges: Vec<Vec<usize>>,
    incoming: Vec<usize>,
}

impl Graph {
    fn new(nodes: usize) -> Self {
        Self { edges: vec![Vec::new(); nodes], incoming: vec![0; nodes] }
    }

    fn add(&mut self) -> usize {
        self.edges.push(Vec::new());
        self.incoming.push(0);
        self.edges.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize) {
        self.edges[from].push(to);
        self.incoming[to] += 1;
    }

    /// What is left once everything that nothing precedes is taken away, again and again.
    fn cycle(mut self) -> Option<Vec<usize>> {
        let mut free: Vec<usize> = (0..self.edges.len()).filter(|&node| self.incoming[node] == 0).collect();
        while let Some(node) = free.pop() {
            for to in std::mem::take(&mut self.edges[node]) {
                self.incoming[to] -= 1;
                if self.incoming[to] == 0 {
                    free.push(to);
                }
            }
        }
        let left: Vec<usize> = (0..self.incoming.len()).filter(|&node| self.incoming[node] > 0).collect();
        (!left.is_empty()).then_some(left)
    }
}
