//! The store, as the commands use it: over etcd's API, or over the native one where a namespace is named.
//!
//! Requests and answers are etcd's messages in either case.

mod native;

pub(crate) use native::Native;

use crate::exit::Outcome;
use crate::output::{Format, Output, put_bytes};
use crate::reach::{Asked, Link, Reach, client};
use clap::{Args, ValueEnum};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::kv_client::KvClient;
use concur_proto::mvccpb::KeyValue;
use serde_json::{Map, Value, json};
use std::ffi::OsString;

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Sees every write that was acknowledged before.
    Strong,
    /// Some committed state, at once.
    Eventual,
}

impl Level {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Strong => "strong",
            Self::Eventual => "eventual",
        }
    }
}

/// What an answer says of its freshness.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) level: Level,
    pub(crate) revision: i64,
    pub(crate) node: String,
    /// What only one of the two APIs says, by name.
    pub(crate) rest: Vec<(&'static str, Value)>,
}

impl Stamp {
    pub(crate) fn value(&self) -> Value {
        let mut value = json!({ "level": self.level.word(), "revision": self.revision, "node": self.node });
        self.rest.iter().for_each(|(name, rest)| value[*name] = rest.clone());
        value
    }

    pub(crate) fn text(&self) -> String {
        let rest = self.rest.iter().map(|(name, value)| match value {
            Value::String(text) => format!(", {name} {text}"),
            other => format!(", {name} {other}"),
        });
        let rest: String = rest.collect();
        format!("{}, revision {}, served by {}{rest}\n", self.level.word(), self.revision, self.node)
    }
}

/// An answer, and its freshness.
#[derive(Debug, Clone)]
pub(crate) struct Answered<T> {
    pub(crate) value: T,
    pub(crate) stamp: Stamp,
}

/// Which of a cluster's namespaces.
#[derive(Debug, Clone, Args)]
pub(crate) struct Namespaced {
    /// The namespace [default: the one that etcd's API serves]
    #[arg(long, short = 'n', env = "CONCUR_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

/// A key or a range of keys.
#[derive(Debug, Clone, Args)]
pub(crate) struct Keys {
    /// The key, or the first of a range
    key: OsString,
    /// The key behind the last of the range
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    range_end: Option<OsString>,
    /// Every key that begins so
    #[arg(long, env = "CONCUR_PREFIX", conflicts_with = "from_key")]
    prefix: bool,
    /// Every key from this one on
    #[arg(long, env = "CONCUR_FROM_KEY")]
    from_key: bool,
}

impl Keys {
    /// The key, and the end of the range as etcd has it.
    pub(crate) fn range(&self) -> (bytes::Bytes, bytes::Bytes) {
        let key = self.key.as_encoded_bytes().to_vec();
        let end = match &self.range_end {
            Some(end) => end.as_encoded_bytes().to_vec(),
            None if self.prefix => after_prefix(&key),
            None if self.from_key => vec![0],
            None => Vec::new(),
        };
        // No key is empty: the smallest is one zero byte.
        let first = if key.is_empty() && !end.is_empty() { vec![0] } else { key };
        (first.into(), end.into())
    }

    pub(crate) fn is_one(&self) -> bool {
        self.range_end.is_none() && !self.prefix && !self.from_key
    }

    pub(crate) fn shown(&self) -> String {
        crate::output::readable(self.key.as_encoded_bytes())
    }
}

/// The key behind the last that begins so; one zero byte if there is none.
fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    match prefix.iter().rposition(|&byte| byte != 0xff) {
        Some(last) => [&prefix[..last], &[prefix[last] + 1]].concat(),
        None => vec![0],
    }
}

/// The store.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    /// Behind one server of etcd's API.
    Etcd(Link),
    /// A namespace behind all members.
    Native(Native),
}

impl Store {
    pub(crate) async fn open(reach: &Reach, namespaced: &Namespaced) -> Outcome<Self> {
        match &namespaced.namespace {
            None => Ok(Self::Etcd(reach.connect().await?)),
            Some(namespace) => Ok(Self::Native(Native::open(reach, namespace).await?)),
        }
    }

