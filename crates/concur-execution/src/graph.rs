//! The order of a graph: strongly connected components of the committed closure, in dependency order.
//!
//! A decided instance comes with a number a lane: every interfering instance below it is a dependency. It can be placed once all
//! of them are known, that is, once everything below those numbers is decided, and likewise for whatever it depends on. Then the
//! strongly connected components of what it reaches are executed, those depended on first (Tarjan's algorithm yields them in that
//! order), and inside a component by (seals last, lane, number). Of two interfering commands one lists the other, so that one's
//! component comes first, or they share a component; every replica sees the same edges, and so executes the two in one order.
//!
//! A no-op interferes with nothing: no edge leads to it and none from it, and it is executed as soon as it is decided.
//!
//! Not every edge is stored. Scanning a lane downwards from an instance's bound, once an interfering instance is found whose
//! footprint is the same, or everything, whatever interferes lower down interferes with that one too; what that one lists of its
//! own lane need not be scanned again, since it is reached through it. Components and their order depend only on what is reached.
//!
//! Work is driven by events: what cannot be placed waits for one number in one lane, and is looked at again when everything below
//! that is decided.
//!
//! **Components are atomic.** [`Graph::next`] hands out the instances of a component one by one, and [`Graph::frontier`] counts
//! each as it is handed out; state is saved or sent only between components ([`Graph::between_components`]), because the rest of
//! a component, alone, may have another order. Calling `next` until it answers `None` ends between components.
//!
//! After a seal nothing is handed out: the epoch is over. What is not here: execution, and a bound on how large components grow,
//! which is for whoever proposes to keep.

use concur_core::{Footprint, Frontier, Instance, LaneId, Value};
use std::collections::{BTreeMap, VecDeque};

/// How many instances of one lane are asked for at once.
const WANTED_MAX: usize = 1 << 12;

/// Orders what is decided by dependencies.
#[derive(Debug, Clone)]
pub struct Graph {
    lanes: Vec<Lane>,
    /// Handed out.
    executed: Frontier,
    /// Handed out or about to be.
    ordered: Frontier,
    /// In order, not handed out yet.
    ready: VecDeque<Ready>,
    /// No-ops that were executed and not told of.
    noops: Vec<Instance>,
    /// To be looked at.
    examine: VecDeque<Instance>,
    /// The current search: nodes are marked with it.
    search: u64,
    /// Whether the last one handed out was not the last of its component.
    inside: bool,
    sealed: bool,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    /// Decided, not ordered.
    nodes: BTreeMap<u64, Node>,
    /// Everything below is decided.
    decided: u64,
    /// Who waits for everything below this number to be decided.
    waiting: BTreeMap<u64, Vec<Instance>>,
}

#[derive(Debug, Clone)]
struct Node {
    value: Value,
    deps: Vec<u64>,
    /// What it depends on, once all of that is decided.
    edges: Option<Vec<Instance>>,
    /// It, or something that it reaches, waits for everything below a number of a lane.
    blocked: Option<(LaneId, u64)>,
    /// The last search that came here, its place in it, and the lowest place that it reaches.
    search: u64,
    index: usize,
    low: usize,
}

#[derive(Debug, Clone)]
struct Ready {
    instance: Instance,
    value: Value,
    /// Whether it is the last of its component.
    last: bool,
}

/// What one search has found.
#[derive(Default)]
struct Found {
    /// The path, each with the edge to follow next.
    path: Vec<(Instance, usize)>,
    /// Tarjan's stack: visited, component not complete.
    open: Vec<Instance>,
    visited: usize,
}

impl Graph {
    /// Goes on from what is executed.
    pub fn new(frontier: Frontier) -> Self {
        let mut graph = Self {
            lanes: Vec::new(),
            executed: Frontier::start(frontier.epoch),
            ordered: Frontier::start(frontier.epoch),
            ready: VecDeque::new(),
            noops: Vec::new(),
            examine: VecDeque::new(),
            search: 0,
            inside: false,
            sealed: false,
        };
        graph.install(frontier);
        graph
    }

