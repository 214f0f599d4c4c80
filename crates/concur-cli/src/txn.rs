//! `concur txn`: conditions, and what is done if they hold, or if they do not.

mod words;

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, readable};
use crate::reach::{Asked, Reach, client, wait};
use crate::store::{Level, Stamp, Store, etcd_stamp, pair_value};
use clap::Args;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::kv_client::KvClient;
use pb::response_op::Response;
use serde_json::{Value, json};
use std::fmt::Write;
use words::{compare, operation};

/// Do several things at once, if conditions hold
#[derive(Debug, Args)]
#[command(after_help = WORDS)]
pub(crate) struct Txn {
    /// A condition; all must hold
    #[arg(long = "if", env = "CONCUR_IF", value_parser = compare, value_name = "CONDITION")]
    conditions: Vec<pb::Compare>,
    /// What to do if they hold
    #[arg(long = "then", env = "CONCUR_THEN", value_parser = operation, value_name = "OPERATION")]
    success: Vec<pb::RequestOp>,
    /// What to do if they do not
    #[arg(long = "else", env = "CONCUR_ELSE", value_parser = operation, value_name = "OPERATION")]
    failure: Vec<pb::RequestOp>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

const WORDS: &str = "Conditions:  value KEY = VALUE    version KEY > N    create KEY != N    mod KEY < N    lease KEY = ID\n\
                     Operations:  put KEY VALUE        get KEY [END]      del KEY [END]\n\
                     Words with spaces stand in double quotes. Each flag may be given several times.\n\n\
                     Example: concur txn --if 'version lock = 0' --then 'put lock \"held by a\"' --else 'get lock'";

impl Txn {
    pub(crate) fn run(self) -> Outcome {
        if self.success.is_empty() && self.failure.is_empty() {
            return Err(Failure::new(Exit::Usage, "nothing to do: give --then or --else"));
        }
        wait(async {
            let link = self.reach.connect().await?;
            let txn = pb::TxnRequest { compare: self.conditions, success: self.success, failure: self.failure };
            let answer = link.answer(Asked::Write, client!(KvClient, link).txn(txn)).await?;
            let stamp = etcd_stamp(Level::Strong, answer.header.as_ref());
            let stamp = Store::Etcd(link).shown(&self.output, stamp).await;
            let value = json!({
                "succeeded": answer.succeeded,
                "results": answer.responses.iter().map(result_value).collect::<Vec<_>>(),
                "stamp": stamp.as_ref().map(Stamp::value),
            });
            self.output.show(&value, |_| {
                let mut text = format!("{}\n", if answer.succeeded { "the conditions hold" } else { "the conditions do not hold" });
                answer.responses.iter().for_each(|response| result_text(response, &mut text));
                text + &stamp.as_ref().map(Stamp::text).unwrap_or_default()
            })
        })
    }
}

fn revision(header: Option<&pb::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn result_value(result: &pb::ResponseOp) -> Value {
    match &result.response {
        Some(Response::ResponsePut(put)) => json!({ "put": { "revision": revision(put.header.as_ref()) } }),
        Some(Response::ResponseDeleteRange(delete)) => json!({ "del": { "deleted": delete.deleted } }),
        Some(Response::ResponseRange(range)) => {
            json!({ "get": { "kvs": range.kvs.iter().map(pair_value).collect::<Vec<_>>(), "count": range.count } })
        }
        Some(Response::ResponseTxn(_)) | None => Value::Null,
    }
}

fn result_text(result: &pb::ResponseOp, text: &mut String) {
    let _ = match &result.response {
        Some(Response::ResponsePut(put)) => writeln!(text, "put at revision {}", revision(put.header.as_ref())),
        Some(Response::ResponseDeleteRange(delete)) => writeln!(text, "deleted {}", delete.deleted),
        Some(Response::ResponseRange(range)) if range.kvs.is_empty() => writeln!(text, "got nothing"),
        Some(Response::ResponseRange(range)) => {
            range.kvs.iter().try_for_each(|kv| writeln!(text, "got {}  {}", readable(&kv.key), readable(&kv.value)))
        }
        Some(Response::ResponseTxn(_)) | None => Ok(()),
    };
}
