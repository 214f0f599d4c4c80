//! The trace of a run, as a space-time picture in text: one line a happening, one column a replica.

use crate::drive::describe;
use crate::world::World;
use bytes::Bytes;
use concur_core::{Epoch, Happening, ReplicaId, TraceEvent};
use concur_replica::Output;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;

/// How many happenings are kept; older ones are dropped.
const KEPT: usize = 4_000;

/// What happened last.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    events: VecDeque<TraceEvent>,
}

impl Trace {
    fn push(&mut self, event: TraceEvent) {
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// Everything that is kept, oldest first.
    pub fn events(&self) -> impl Iterator<Item = &TraceEvent> {
        self.events.iter()
    }

    /// The last happenings that matter, as a picture. A message that says what the one before it on its link had said already (an
    /// idle heartbeat, its answer, a repetition) is left out.
    pub fn picture(&self, replicas: usize, lines_max: usize) -> String {
        let mut said: BTreeMap<(ReplicaId, ReplicaId, &str), &str> = BTreeMap::new();
        let mut lines: Vec<String> = Vec::new();
        let mut left_out = 0;
        for event in &self.events {
            if let Happening::Received { from, message } = &event.what {
                let name = message.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                if said.insert((*from, event.replica, name), message) == Some(message) {
                    left_out += 1;
                    continue;
                }
            }
            if left_out > 0 {
                lines.push(format!("{:>15} {}⋮ {left_out} that say nothing new", "", "  ".repeat(replicas)));
                left_out = 0;
            }
            lines.push(line(event, replicas));
        }
        let skip = lines.len().saturating_sub(lines_max);
        let mut out = String::new();
        for line in &lines[skip..] {
            let _ = writeln!(out, "{line}");
        }
        out
    }
}

fn line(event: &TraceEvent, replicas: usize) -> String {
    let ms = event.at.0 as f64 / 1e6 - 1_000.0;
    let mut lanes = String::new();
    let peer = match &event.what {
        Happening::Received { from, .. } => Some(*from),
        Happening::Sent { to, .. } => Some(*to),
        _ => None,
    };
    for index in 0..replicas {
        let id = ReplicaId(index as u8);
        lanes.push(if id == event.replica {
            match event.what {
                Happening::World { .. } => '!',
                Happening::Transition { .. } => '◆',
                Happening::Executed { .. } => '=',
                _ => '●',
            }
        } else if Some(id) == peer {
            '○'
        } else {
            '│'
        });
        lanes.push(' ');
    }
    let text = event.to_string();
    let text = text.split_once(" ms  ").map_or(&text[..], |(_, rest)| rest);
    let text: String = if text.chars().count() > 180 { text.chars().take(179).chain(['…']).collect() } else { text.to_owned() };
    format!("{ms:>12.3} ms {lanes} {text}")
}

impl World<'_> {
    /// Something happens to a node.
    pub(crate) fn note_world(&mut self, node: usize, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(TraceEvent { at: self.now, replica: ReplicaId(node as u8), what: Happening::World { text: text() } });
        }
    }

    /// What a step shows of itself.
    pub(crate) fn trace_step(&mut self, node: usize, out: &Output) {
        let Some(trace) = &mut self.trace else { return };
        let (at, replica) = (self.now, ReplicaId(node as u8));
        for &(name, instance) in &out.notes {
            trace.push(TraceEvent { at, replica, what: Happening::Transition { name, instance } });
        }
        for &(epoch, instance, id) in &out.executed {
            let value = id.map_or("no-op".to_owned(), |id| format!("{id:?}"));
            let of = if epoch == Epoch(0) { String::new() } else { format!(" of epoch {}", epoch.0) };
            trace.push(TraceEvent { at, replica, what: Happening::World { text: format!("executed {instance}{of} = {value}") } });
        }
        for (token, result) in &out.replies {
            let text = match result {
                Ok(reply) => format!("answers request {}: {:?}", token.0, reply.body),
                Err(refused) => format!("refuses request {}: {refused:?}", token.0),
            };
            trace.push(TraceEvent { at, replica, what: Happening::World { text } });
        }
    }

    /// A message arrives.
    pub(crate) fn trace_arrival(&mut self, to: usize, from: ReplicaId, bytes: &Bytes) {
        let Some(trace) = &mut self.trace else { return };
        let message = describe(&self.roster, bytes);
        // Numbers change with configurations; a picture has one column a machine.
        let from = self.roster.machine(from).map_or(from, |machine| ReplicaId(machine as u8));
        trace.push(TraceEvent { at: self.now, replica: ReplicaId(to as u8), what: Happening::Received { from, message } });
    }
}