    /// An instance is decided: every interfering instance below `deps[lane]` of each lane comes before it. Telling it twice is
    /// nothing; telling it differently panics.
    pub fn decided(&mut self, instance: Instance, value: Value, deps: Vec<u64>) {
        self.widen(usize::from(instance.lane.0) + 1);
        self.widen(deps.len());
        if self.ordered.contains(instance) {
            return;
        }
        if let Some(node) = self.node(instance) {
            assert!(node.value == value && node.deps == deps, "{instance} is decided twice, differently");
            return;
        }
        if value.is_noop() {
            self.executed.insert(instance);
            self.ordered.insert(instance);
            self.noops.push(instance);
        } else {
            let node = Node { value, deps, edges: None, blocked: None, search: 0, index: 0, low: 0 };
            self.lane_mut(instance.lane).nodes.insert(instance.number, node);
            self.examine.push_back(instance);
        }
        self.advance(instance.lane);
    }

    /// The next instance to execute. Call until it answers `None` before saving state.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<(Instance, Value)> {
        if self.sealed {
            return None;
        }
        while self.ready.is_empty() {
            let root = self.examine.pop_front()?;
            self.search_from(root);
        }
        let ready = self.ready.pop_front()?;
        self.executed.insert(ready.instance);
        self.inside = !ready.last;
        self.sealed = ready.value.is_seal();
        Some((ready.instance, ready.value))
    }

    /// The no-ops that were decided since the last call: executed without being handed out.
    pub fn take_noops(&mut self) -> Vec<Instance> {
        std::mem::take(&mut self.noops)
    }

    /// What is executed: handed out, or no-op.
    pub fn frontier(&self) -> &Frontier {
        &self.executed
    }

    /// Whether no component is handed out in part.
    pub fn between_components(&self) -> bool {
        !self.inside
    }

    /// Undecided instances that something decided waits for, of each lane the first 4,096 at most.
    pub fn wanted(&self) -> impl Iterator<Item = Instance> + '_ {
        self.lanes.iter().enumerate().flat_map(|(index, lane)| {
            let to = lane.waiting.last_key_value().map_or(0, |(&bound, _)| bound);
            let id = LaneId(index as u8);
            let undecided =
                (lane.decided..to).map(move |number| Instance { lane: id, number }).filter(|&instance| !self.is_decided(instance));
            undecided.take(WANTED_MAX)
        })
    }

    /// State up to `frontier` came from elsewhere.
    pub fn install(&mut self, frontier: Frontier) {
        self.widen(frontier.lanes.len());
        for (lane, done) in self.lanes.iter_mut().zip(&frontier.lanes) {
            lane.nodes.retain(|number, _| !done.contains(*number));
        }
        self.ready.retain(|ready| !frontier.contains(ready.instance));
        self.inside = self.inside && !self.ready.is_empty();
        self.executed.join(&frontier);
        self.ordered.join(&frontier);
        for index in 0..self.lanes.len() {
            self.advance(LaneId(index as u8));
        }
    }

    /// How many instances are decided and wait for others.
    pub fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.nodes.len()).sum::<usize>() + self.ready.len()
    }

    fn widen(&mut self, lanes: usize) {
        if self.lanes.len() < lanes {
            self.lanes.resize_with(lanes, Lane::default);
        }
    }

    fn lane_mut(&mut self, lane: LaneId) -> &mut Lane {
        &mut self.lanes[usize::from(lane.0)]
    }

    fn node(&self, instance: Instance) -> Option<&Node> {
        self.lanes.get(usize::from(instance.lane.0))?.nodes.get(&instance.number)
    }

    fn node_mut(&mut self, instance: Instance) -> Option<&mut Node> {
        self.lanes.get_mut(usize::from(instance.lane.0))?.nodes.get_mut(&instance.number)
    }

    fn is_decided(&self, instance: Instance) -> bool {
        self.ordered.contains(instance) || self.node(instance).is_some()
    }

    /// Moves the number below which everything in a lane is decided, and wakes who waited for that.
    fn advance(&mut self, lane: LaneId) {
        let mut number = self.lanes[usize::from(lane.0)].decided.max(self.ordered.below(lane));
        while self.is_decided(Instance { lane, number }) {
            number += 1;
        }
        let state = self.lane_mut(lane);
        state.decided = number;
        let still = state.waiting.split_off(&(number + 1));
        let woken = std::mem::replace(&mut state.waiting, still);
        self.examine.extend(woken.into_values().flatten());
    }

    /// Orders every component that `root` reaches, or leaves those that are not complete waiting (Tarjan 1972, without recursion).
    fn search_from(&mut self, root: Instance) {
        self.search += 1;
        let mut found = Found::default();
        if self.node(root).is_none() {
            return;
        }
        if let Some(need) = self.enter(root, &mut found) {
            return self.block(need, found.open);
        }
        while let Some((at, edge)) = found.path.last_mut() {
            let at = *at;
            let next = self.node(at).and_then(|node| node.edges.as_ref()).and_then(|edges| edges.get(*edge)).copied();
            *edge += 1;
            let Some(next) = next else {
                self.leave(&mut found);
                continue;
            };
            match self.node(next).map(|node| (node.search == self.search, node.index)) {
                None => {} // Ordered before.
                Some((true, index)) => self.lower(at, index),
                Some((false, _)) => {
                    if let Some(need) = self.enter(next, &mut found) {
                        return self.block(need, found.open);
                    }
                }
            }
        }
    }

    /// Visits a node, unless it or what it reaches is known to wait.
    fn enter(&mut self, instance: Instance, found: &mut Found) -> Option<(LaneId, u64)> {
        found.open.push(instance);
        let lanes = &self.lanes;
        let unmet = |&(lane, bound): &(LaneId, u64)| lanes[usize::from(lane.0)].decided < bound;
        let node = self.node(instance).expect("entered only if not ordered");
        let lacks = || node.deps.iter().enumerate().map(|(lane, &bound)| (LaneId(lane as u8), bound)).find(unmet);
        if let Some(need) = node.blocked.filter(unmet).or_else(lacks) {
            return Some(need);
        }
        let edges = if node.edges.is_none() { Some(self.edges(instance, node)) } else { None };
        let (search, index) = (self.search, found.visited);
        let node = self.node_mut(instance).expect("looked at above");
        node.edges = edges.or(node.edges.take());
        (node.blocked, node.search, node.index, node.low) = (None, search, index, index);
        found.visited += 1;
        found.path.push((instance, 0));
        None
    }

    /// Everything not ordered that must come before, but for what is reached through another edge. All of it is decided.
    fn edges(&self, instance: Instance, node: &Node) -> Vec<Instance> {
        let mut edges = Vec::new();
        for (index, &bound) in node.deps.iter().enumerate() {
            let lane = LaneId(index as u8);
            for (&number, other) in self.lanes[index].nodes.range(..bound).rev() {
                let dependency = Instance { lane, number };
                if dependency == instance || !node.value.interferes(&other.value) {
                    continue;
                }
                edges.push(dependency);
                if stands_for(other.value.footprint(), node.value.footprint()) {
                    // What `other` lists of its own lane is reached through it. Between its bound and itself the scan goes on.
                    let listed = other.deps.get(index).copied().unwrap_or(0).min(number);
                    let between = self.lanes[index].nodes.range(listed..number).map(|(&number, node)| (number, &node.value));
                    let unlisted = between.filter(|(_, value)| node.value.interferes(value));
                    edges.extend(unlisted.map(|(number, _)| Instance { lane, number }).filter(|&found| found != instance));
                    break;
                }
            }
        }
        edges
    }

    /// Leaves the last node of the path; if it is the root of a component, that is ordered.
    fn leave(&mut self, found: &mut Found) {
        let (at, _) = found.path.pop().expect("left after it was entered");
        let node = self.node(at).expect("on the path");
        let (index, low) = (node.index, node.low);
        if let Some(&(parent, _)) = found.path.last() {
            self.lower(parent, low);
        }
        if low == index {
            let start = found.open.iter().rposition(|&open| open == at).expect("open while on the path");
            let component = found.open.split_off(start);
            self.order(component);
        }
    }

    fn lower(&mut self, instance: Instance, low: usize) {
        let node = self.node_mut(instance).expect("on the path");
        node.low = node.low.min(low);
    }

    /// A whole component follows everything that it depends on.
    fn order(&mut self, component: Vec<Instance>) {
        let mut component: Vec<(bool, Instance, Value)> = component
            .into_iter()
            .map(|instance| {
                let node = self.lane_mut(instance.lane).nodes.remove(&instance.number).expect("ordered once");
                (node.value.is_seal(), instance, node.value)
            })
            .collect();
        component.sort_unstable_by_key(|&(seal, instance, _)| (seal, instance));
        let size = component.len();
        for (place, (_, instance, value)) in component.into_iter().enumerate() {
            self.ordered.insert(instance);
            self.ready.push_back(Ready { instance, value, last: place + 1 == size });
        }
    }

    /// All open nodes reach one that waits: each waits for the same, and is looked at again when it is there.
    fn block(&mut self, need: (LaneId, u64), open: Vec<Instance>) {
        for instance in open {
            let before = self.node_mut(instance).expect("open").blocked.replace(need);
            if before != Some(need) {
                self.lane_mut(need.0).waiting.entry(need.1).or_default().push(instance);
            }
        }
    }
}

