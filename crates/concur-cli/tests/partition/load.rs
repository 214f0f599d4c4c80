//! Clients of etcd's API at every member, who write down what they try and what they are told.

use super::common::registers::{CALL_TIME_MAX, Said, within};
use super::model::{Answer, Change, History};
use bytes::Bytes;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use concur_proto::etcdserverpb::request_op::Request;
use concur_proto::etcdserverpb::response_op::Response;
use concur_proto::etcdserverpb::watch_request::RequestUnion;
use concur_proto::mvccpb::KeyValue;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tonic::transport::{Channel, Endpoint};

pub(crate) type Shared = Rc<RefCell<History>>;

const KEYS: u64 = 12;
const LEASE_TTL: Duration = Duration::from_secs(2);

/// A small generator, seeded and printed.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A way to one member.
pub(crate) fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true);
    endpoint.connect_timeout(CALL_TIME_MAX).connect_lazy()
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.expect("an answer has a header").revision
}

pub(crate) struct Client {
    pub(crate) name: u64,
    pub(crate) channels: Vec<Channel>,
    pub(crate) history: Shared,
    pub(crate) dice: Dice,
    /// Makes values that nobody wrote before.
    pub(crate) count: u64,
    /// What was last seen of some key.
    pub(crate) seen: (Bytes, i64),
}

impl Client {
    /// Calls for ever; one that fails is left unanswered, and the next goes to another member.
    pub(crate) async fn run(mut self) {
        let mut at = self.name as usize % self.channels.len();
        loop {
            self.count += 1;
            let key = Bytes::from(format!("k/{}", self.dice.below(KEYS)));
            let channel = self.channels[at].clone();
            let said = match self.dice.below(100) {
                0..40 => self.put(channel, key).await,
                40..55 => self.delete(channel, key).await,
                55..80 => self.txn(channel, key).await,
                80..97 => self.get(channel, key).await,
                _ => self.lease(channel).await,
            };
            if said.is_err() {
                at = (at + 1) % self.channels.len();
            }
            tokio::task::yield_now().await;
        }
    }

    fn known(&self) -> i64 {
        self.history.borrow().known
    }

    fn value(&self) -> Bytes {
        Bytes::from(format!("{}/{}", self.name, self.count))
    }

    fn tries(&self, changes: &[Change]) {
        self.history.borrow_mut().tried.extend(changes.iter().cloned());
    }

    async fn put(&mut self, channel: Channel, key: Bytes) -> Said<()> {
        let (known, value) = (self.known(), self.value());
        let changes = vec![(key.clone(), Some(value.clone()))];
        self.tries(&changes);
        let request = pb::PutRequest { key: key.clone(), value, prev_kv: true, ..pb::PutRequest::default() };
        let reply = within(pb::kv_client::KvClient::new(channel).put(request)).await?.into_inner();
        let answer = Answer::Wrote { changes, before: Some((key, reply.prev_kv)), compared: None };
        self.history.borrow_mut().tell(known, revision(reply.header.as_ref()), answer);
        Ok(())
    }

    async fn delete(&mut self, channel: Channel, key: Bytes) -> Said<()> {
        let known = self.known();
        let request = pb::DeleteRangeRequest { key: key.clone(), prev_kv: true, ..pb::DeleteRangeRequest::default() };
        *self.history.borrow_mut().unanswered.entry(key.clone()).or_default() += 1;
        let reply = within(pb::kv_client::KvClient::new(channel).delete_range(request)).await?.into_inner();
        let mut history = self.history.borrow_mut();
        *history.unanswered.get_mut(&key).expect("it was asked for") -= 1;
        let answer = if reply.deleted == 0 {
            Answer::Read { key, found: None, compared: None }
        } else {
            let before = Some((key.clone(), reply.prev_kvs.into_iter().next()));
            Answer::Wrote { changes: vec![(key, None)], before, compared: None }
        };
        history.tell(known, revision(reply.header.as_ref()), answer);
        Ok(())
    }

