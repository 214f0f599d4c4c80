//! The two, asked the same side by side.
//!
//! Calls that change something go one after another, to both at once. Calls that only read go together, up to the next that changes
//! something. What is told of watches arrives when it likes; [`Call::Settle`] waits until both told the same, and so does whatever
//! could change what there is to tell: a compaction, the end of a watch.

use crate::call::Call;
use crate::normal::{Pairing, lacks_tombstones, normalise, refuses_negative_starts};
use crate::number::Known;
use crate::side::{Answer, Side};
use crate::watch::{Heard, MARKER_ID, MARKER_KEY, Stream};
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb::event::EventType;
use std::time::{Duration, Instant};

/// Reads under way at once.
const READS_MAX: usize = 16;
/// How long both may take to tell the same, the first time that a sequence is sent.
pub(crate) const PATIENCE: Duration = Duration::from_secs(12);
/// How long etcd may take to look at the watchers that begin in the past: it does so every 100 ms. A compaction before would end them.
const LOOK_TIME: Duration = Duration::from_millis(250);
/// How often progress is asked for before it counts as not answered: etcd says nothing while a watcher is behind.
const PROGRESS_TRIES_MAX: usize = 8;
/// How many revisions one may be ahead of the other when they are made equal.
const PAD_MAX: i64 = 100_000;

/// A call that was answered unlike.
#[derive(Debug, Clone)]
pub(crate) struct Difference {
    /// The call's place in the sequence.
    pub(crate) at: usize,
    pub(crate) reference: Answer,
    pub(crate) subject: Answer,
}

/// How many calls of each kind were compared.
pub(crate) type Counts = [u64; Call::KINDS.len()];

pub(crate) struct Pair {
    pub(crate) reference: Side,
    pub(crate) subject: Side,
    pub(crate) counts: Counts,
    /// How long both may take to tell the same.
    pub(crate) patience: Duration,
    etcd: String,
    asked: usize,
    /// Whether a watcher may not have been looked at yet.
    looked_for: bool,
}

impl Pair {
    pub(crate) async fn new(reference: Side, subject: Side) -> Result<Self, String> {
        let etcd = reference.version().await.map_err(|status| format!("the version cannot be read: {status}"))?;
        Ok(Self { reference, subject, counts: [0; Call::KINDS.len()], patience: PATIENCE, etcd, asked: 0, looked_for: false })
    }

    /// The version of the real etcd.
    pub(crate) fn etcd(&self) -> &str {
        &self.etcd
    }

    fn sides(&mut self) -> [&mut Side; 2] {
        [&mut self.reference, &mut self.subject]
    }