/// Whether whatever interferes with `footprint` interferes with `other` too.
fn stands_for(other: &Footprint, footprint: &Footprint) -> bool {
    *other == Footprint::Everything || other == footprint
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use concur_core::{Batch, BatchId, BootCount, Epoch, ReplicaId, Rng, Seal, Span};

    fn at(lane: u8, number: u64) -> Instance {
        Instance { lane: LaneId(lane), number }
    }

    fn id(instance: Instance) -> BatchId {
        BatchId { origin: ReplicaId(instance.lane.0), boot: BootCount(1), number: instance.number }
    }

    fn batch(instance: Instance, footprint: Footprint) -> Value {
        Value::Batch(Batch { id: id(instance), logged_ms: 0, footprint, commands: Bytes::new() })
    }

    fn graph() -> Graph {
        Graph::new(Frontier::start(Epoch(1)))
    }

    fn drain(graph: &mut Graph) -> Vec<Instance> {
        std::iter::from_fn(|| graph.next()).map(|(instance, _)| instance).collect()
    }

    /// Decided instances such that of two that interfere at least one lists the other, as the protocol promises.
    fn decisions(rng: &mut Rng, lanes: usize, each: u64) -> Vec<(Instance, Value, Vec<u64>)> {
        let mut all = Vec::new();
        let keys = 1 + rng.below(6);
        for number in 0..each {
            for lane in 0..lanes {
                let instance = at(lane as u8, number);
                let key = |rng: &mut Rng| Span::Key(Bytes::from(vec![b'a' + rng.below(keys) as u8]));
                let value = match rng.below(20) {
                    0 | 1 => Value::Noop,
                    2 => batch(instance, Footprint::Everything),
                    3 => batch(instance, Footprint::Spans { reads: vec![key(rng), key(rng)], writes: vec![] }),
                    _ => batch(instance, Footprint::Spans { reads: vec![key(rng)], writes: vec![key(rng), key(rng)] }),
                };
                let near = |rng: &mut Rng| (number + rng.below(4)).saturating_sub(2).min(each);
                let mut deps: Vec<u64> = (0..lanes).map(|_| if rng.below(3) == 0 { 0 } else { near(rng) }).collect();
                deps[lane] = number;
                all.push((instance, value, deps));
            }
        }
        for a in 0..all.len() {
            for b in 0..a {
                let ((left, right), interfere) = ((all[a].0, all[b].0), all[a].1.interferes(&all[b].1));
                let lists = |of: usize, other: Instance| other.number < all[of].2[usize::from(other.lane.0)];
                if interfere && !lists(a, right) && !lists(b, left) {
                    let (from, to) = if rng.below(8) > 0 { (a, right) } else { (b, left) };
                    all[from].2[usize::from(to.lane.0)] = to.number + 1;
                }
            }
        }
        for (_, value, deps) in &mut all {
            if value.is_noop() {
                deps.fill(0);
            }
        }
        all
    }

    fn shuffle<T>(rng: &mut Rng, items: &mut [T], reach: usize) {
        for i in 0..items.len() {
            let j = i + rng.below(reach.min(items.len() - i) as u64) as usize;
            items.swap(i, j);
        }
    }

    #[test]
    fn what_interferes_is_executed_in_one_order_whatever_is_learned_first() {
        for seed in 0..600 {
            let mut rng = Rng::new(seed);
            let (lanes, each) = (2 + rng.below(4) as usize, 4 + rng.below(12));
            let all = decisions(&mut rng, lanes, each);
            let mut orders = Vec::new();
            for _ in 0..3 {
                let mut heard = all.clone();
                let reach = [3, 20, 1000][rng.below(3) as usize];
                shuffle(&mut rng, &mut heard, reach);
                let (mut graph, mut order) = (graph(), Vec::new());
                for (instance, value, deps) in heard {
                    graph.decided(instance, value.clone(), deps.clone());
                    graph.decided(instance, value, deps);
                    order.extend(drain(&mut graph));
                    assert!(graph.between_components());
                }
                assert_eq!((graph.waiting(), graph.wanted().count()), (0, 0), "seed {seed}");
                assert_eq!(graph.frontier().count(), lanes as u64 * each, "seed {seed}");
                orders.push(order);
            }
            let place = |order: &Vec<Instance>, what| order.iter().position(|&instance| instance == what);
            for (a, (left, value, _)) in all.iter().enumerate() {
                for (right, other, _) in &all[..a] {
                    let first: Vec<bool> = orders.iter().map(|order| place(order, *left) < place(order, *right)).collect();
                    assert!(!value.interferes(other) || first.iter().all(|&f| f == first[0]), "seed {seed}: {left} and {right}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_executed_before_its_closure_is_decided() {
        let mut graph = graph();
        let write = |instance| batch(instance, Footprint::write(Bytes::from_static(b"k")));
        graph.decided(at(0, 0), write(at(0, 0)), vec![0, 1, 0]);
        graph.decided(at(1, 0), write(at(1, 0)), vec![1, 0, 2]);
        graph.decided(at(2, 1), write(at(2, 1)), vec![0, 0, 1]);
        assert_eq!(drain(&mut graph), []);
        assert_eq!(graph.wanted().collect::<Vec<_>>(), [at(2, 0)]);
        graph.decided(at(2, 0), Value::Noop, vec![0, 0, 0]);
        assert_eq!(drain(&mut graph), [at(2, 1), at(0, 0), at(1, 0)]);
    }

    #[test]
    fn a_seal_is_last_in_its_component_and_nothing_follows_it() {
        let mut graph = graph();
        let write = |instance| batch(instance, Footprint::write(Bytes::from_static(b"k")));
        let seal = Value::Seal(Seal { id: id(at(0, 0)), body: Bytes::new() });
        graph.decided(at(0, 0), seal, vec![0, 1]);
        graph.decided(at(1, 0), write(at(1, 0)), vec![1, 0]);
        graph.decided(at(1, 1), write(at(1, 1)), vec![1, 1]);
        assert_eq!(drain(&mut graph), [at(1, 0), at(0, 0)]);
        assert!(!graph.frontier().contains(at(1, 1)));
    }

    #[test]
    fn installed_state_takes_the_place_of_what_was_waited_for() {
        let mut graph = graph();
        let write = |instance| batch(instance, Footprint::write(Bytes::from_static(b"k")));
        graph.decided(at(0, 3), write(at(0, 3)), vec![3, 2]);
        assert_eq!(drain(&mut graph), []);
        let mut frontier = Frontier::start(Epoch(1));
        for instance in [at(0, 0), at(0, 1), at(0, 2), at(1, 0), at(1, 1)] {
            frontier.insert(instance);
        }
        graph.install(frontier);
        assert_eq!(drain(&mut graph), [at(0, 3)]);
        assert_eq!(graph.frontier().count(), 6);
    }

    #[test]
    fn one_hot_key_costs_a_few_searches_an_instance() {
        let mut rng = Rng::new(5);
        let (lanes, each) = (3, 3_000u64);
        let mut all = Vec::new();
        for number in 0..each {
            for lane in 0..lanes {
                let near = |rng: &mut Rng| (number + 1).saturating_sub(rng.below(60));
                let instance = at(lane as u8, number);
                let deps = (0..lanes).map(|other| if other == lane { number } else { near(&mut rng) }).collect();
                all.push((instance, batch(instance, Footprint::write(Bytes::from_static(b"k"))), deps));
            }
        }
        shuffle(&mut rng, &mut all, 200);
        let (mut graph, mut executed) = (graph(), 0);
        for (instance, value, deps) in all {
            graph.decided(instance, value, deps);
            executed += drain(&mut graph).len();
        }
        assert_eq!(executed, 9_000);
        assert!(graph.search < 9_000 * 40, "{} searches", graph.search);
    }
}