    /// Writes two keys if one of them is as it was seen, else reads it.
    async fn txn(&mut self, channel: Channel, key: Bytes) -> Said<()> {
        let (known, value, own) = (self.known(), self.value(), Bytes::from(format!("own/{}", self.name)));
        let (key, seen) = if self.seen.0.is_empty() { (key, 0) } else { std::mem::take(&mut self.seen) };
        let put = |key: &Bytes| pb::PutRequest { key: key.clone(), value: value.clone(), ..pb::PutRequest::default() };
        let op = |request| pb::RequestOp { request: Some(request) };
        let compare = pb::Compare {
            key: key.clone(),
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            target_union: Some(TargetUnion::ModRevision(seen)),
            ..pb::Compare::default()
        };
        let range = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
        let request = pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(Request::RequestPut(put(&key))), op(Request::RequestPut(put(&own)))],
            failure: vec![op(Request::RequestRange(range))],
        };
        let changes = vec![(key.clone(), Some(value.clone())), (own, Some(value.clone()))];
        self.tries(&changes);
        let reply = within(pb::kv_client::KvClient::new(channel).txn(request)).await?.into_inner();
        let revision = revision(reply.header.as_ref());
        let answer = if reply.succeeded {
            Answer::Wrote { changes, before: None, compared: Some((key, seen)) }
        } else {
            let found = match reply.responses.into_iter().next().and_then(|op| op.response) {
                Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
                _ => return Err("a transaction without its read".into()),
            };
            self.seen = (key.clone(), found.as_ref().map_or(0, |kv: &KeyValue| kv.mod_revision));
            Answer::Read { key, found, compared: Some(seen) }
        };
        self.history.borrow_mut().tell(known, revision, answer);
        Ok(())
    }

    async fn get(&mut self, channel: Channel, key: Bytes) -> Said<()> {
        let known = self.known();
        let request = pb::RangeRequest { key: key.clone(), ..pb::RangeRequest::default() };
        let reply = within(pb::kv_client::KvClient::new(channel).range(request)).await?.into_inner();
        let found = reply.kvs.into_iter().next();
        self.seen = (key.clone(), found.as_ref().map_or(0, |kv| kv.mod_revision));
        self.history.borrow_mut().tell(known, revision(reply.header.as_ref()), Answer::Read { key, found, compared: None });
        Ok(())
    }

    /// Leaves a key that its lease deletes, not before its time.
    async fn lease(&mut self, channel: Channel) -> Said<()> {
        let asked_at = Instant::now();
        let request = pb::LeaseGrantRequest { ttl: LEASE_TTL.as_secs() as i64, id: 0 };
        let granted = within(pb::lease_client::LeaseClient::new(channel.clone()).lease_grant(request)).await?.into_inner();
        let (known, key, value) = (self.known(), Bytes::from(format!("lease/{}/{}", self.name, self.count)), self.value());
        let changes = vec![(key.clone(), Some(value.clone()))];
        self.tries(&changes);
        self.history.borrow_mut().lease(&key, asked_at, LEASE_TTL);
        let request = pb::PutRequest { key, value, lease: granted.id, ..pb::PutRequest::default() };
        let reply = within(pb::kv_client::KvClient::new(channel).put(request)).await?.into_inner();
        let answer = Answer::Wrote { changes, before: None, compared: None };
        self.history.borrow_mut().tell(known, revision(reply.header.as_ref()), answer);
        Ok(())
    }
}

/// Watches every key at one member, from where it left off.
pub(crate) async fn watch(member: usize, channel: Channel, history: Shared) {
    loop {
        let _ = watch_once(member, channel.clone(), &history).await;
        tokio::time::sleep(super::common::LOOK_INTERVAL).await;
    }
}

async fn watch_once(member: usize, channel: Channel, history: &Shared) -> Result<(), tonic::Status> {
    let everything = Bytes::from_static(b"\0");
    let start_revision = history.borrow().next(member);
    let create =
        pb::WatchCreateRequest { key: everything.clone(), range_end: everything, start_revision, ..pb::WatchCreateRequest::default() };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The stream of requests stays open.
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut client = pb::watch_client::WatchClient::new(channel).max_decoding_message_size(64 << 20);
    let mut responses = client.watch(requests).await?.into_inner();
    while let Some(response) = responses.message().await? {
        if response.canceled {
            history.borrow_mut().violations.push(format!("n{member} cancels a watch from revision {start_revision}: {response:?}"));
            return Ok(());
        }
        history.borrow_mut().watch(member, response.events);
    }
    Ok(())
}

/// Forgets, now and then, what every watch has told of.
pub(crate) async fn compact(channels: Vec<Channel>, history: Shared, mut dice: Dice) {
    let mut compacted = 1;
    loop {
        let told = (0..channels.len()).map(|member| history.borrow().next(member)).min().unwrap_or(2) - 1;
        if told > compacted + 300 {
            let channel = channels[dice.below(channels.len() as u64) as usize].clone();
            let request = pb::CompactionRequest { revision: told, physical: false };
            if within(pb::kv_client::KvClient::new(channel).compact(request)).await.is_ok() {
                compacted = told;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
