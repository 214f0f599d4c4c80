//! `concur lease`: grant, revoke, keep-alive, timetolive, list.

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, Table, readable};
use crate::reach::{Asked, Link, Reach, client, wait};
use crate::store::{lease_id, lease_text};
use clap::{Args, Subcommand};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::lease_client::LeaseClient;
use serde_json::{Value, json};
use std::time::Duration;
use tonic::Status;

/// Leases: keys that go away unless somebody keeps them alive
#[derive(Debug, Subcommand)]
pub(crate) enum Lease {
    Grant(Grant),
    Revoke(Revoke),
    KeepAlive(KeepAlive),
    #[command(name = "timetolive")]
    TimeToLive(TimeToLive),
    List(List),
}

impl Lease {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Grant(command) => wait(command.run()),
            Self::Revoke(command) => wait(command.run()),
            Self::KeepAlive(command) => wait(command.run()),
            Self::TimeToLive(command) => wait(command.run()),
            Self::List(command) => wait(command.run()),
        }
    }
}

/// Grant a lease
#[derive(Debug, Args)]
pub(crate) struct Grant {
    /// How many seconds it lives unless it is kept alive
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    seconds: i64,
    /// Its id; without one the cluster draws it
    #[arg(long, env = "CONCUR_LEASE", value_parser = lease_id, value_name = "ID")]
    id: Option<i64>,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Grant {
    async fn run(self) -> Outcome {
        let link = self.reach.connect().await?;
        let grant = pb::LeaseGrantRequest { ttl: self.seconds, id: self.id.unwrap_or(0) };
        let answer = link.answer(Asked::Write, client!(LeaseClient, link).lease_grant(grant)).await?;
        let value = json!({ "id": lease_text(answer.id), "seconds": answer.ttl });
        self.output.show(&value, |_| format!("{}  {} seconds\n", lease_text(answer.id), answer.ttl))
    }
}

/// End a lease and delete its keys
#[derive(Debug, Args)]
pub(crate) struct Revoke {
    /// Which
    #[arg(value_parser = lease_id)]
    id: i64,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl Revoke {
    async fn run(self) -> Outcome {
        let link = self.reach.connect().await?;
        link.answer(Asked::Write, client!(LeaseClient, link).lease_revoke(pb::LeaseRevokeRequest { id: self.id })).await?;
        self.output.show(&json!({ "revoked": lease_text(self.id) }), |_| format!("revoked {}\n", lease_text(self.id)))
    }
}

/// Keep a lease alive until this is interrupted
#[derive(Debug, Args)]
pub(crate) struct KeepAlive {
    /// Which
    #[arg(value_parser = lease_id)]
    id: i64,
    /// Renew it once
    #[arg(long, env = "CONCUR_ONCE")]
    once: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl KeepAlive {
    async fn run(self) -> Outcome {
        loop {
            let link = self.reach.connect().await?;
            let seconds = link.answer(Asked::Write, renew(&link, self.id)).await?;
            if seconds <= 0 {
                return Err(Failure::new(Exit::Failure, format!("there is no lease {}: it expired or was revoked", lease_text(self.id))));
            }
            let value = json!({ "id": lease_text(self.id), "seconds": seconds });
            self.output.show_next(&value, |_| format!("{}  {seconds} seconds\n", lease_text(self.id)))?;
            if self.once {
                return Ok(());
            }
            let third = Duration::from_secs(u64::try_from(seconds).unwrap_or(1)) / 3;
            tokio::time::sleep(third).await;
        }
    }
}

/// Renews a lease once; answers with its time to live, 0 if it is gone.
async fn renew(link: &Link, id: i64) -> Result<tonic::Response<i64>, Status> {
    let asks = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = client!(LeaseClient, link).lease_keep_alive(asks).await?.into_inner();
    let answer = answers.message().await?;
    answer.map(|answer| tonic::Response::new(answer.ttl)).ok_or_else(|| Status::unavailable("the server ended the stream"))
}

/// Say how long a lease has to live
#[derive(Debug, Args)]
pub(crate) struct TimeToLive {
    /// Which
    #[arg(value_parser = lease_id)]
    id: i64,
    /// List its keys
    #[arg(long, env = "CONCUR_KEYS")]
    keys: bool,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl TimeToLive {
    async fn run(self) -> Outcome {
        let link = self.reach.connect().await?;
        let ask = pb::LeaseTimeToLiveRequest { id: self.id, keys: self.keys };
        let answer = link.answer(Asked::Read, client!(LeaseClient, link).lease_time_to_live(ask)).await?;
        if answer.ttl < 0 {
            return Err(Failure::new(Exit::Failure, format!("there is no lease {}: it expired or was revoked", lease_text(self.id))));
        }
        let keys: Vec<String> = answer.keys.iter().map(|key| readable(key)).collect();
        let value = json!({ "id": lease_text(self.id), "seconds": answer.ttl, "granted_seconds": answer.granted_ttl, "keys": keys });
        self.output.show(&value, |_| {
            let mut text = format!("{}  {} of {} seconds\n", lease_text(self.id), answer.ttl, answer.granted_ttl);
            keys.iter().for_each(|key| text.extend([key, "\n"]));
            text
        })
    }
}

/// List all leases
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

impl List {
    async fn run(self) -> Outcome {
        let link = self.reach.connect().await?;
        let answer = link.answer(Asked::Read, client!(LeaseClient, link).lease_leases(pb::LeaseLeasesRequest {})).await?;
        let ids: Vec<String> = answer.leases.iter().map(|lease| lease_text(lease.id)).collect();
        let value = Value::Array(ids.iter().map(|id| json!({ "id": id })).collect());
        self.output.show(&value, |_| {
            let mut table = Table::new(&["LEASE"]);
            ids.into_iter().for_each(|id| table.row([id]));
            table.text()
        })
    }
}