    pub(crate) async fn range(&self, level: Level, mut range: pb::RangeRequest) -> Outcome<Answered<pb::RangeResponse>> {
        let link = match self {
            Self::Native(native) => return native.range(level, range).await,
            Self::Etcd(link) => link,
        };
        range.serializable = level == Level::Eventual;
        let value = link.answer(Asked::Read, client!(KvClient, link).range(range)).await?;
        Ok(Answered { stamp: etcd_stamp(level, value.header.as_ref()), value })
    }

    pub(crate) async fn put(&self, put: pb::PutRequest) -> Outcome<Answered<pb::PutResponse>> {
        let link = match self {
            Self::Native(native) => return native.put(put).await,
            Self::Etcd(link) => link,
        };
        let value = link.answer(Asked::Write, client!(KvClient, link).put(put)).await?;
        Ok(Answered { stamp: etcd_stamp(Level::Strong, value.header.as_ref()), value })
    }

    pub(crate) async fn delete(&self, delete: pb::DeleteRangeRequest) -> Outcome<Answered<pb::DeleteRangeResponse>> {
        let link = match self {
            Self::Native(native) => return native.delete(delete).await,
            Self::Etcd(link) => link,
        };
        let value = link.answer(Asked::Write, client!(KvClient, link).delete_range(delete)).await?;
        Ok(Answered { stamp: etcd_stamp(Level::Strong, value.header.as_ref()), value })
    }

    /// The stamp as it is shown: the plain table has none, and what is shown names the node.
    pub(crate) async fn shown(&self, output: &Output, mut stamp: Stamp) -> Option<Stamp> {
        if output.format == Format::Table {
            return None;
        }
        if let (Self::Etcd(link), Ok(id)) = (self, u64::from_str_radix(&stamp.node, 16)) {
            stamp.node = link.member_name(id).await;
        }
        Some(stamp)
    }
}

/// What a header says of an answer's freshness.
pub(crate) fn etcd_stamp(level: Level, header: Option<&pb::ResponseHeader>) -> Stamp {
    let header = header.cloned().unwrap_or_default();
    let rest = vec![("term", header.raft_term.into())];
    Stamp { level, revision: header.revision, node: format!("{:x}", header.member_id), rest }
}

/// A key and its value, for programs.
pub(crate) fn pair_value(kv: &KeyValue) -> Value {
    let mut fields = Map::new();
    put_bytes(&mut fields, "key", &kv.key);
    put_bytes(&mut fields, "value", &kv.value);
    fields.insert("create_revision".into(), kv.create_revision.into());
    fields.insert("mod_revision".into(), kv.mod_revision.into());
    fields.insert("version".into(), kv.version.into());
    fields.insert("lease".into(), lease_text(kv.lease).into());
    Value::Object(fields)
}

/// A lease's id as people read and write it; nothing for no lease.
pub(crate) fn lease_text(id: i64) -> String {
    if id == 0 { String::new() } else { format!("{id:016x}") }
}

/// Reads a lease's id.
pub(crate) fn lease_id(text: &str) -> Result<i64, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    i64::from_str_radix(digits, 16).ok().filter(|id| *id > 0).ok_or_else(|| "a lease's id is a hexadecimal number".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_where_its_last_byte_that_can_grow_grows() {
        for (prefix, end) in [(&b"a"[..], &b"b"[..]), (b"ab\xff", b"ac"), (b"\xff\xff", b"\0"), (b"", b"\0")] {
            assert_eq!(after_prefix(prefix), end);
        }
    }

    #[test]
    fn ids_of_leases_are_hexadecimal() {
        assert_eq!(lease_id("0x10"), Ok(16));
        assert_eq!(lease_id(&lease_text(0x1234_5678)), Ok(0x1234_5678));
        for text in ["", "0", "-1", "g", "ffffffffffffffff"] {
            assert!(lease_id(text).is_err(), "{text}");
        }
    }
}
