//! Who is in, for the node: whom it dials and accepts follows the configurations of its groups.
//!
//! A node that a configuration leaves out is dialled a while longer, so that it hears of it and hands over what waits. A node that is
//! in no configuration of its groups any more answers for as long, and then stops by itself.

use super::Driver;
use crate::node::NodeError;
use crate::peers::{Listed, Peer};
use concur_core::{StateMachine, Wire};
use concur_peers::Configuration;
use concur_proto::concur::peer::v1::ClusterReply;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long one who left answers, and how long the others still talk to it: until it has stopped.
const LEAVING: Duration = Duration::from_secs(20);
const TALKED_TO: Duration = Duration::from_secs(30);

/// How often somebody unknown is asked who is in.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Who left, and when that was noticed; and since when this node is in no configuration.
#[derive(Debug, Default)]
pub(super) struct Membership {
    known: BTreeMap<u64, Peer>,
    left: BTreeMap<u64, (Peer, Instant)>,
    removed_at: Option<Instant>,
    /// Members of later configurations than this node has come to, as somebody told it; and when somebody was asked last.
    told: BTreeMap<u64, Peer>,
    asked_at: Option<Instant>,
}

impl<M: StateMachine> Driver<M> {
    /// Takes in what configurations changed in the last steps.
    pub(super) fn reconfigure(&mut self) -> Result<(), NodeError> {
        let mut changed = false;
        for group in &mut self.parts.groups {
            let Some(configuration) = group.out.configuration.take() else { continue };
            changed = true;
            let seat = &mut group.seat;
            seat.numbers.learn(&configuration);
            if let Some(desk) = &mut group.desk {
                desk.reconfigured(&configuration, &seat.numbers);
            }
            if configuration.epoch.0 > 0 {
                let members: Vec<String> = configuration.members.iter().map(|m| format!("{} ({})", m.name, m.role.word())).collect();
                tracing::info!(
                    namespace = seat.name,
                    epoch = configuration.epoch.0,
                    strategy = configuration.strategy,
                    members = members.join(", "),
                    "a new configuration"
                );
            }
        }
        if changed {
            self.keep_peers();
        }
        Ok(())
    }

    /// Somebody whom nobody here knows called. If it came in while this node was away it knows who is in by now.
    pub(super) fn stranger(&mut self, address: String) {
        let membership = &mut self.membership;
        if membership.asked_at.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
            membership.asked_at = Some(Instant::now());
            self.parts.peers.ask(address);
        }
    }

    /// A member of the cluster told of configurations. Those that are later than what this node has come to are believed so far that
    /// their members are talked to; what they decided the replica gets from them.
    pub(super) fn told(&mut self, reply: &ClusterReply) {
        // Another cluster may share the address by now, and the name of a namespace.
        if reply.cluster != self.parts.peers.cluster() {
            return;
        }
        let mut members = BTreeMap::new();
        for told in &reply.groups {
            let Ok(configuration) = Configuration::from_bytes(&told.configuration) else { continue };
            let group = self.parts.groups.iter_mut().find(|group| group.seat.id.0 == told.id);
            let Some(seat) = group.map(|group| &mut group.seat) else { continue };
            if configuration.epoch <= seat.replica.settings().config.epoch {
                continue;
            }
            seat.numbers.learn(&configuration);
            for member in &configuration.members {
                let node = seat.numbers.node(member.id);
                let (name, address) = (member.name.clone(), member.peer.clone());
                let peer = Peer { node, name, address, votes: member.role.votes(), incarnation: member.incarnation };
                members.insert(node, peer);
            }
        }
        if !members.is_empty() {
            self.membership.told = members;
            tracing::info!("members came in while this node was away; it follows them");
            self.keep_peers();
        }
    }

    /// Dials and accepts the members of all groups.
    fn keep_peers(&mut self) {
        let mut wanted: BTreeMap<u64, Peer> = BTreeMap::new();
        let mut listed = Vec::new();
        for group in &self.parts.groups {
            let configuration = group.seat.replica.settings().configuration.clone();
            for member in &configuration.members {
                let node = group.seat.numbers.node(member.id);
                let entry = wanted.entry(node).or_insert_with(|| Peer {
                    node,
                    name: member.name.clone(),
                    address: member.peer.clone(),
                    votes: false,
                    incarnation: 0,
                });
                entry.votes |= member.role.votes();
                entry.incarnation = entry.incarnation.max(if member.role.votes() { member.incarnation } else { 0 });
            }
            let per_key = group.seat.replica.settings().order == concur_core::Ordering::Partial;
            listed.push(Listed { id: group.seat.id, namespace: group.seat.name.clone(), per_key, configuration });
        }
        let now = Instant::now();
        let membership = &mut self.membership;
        membership.told.retain(|node, _| !wanted.contains_key(node));
        for (node, peer) in std::mem::replace(&mut membership.known, wanted.clone()) {
            if !wanted.contains_key(&node) {
                membership.left.entry(node).or_insert((peer, now));
            }
        }
        membership.left.retain(|node, (_, since)| !wanted.contains_key(node) && now.duration_since(*since) < TALKED_TO);
        let leaving = membership.left.values().map(|(peer, _)| peer.clone());
        let told = membership.told.values().cloned();
        let peers = wanted.into_values().chain(leaving).chain(told).collect();
        self.parts.peers.keep(peers, listed);
    }

    /// Lets go of those who left long ago, and sees whether this node is one of them.
    pub(super) fn look_at_membership(&mut self) {
        let now = Instant::now();
        if self.membership.left.values().any(|(_, since)| now.duration_since(*since) >= TALKED_TO) {
            self.keep_peers();
        }
        let removed = self.parts.groups.iter().all(|group| group.seat.is_removed()) && !self.parts.groups.is_empty();
        match self.membership.removed_at {
            None if removed => {
                tracing::warn!(
                    "this node was removed: it is in no configuration any more. It answers for {} s, and stops",
                    LEAVING.as_secs()
                );
                self.membership.removed_at = Some(now);
                self.parts.ready.send_replace(false);
            }
            Some(_) if !removed => self.membership.removed_at = None,
            _ => {}
        }
    }

    /// Whether this node was removed and has answered for long enough.
    pub(super) fn is_gone(&self) -> bool {
        self.membership.removed_at.is_some_and(|since| since.elapsed() >= LEAVING)
    }
}