    /// Empties both and brings them to one revision, at which both are compacted.
    pub(crate) async fn wipe(&mut self) -> Result<(), String> {
        for side in self.sides() {
            side.streams.clear();
            side.known = Known::default();
            let leases = match side.ask(&Call::Leases, 0).await {
                Answer::Leases(response) => response.leases,
                other => return Err(format!("leases cannot be listed: {other:?}")),
            };
            for lease in leases {
                side.ask(&Call::Revoke(lease.id), 0).await;
            }
            let everything = pb::DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), prev_kv: false };
            side.ask(&Call::Delete(everything), 0).await;
        }
        let (reference, subject) = self.revisions().await?;
        if reference.abs_diff(subject) > PAD_MAX as u64 {
            return Err(format!("one stands at revision {reference} and the other at {subject}: too far apart to be made equal"));
        }
        let pad = Call::Put(pb::PutRequest { key: MARKER_KEY.into(), ..Default::default() });
        for _ in reference..subject {
            self.reference.ask(&pad, 0).await;
        }
        for _ in subject..reference {
            self.subject.ask(&pad, 0).await;
        }
        // Both have the key of the pads from here on, so that it is deleted in both, and nothing older can be read.
        let gone = Call::Delete(pb::DeleteRangeRequest { key: MARKER_KEY.into(), ..Default::default() });
        for side in self.sides() {
            side.ask(&pad, 0).await;
            side.ask(&gone, 0).await;
        }
        let (reference, subject) = self.revisions().await?;
        if reference != subject {
            return Err(format!("one stands at revision {reference} and the other at {subject}"));
        }
        for side in self.sides() {
            side.known = Known { current: reference, compacted: reference, picked: Vec::new() };
            side.ask(&Call::Compact(pb::CompactionRequest { revision: reference, physical: true }), 0).await;
            side.wrote();
        }
        Ok(())
    }

    /// Takes both as they are: nothing was ever asked of them.
    pub(crate) async fn begin_fresh(&mut self) -> Result<(), String> {
        let (reference, subject) = self.revisions().await?;
        if (reference, subject) != (1, 1) {
            return Err(format!("they stand at revisions {reference} and {subject} and are not fresh"));
        }
        for side in self.sides() {
            side.streams.clear();
            side.known = Known { current: 1, compacted: -1, picked: Vec::new() };
        }
        Ok(())
    }

    async fn revisions(&self) -> Result<(i64, i64), String> {
        let text = |status: tonic::Status| format!("the revision cannot be read: {status}");
        Ok((self.reference.revision().await.map_err(text)?, self.subject.revision().await.map_err(text)?))
    }

    /// Asks both a sequence of calls, up to the first answered unlike.
    pub(crate) async fn run(&mut self, calls: &[Call]) -> Option<Difference> {
        let mut at = 0;
        while at < calls.len() {
            let reads = calls[at..].iter().take(READS_MAX).take_while(|call| call.reads()).count();
            let (taken, difference) = match reads {
                0 => (1, self.one(at, &calls[at]).await),
                reads => (reads, self.together(at, &calls[at..at + reads]).await),
            };
            if difference.is_some() {
                return difference;
            }
            at += taken;
        }
        self.settle(calls.len()).await
    }

    async fn together(&mut self, at: usize, calls: &[Call]) -> Option<Difference> {
        let mut asked = Vec::new();
        for call in calls {
            self.asked += 1;
            let reference = tokio::spawn(self.reference.ask(call, self.asked));
            asked.push((reference, tokio::spawn(self.subject.ask(call, self.asked))));
        }
        let mut difference = None;
        for (offset, ((reference, subject), call)) in asked.into_iter().zip(calls).enumerate() {
            let (reference, subject) = (reference.await.expect("it does not panic"), subject.await.expect("it does not panic"));
            let found = self.compare(at + offset, call, reference, subject);
            difference = difference.or(found);
        }
        difference
    }

    async fn one(&mut self, at: usize, call: &Call) -> Option<Difference> {
        match call {
            Call::Watch(stream, create) => self.watch(at, *stream, create).await,
            Call::Cancel(stream, id) => self.cancel(at, *stream, *id).await,
            Call::Progress(stream) => self.progress(at, *stream).await,
            Call::Settle => {
                self.counts[call.kind()] += 1;
                self.settle(at).await
            }
            Call::Compact(_) => self.compact(at, call).await,
            _ => self.unary(at, call).await,
        }
    }

    async fn compact(&mut self, at: usize, call: &Call) -> Option<Difference> {
        if std::mem::take(&mut self.looked_for) {
            tokio::time::sleep(LOOK_TIME).await;
        }
        match self.settle(at).await {
            None => self.unary(at, call).await,
            difference => difference,
        }
    }

    async fn unary(&mut self, at: usize, call: &Call) -> Option<Difference> {
        self.asked += 1;
        let (reference, subject) = (self.reference.ask(call, self.asked), self.subject.ask(call, self.asked));
        let (reference, subject) = tokio::join!(reference, subject);
        for (side, answer) in [(&mut self.reference, &reference), (&mut self.subject, &subject)] {
            if !matches!(answer, Answer::Refused(..) | Answer::Broken(_)) {
                side.wrote();
            }
        }
        let compacted = match call {
            Call::Compact(compact) => Some(self.reference.known.real(compact.revision)),
            _ => None,
        };
        let difference = self.compare(at, call, reference.clone(), subject.clone());
        if let (Some(compacted), Answer::Compact(_)) = (compacted, &reference) {
            self.sides().into_iter().for_each(|side| side.known.compacted = compacted);
        }
        if let (Call::Grant(grant), Answer::Grant(a), Answer::Grant(b)) = (call, &reference, &subject)
            && grant.id == 0
        {
            self.reference.known.picked.push(a.id);
            self.subject.known.picked.push(b.id);
        }
        difference
    }

    fn compare(&mut self, at: usize, call: &Call, mut reference: Answer, mut subject: Answer) -> Option<Difference> {
        self.counts[call.kind()] += 1;
        if let Some(revision) = revision(&reference) {
            self.sides().into_iter().for_each(|side| side.known.current = side.known.current.max(revision));
        }
        let reference_known = (&mut reference, &self.reference.known);
        normalise(Pairing { etcd: &self.etcd, call, reference: reference_known, subject: (&mut subject, &self.subject.known) });
        (reference != subject || matches!(reference, Answer::Broken(_))).then_some(Difference { at, reference, subject })
    }

    async fn open(&mut self, stream: u8) -> Result<(), String> {
        for side in [&mut self.reference, &mut self.subject] {
            if !side.streams.contains_key(&stream) {
                let opened = Stream::open(side.channel(stream.into())).await?;
                side.streams.insert(stream, opened);
            }
        }
        Ok(())
    }

    async fn watch(&mut self, at: usize, stream: u8, create: &pb::WatchCreateRequest) -> Option<Difference> {
        self.counts[Call::Watch(stream, create.clone()).kind()] += 1;
        let settled = self.settle(at).await;
        if settled.is_some() {
            return settled;
        }
        if let Err(what) = self.open(stream).await {
            return Some(Difference { at, reference: Answer::Broken(what.clone()), subject: Answer::Broken(what) });
        }
        let negative_starts = refuses_negative_starts(&self.etcd);
        self.looked_for |= create.start_revision != 0;
        for side in self.sides() {
            // The member that is asked may lag behind the one that wrote: a read brings it to where the other is.
            let range = pb::RangeRequest { key: vec![0].into(), count_only: true, ..Default::default() };
            side.ask(&Call::Range(range), stream.into()).await;
            // A store that was never compacted calls it -1: so "just compacted" may come out negative too.
            let least = if negative_starts { i64::MIN } else { 0 };
            let create = pb::WatchCreateRequest { start_revision: side.known.real(create.start_revision).max(least), ..create.clone() };
            let Side { streams, known, .. } = side;
            streams.get_mut(&stream).expect("it is open").create(create, known).await;
        }
        None
    }

    async fn cancel(&mut self, at: usize, stream: u8, id: i64) -> Option<Difference> {
        self.counts[Call::Cancel(stream, id).kind()] += 1;
        let settled = self.settle(at).await;
        if settled.is_some() {
            return settled;
        }
        for side in self.sides() {
            if let Some(stream) = side.streams.get_mut(&stream) {
                stream.cancel(id).await;
            }
        }
        self.settle(at).await
    }

    /// Writes what every stream's marker watches, and waits until it arrived.
    async fn mark(&mut self) -> Result<(), String> {
        let put = Call::Put(pb::PutRequest { key: MARKER_KEY.into(), ..Default::default() });
        self.asked += 1;
        for side in [&mut self.reference, &mut self.subject] {
            let revision = match side.ask(&put, self.asked).await {
                Answer::Put(response) => response.header.map_or(0, |header| header.revision),
                other => return Err(format!("the marker cannot be written: {other:?}")),
            };
            side.known.current = revision;
            side.wrote();
            let Side { streams, known, .. } = side;
            for stream in streams.values_mut() {
                stream.mark(revision, known).await;
            }
        }
        Ok(())
    }

    /// Waits until both told the same, then forgets it.
    async fn settle(&mut self, at: usize) -> Option<Difference> {
        if self.reference.streams.is_empty() {
            return None;
        }
        if let Err(what) = self.mark().await {
            return Some(Difference { at, reference: Answer::Broken(what.clone()), subject: Answer::Broken(what) });
        }
        let deadline = Instant::now() + self.patience;
        loop {
            for Side { streams, known, .. } in self.sides() {
                streams.values_mut().for_each(|stream| stream.drain(known));
            }
            let lacking = lacks_tombstones(&self.etcd);
            let (reference, subject) = (told(&self.reference, lacking), told(&self.subject, lacking));
            let broken = reference.iter().chain(&subject).any(|heard| matches!(heard, Heard::Broken(_)));
            if broken || (reference != subject && Instant::now() >= deadline) {
                return Some(Difference { at, reference: Answer::Heard(reference, None), subject: Answer::Heard(subject, None) });
            }
            if reference == subject {
                for stream in self.sides().into_iter().flat_map(|side| side.streams.values_mut()) {
                    stream.forget().await;
                }
                return None;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks for progress until both answered or the tries are over. Before anything is answered both have told the same.
    async fn progress(&mut self, at: usize, stream: u8) -> Option<Difference> {
        self.counts[Call::Progress(stream).kind()] += 1;
        let settled = self.settle(at).await;
        if settled.is_some() || !self.reference.streams.contains_key(&stream) {
            return settled;
        }
        let mut answered = [false; 2];
        for _ in 0..PROGRESS_TRIES_MAX {
            let mut before = [0; 2];
            for (which, side) in self.sides().into_iter().enumerate() {
                let stream = side.streams.get_mut(&stream).expect("it is open");
                before[which] = stream.progresses;
                stream.ask_progress().await;
            }
            let settled = self.settle(at).await;
            if settled.is_some() {
                return settled;
            }
            for (which, side) in self.sides().into_iter().enumerate() {
                answered[which] |= side.streams[&stream].progresses > before[which];
            }
            if answered[0] || !answered[1] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(120)).await;
        }
        let heard = |answered| Answer::Heard(Vec::new(), Some(answered));
        (answered[0] != answered[1]).then(|| Difference { at, reference: heard(answered[0]), subject: heard(answered[1]) })
    }
}

/// What all streams of a side told, but for the markers; without the deletes at the compacted revision if they may be lacking.
fn told(side: &Side, lacking: bool) -> Vec<Heard> {
    let may_lack = |heard: &Heard| match heard {
        Heard::Event { event, .. } => {
            let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
            lacking && event.r#type() == EventType::Delete && at <= side.known.compacted
        }
        _ => false,
    };
    let by_watcher = side.streams.values().flat_map(Stream::by_watcher);
    by_watcher.filter(|heard| !matches!(heard, Heard::Created { id: MARKER_ID, .. }) && !may_lack(heard)).collect()
}

/// The revision in an answer's header.
fn revision(answer: &Answer) -> Option<i64> {
    let header = match answer {
        Answer::Range(response) => response.header.as_ref(),
        Answer::Put(response) => response.header.as_ref(),
        Answer::Delete(response) => response.header.as_ref(),
        Answer::Txn(response) => response.header.as_ref(),
        Answer::Compact(response) => response.header.as_ref(),
        Answer::Grant(response) => response.header.as_ref(),
        Answer::Revoke(response) => response.header.as_ref(),
        Answer::TimeToLive(response) => response.header.as_ref(),
        Answer::KeepAlive(response) => response.header.as_ref(),
        Answer::Leases(response) => response.header.as_ref(),
        Answer::Heard(..) | Answer::Refused(..) | Answer::Broken(_) => None,
    };
    header.map(|header| header.revision)
}
