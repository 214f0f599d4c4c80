//! A namespace over the native API.

use super::{Answered, Level, Stamp};
use crate::exit::{Exit, Failure, Outcome};
use crate::reach::{ANSWER_BYTES_MAX, Reach};
use bytes::Bytes;
use concur_client::kv::{DeleteRange, KeyValue as Pair, LeaseId, Put, RangeQuery, Revision};
use concur_client::{Change, ClientError, Options, Watch, Watching};
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb::event::EventType;
use concur_proto::mvccpb::{Event, KeyValue};

/// A namespace, through whichever member answers.
#[derive(Debug, Clone)]
pub(crate) struct Native {
    store: concur_client::Store,
    namespace: String,
}

impl Native {
    pub(crate) async fn open(reach: &Reach, namespace: &str) -> Outcome<Self> {
        let options = Options {
            namespace: namespace.to_owned(),
            token: reach.shown().await?,
            timeout: reach.timeout,
            answer_bytes_max: ANSWER_BYTES_MAX,
            dialer: reach.dialer()?,
            ..Options::new(reach.endpoints())
        };
        let store = concur_client::Store::open(options).map_err(|error| Failure::new(Exit::Invalid, error.to_string()))?;
        Ok(Self { store, namespace: namespace.to_owned() })
    }

    pub(super) async fn range(&self, level: Level, range: pb::RangeRequest) -> Outcome<Answered<pb::RangeResponse>> {
        let query = RangeQuery {
            key: range.key,
            range_end: range.range_end,
            limit: range.limit,
            revision: Revision(range.revision),
            keys_only: range.keys_only,
            count_only: range.count_only,
            ..RangeQuery::default()
        };
        let level = match level {
            Level::Strong => concur_client::Level::Strong,
            Level::Eventual => concur_client::Level::Eventual,
        };
        let answer = self.done(self.store.range(level, query).await).await?;
        let (range, revision) = (answer.value.clone(), answer.value.revision);
        let kvs = range.kvs.into_iter().map(pair).collect();
        let value = pb::RangeResponse { header: None, kvs, more: range.more, count: range.count as i64 };
        Ok(Answered { value, stamp: stamp(answer.stamp, revision) })
    }

    pub(super) async fn put(&self, put: pb::PutRequest) -> Outcome<Answered<pb::PutResponse>> {
        let put = Put { key: put.key, value: put.value, lease: LeaseId(put.lease), prev_kv: put.prev_kv, ..Put::default() };
        let answer = self.done(self.store.put_with(put).await).await?;
        let value = pb::PutResponse { header: None, prev_kv: answer.value.prev_kv.map(pair) };
        Ok(Answered { value, stamp: stamp(answer.stamp, answer.value.revision) })
    }

    pub(super) async fn delete(&self, delete: pb::DeleteRangeRequest) -> Outcome<Answered<pb::DeleteRangeResponse>> {
        let delete = DeleteRange { key: delete.key, range_end: delete.range_end, prev_kv: delete.prev_kv };
        let answer = self.done(self.store.delete_range(delete).await).await?;
        let prev_kvs = answer.value.prev_kvs.into_iter().map(pair).collect();
        let value = pb::DeleteRangeResponse { header: None, deleted: answer.value.deleted as i64, prev_kvs };
        Ok(Answered { value, stamp: stamp(answer.stamp, answer.value.revision) })
    }

    pub(crate) async fn watch(self, key: Bytes, range_end: Bytes, revision: u64, previous: bool) -> Outcome<Events> {
        let watch = Watch { key, range_end, revision, previous };
        let watching = self.done(self.store.watch(watch).await).await?;
        Ok(Events { native: self, watching })
    }

    /// An answer, or what its absence means.
    async fn done<T>(&self, answer: Result<T, ClientError>) -> Outcome<T> {
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let exit = match &error {
            ClientError::Options(_) | ClientError::Refused(_) => Exit::Invalid,
            ClientError::Store(refused) if matches!(refused.grpc_code(), 3 | 11 | 12) => Exit::Invalid,
            ClientError::Store(_) | ClientError::Compacted { .. } | ClientError::Malformed(_) => Exit::Failure,
            ClientError::NotDone(_) | ClientError::Unknown(_) if self.is_leaderless().await => Exit::NoQuorum,
            ClientError::NotDone(_) | ClientError::Unknown(_) => Exit::Unreachable,
        };
        Err(Failure::new(exit, error.to_string()))
    }

    /// Whether members answer, and none of them knows who could decide.
    async fn is_leaderless(&self) -> bool {
        let all = self.store.client().status().await;
        let groups = all.into_iter().filter_map(|(_, status)| status.ok()).flat_map(|status| status.groups);
        let mut leaders = groups.filter(|group| group.namespace == self.namespace).map(|group| group.leader).peekable();
        leaders.peek().is_some() && leaders.all(|leader| leader == 0)
    }
}

/// A watch's events, as they come.
pub(crate) struct Events {
    native: Native,
    watching: Watching,
}

impl Events {
    pub(crate) async fn next(&mut self) -> Outcome<Vec<Event>> {
        let changes = self.watching.next().await;
        Ok(self.native.done(changes).await?.into_iter().map(event).collect())
    }
}

fn stamp(stamp: concur_client::Stamp, revision: Revision) -> Stamp {
    let level = match stamp.level {
        concur_client::Level::Strong => Level::Strong,
        concur_client::Level::Eventual => Level::Eventual,
    };
    let mut rest = vec![("namespace", stamp.namespace.into()), ("epoch", stamp.epoch.into()), ("position", stamp.position.into())];
    if !stamp.region.is_empty() {
        rest.push(("region", stamp.region.into()));
    }
    Stamp { level, revision: revision.0, node: stamp.name, rest }
}

fn pair(pair: Pair) -> KeyValue {
    KeyValue {
        key: pair.key,
        value: pair.value,
        create_revision: pair.create_revision.0,
        mod_revision: pair.mod_revision.0,
        version: pair.version,
        lease: pair.lease.0,
    }
}

fn event(change: Change) -> Event {
    let kind = if change.value.is_some() { EventType::Put } else { EventType::Delete };
    let mod_revision = i64::try_from(change.revision).unwrap_or(i64::MAX);
    let previous = Some(change.previous).filter(|previous| !previous.is_empty());
    let kv = KeyValue { key: change.key.clone(), value: change.value.unwrap_or_default(), mod_revision, ..KeyValue::default() };
    let prev_kv = previous.map(|value| KeyValue { key: change.key, value, ..KeyValue::default() });
    Event { r#type: kind as i32, kv: Some(kv), prev_kv }
}
