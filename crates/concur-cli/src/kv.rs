//! `concur get`, `put` and `del`.

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, Table, readable, write};
use crate::reach::{Reach, wait};
use crate::store::{Answered, Keys, Level, Namespaced, Stamp, Store, lease_id, lease_text, pair_value};
use clap::Args;
use concur_proto::etcdserverpb as pb;
use concur_proto::mvccpb::KeyValue;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{IsTerminal, Read};

/// Read a key, or a range of keys
#[derive(Debug, Args)]
pub(crate) struct Get {
    #[command(flatten)]
    keys: Keys,
    /// How fresh the answer must be
    #[arg(long, env = "CONCUR_LEVEL", value_enum, default_value = "strong")]
    level: Level,
    /// At this revision of the store
    #[arg(long, env = "CONCUR_REVISION", default_value = "0", hide_default_value = true, value_parser = clap::value_parser!(i64).range(0..))]
    revision: i64,
    /// No more than so many keys
    #[arg(long, env = "CONCUR_LIMIT", default_value = "0", hide_default_value = true, value_parser = clap::value_parser!(i64).range(0..))]
    limit: i64,
    /// Leave the values out
    #[arg(long, env = "CONCUR_KEYS_ONLY")]
    keys_only: bool,
    /// Only count
    #[arg(long, env = "CONCUR_COUNT_ONLY", conflicts_with = "keys_only")]
    count_only: bool,
    /// Print the value's bytes and nothing else
    #[arg(long, env = "CONCUR_VALUE_ONLY", conflicts_with_all = ["keys_only", "count_only"])]
    value_only: bool,
    #[command(flatten)]
    namespaced: Namespaced,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Get {
    pub(crate) fn run(self) -> Outcome {
        wait(async {
            let store = Store::open(&self.reach, &self.namespaced).await?;
            let (key, range_end) = self.keys.range();
            let (revision, limit) = (self.revision, self.limit);
            let (keys_only, count_only) = (self.keys_only, self.count_only);
            let range = pb::RangeRequest { key, range_end, revision, limit, keys_only, count_only, ..Default::default() };
            let Answered { value: answer, stamp } = store.range(self.level, range).await?;
            if self.keys.is_one() && answer.count == 0 && !self.count_only {
                return Err(Failure::new(Exit::Failure, format!("there is no key {}", self.keys.shown())));
            }
            if self.value_only {
                return values_only(&answer.kvs);
            }
            let stamp = store.shown(&self.output, stamp).await;
            self.show(&answer, stamp.as_ref())
        })
    }

    fn show(&self, answer: &pb::RangeResponse, stamp: Option<&Stamp>) -> Outcome {
        let value = json!({
            "kvs": answer.kvs.iter().map(pair_value).collect::<Vec<_>>(),
            "count": answer.count,
            "more": answer.more,
            "stamp": stamp.map(Stamp::value),
        });
        self.output.show(&value, |wide| {
            let text = if self.count_only { format!("{}\n", answer.count) } else { pairs_text(&answer.kvs, wide) };
            text + &stamp.map(Stamp::text).unwrap_or_default()
        })
    }
}

/// The bytes as they are; on a terminal, each value on a line.
fn values_only(kvs: &[KeyValue]) -> Outcome {
    let end: &[u8] = if std::io::stdout().is_terminal() || kvs.len() > 1 { b"\n" } else { b"" };
    write(kvs.iter().flat_map(|kv| [&kv.value[..], end]).collect::<Vec<_>>().concat())
}

fn pairs_text(kvs: &[KeyValue], wide: bool) -> String {
    let mut table = Table::new(if wide { &["KEY", "VALUE", "REVISION", "CREATED", "VERSION", "LEASE"] } else { &["KEY", "VALUE"] });
    for kv in kvs {
        let (key, value) = (readable(&kv.key), readable(&kv.value));
        if wide {
            let numbers = [kv.mod_revision.to_string(), kv.create_revision.to_string(), kv.version.to_string(), lease_text(kv.lease)];
            table.row([key, value].into_iter().chain(numbers));
        } else {
            table.row([key, value]);
        }
    }
    table.text()
}

/// Write a key
#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The key
    key: OsString,
    /// The value; without one it is read from standard input
    #[arg(allow_hyphen_values = true)]
    value: Option<OsString>,
    /// The lease to attach the key to
    #[arg(long, env = "CONCUR_LEASE", value_parser = lease_id, value_name = "ID")]
    lease: Option<i64>,
    /// Say what was there before
    #[arg(long, env = "CONCUR_PREVIOUS")]
    previous: bool,
    #[command(flatten)]
    namespaced: Namespaced,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Put {
    pub(crate) fn run(self) -> Outcome {
        let value = match &self.value {
            Some(value) => value.as_encoded_bytes().to_vec(),
            None => standard_input()?,
        };
        wait(async {
            let store = Store::open(&self.reach, &self.namespaced).await?;
            let key = self.key.as_encoded_bytes().to_vec().into();
            let (lease, prev_kv) = (self.lease.unwrap_or(0), self.previous);
            let put = pb::PutRequest { key, value: value.into(), lease, prev_kv, ..Default::default() };
            let Answered { value: answer, stamp } = store.put(put).await?;
            let revision = stamp.revision;
            let stamp = store.shown(&self.output, stamp).await;
            let value = json!({
                "revision": revision,
                "previous": answer.prev_kv.as_ref().map(pair_value),
                "stamp": stamp.as_ref().map(Stamp::value),
            });
            self.output.show(&value, |wide| {
                let before = answer.prev_kv.as_slice();
                let before = if before.is_empty() { String::new() } else { pairs_text(before, wide) };
                format!("revision {revision}\n{before}{}", stamp.as_ref().map(Stamp::text).unwrap_or_default())
            })
        })
    }
}

fn standard_input() -> Outcome<Vec<u8>> {
    let mut value = Vec::new();
    let read = std::io::stdin().read_to_end(&mut value);
    read.map_err(|error| Failure::new(Exit::Invalid, format!("cannot read the value from standard input: {error}")))?;
    Ok(value)
}

/// Delete a key, or a range of keys
#[derive(Debug, Args)]
pub(crate) struct Del {
    #[command(flatten)]
    keys: Keys,
    /// Say what was there before
    #[arg(long, env = "CONCUR_PREVIOUS")]
    previous: bool,
    #[command(flatten)]
    namespaced: Namespaced,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Del {
    pub(crate) fn run(self) -> Outcome {
        wait(async {
            let store = Store::open(&self.reach, &self.namespaced).await?;
            let (key, range_end) = self.keys.range();
            let delete = pb::DeleteRangeRequest { key, range_end, prev_kv: self.previous };
            let Answered { value: answer, stamp } = store.delete(delete).await?;
            let stamp = store.shown(&self.output, stamp).await;
            let previous: Vec<Value> = answer.prev_kvs.iter().map(pair_value).collect();
            let value = json!({ "deleted": answer.deleted, "previous": previous, "stamp": stamp.as_ref().map(Stamp::value) });
            self.output.show(&value, |wide| {
                let before = if answer.prev_kvs.is_empty() { String::new() } else { pairs_text(&answer.prev_kvs, wide) };
                format!("deleted {}\n{before}{}", answer.deleted, stamp.as_ref().map(Stamp::text).unwrap_or_default())
            })
        })
    }
}
