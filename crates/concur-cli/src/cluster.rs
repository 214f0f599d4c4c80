//! `concur members` and `concur status`.

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, Table};
use crate::reach::{Link, Reach, client, wait};
use clap::Args;
use concur_proto::concur::v1::concur_client::ConcurClient;
use concur_proto::concur::v1::{GroupStatus, StatusReply, StatusRequest};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use serde_json::{Value, json};
use std::time::Duration;

/// Who is in, and where they listen
#[derive(Debug, Args)]
pub(crate) struct Members {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

fn role(member: &pb::Member) -> &'static str {
    if member.is_learner { "observer" } else { "voter" }
}

impl Members {
    pub(crate) fn run(self) -> Outcome {
        wait(async {
            let members = self.reach.connect().await?.members().await?;
            let value = |member: &pb::Member| {
                json!({
                    "id": format!("{:x}", member.id),
                    "name": member.name,
                    "role": role(member),
                    "peer": member.peer_ur_ls,
                    "client": member.client_ur_ls,
                })
            };
            self.output.show(&Value::Array(members.iter().map(value).collect()), |_| {
                let mut table = Table::new(&["NAME", "ID", "ROLE", "PEER", "CLIENT"]);
                for member in &members {
                    let (peer, client) = (member.peer_ur_ls.join(","), member.client_ur_ls.join(","));
                    table.row([member.name.clone(), format!("{:x}", member.id), role(member).into(), peer, client]);
                }
                table.text()
            })
        })
    }
}

/// How each member is: who leads, how far it is behind, what is on its disk, what is wrong
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// One member, and what it says of itself.
struct Report {
    member: pb::Member,
    endpoint: String,
    /// What it says, or why it says nothing.
    status: Result<pb::StatusResponse, String>,
    /// What it says of its groups, if it speaks the native API.
    native: Option<StatusReply>,
}

/// How long a member that is asked about itself may take.
const MEMBER_TIME_MAX: Duration = Duration::from_secs(2);

impl Status {
    pub(crate) fn run(self) -> Outcome {
        wait(async {
            let members = self.reach.connect().await?.members().await?;
            let mut asked = Vec::new();
            for member in members {
                asked.push(tokio::spawn(report(self.reach.clone(), member)));
            }
            let mut reports = Vec::new();
            for report in asked {
                reports.push(report.await.map_err(|error| Failure::new(Exit::Failure, error.to_string()))?);
            }
            self.output.show(&Value::Array(reports.iter().map(|report| report.value(&reports)).collect()), |wide| text(&reports, wide))?;
            verdict(&reports)
        })
    }
}

async fn report(mut reach: Reach, member: pb::Member) -> Report {
    reach.timeout = reach.timeout.min(MEMBER_TIME_MAX);
    let endpoint = member.client_ur_ls.first().map(|url| url.trim_start_matches("http://").to_owned()).unwrap_or_default();
    let (status, native) = match reach.connect_to(&endpoint).await {
        Ok(link) => (status(&link).await, native(&link).await),
        Err(error) => (Err(error), None),
    };
    Report { member, endpoint, status, native }
}

async fn status(link: &Link) -> Result<pb::StatusResponse, String> {
    let mut client = client!(MaintenanceClient, link);
    let answer = tokio::time::timeout(link.timeout, client.status(pb::StatusRequest {})).await;
    Ok(answer.map_err(|_| "no answer in time")?.map_err(|status| status.message().to_owned())?.into_inner())
}

async fn native(link: &Link) -> Option<StatusReply> {
    let mut client = client!(ConcurClient, link);
    let answer = tokio::time::timeout(link.timeout, client.status(StatusRequest {})).await;
    Some(answer.ok()?.ok()?.into_inner())
}

/// The exit code that the reports come to.
fn verdict(reports: &[Report]) -> Outcome {
    let up = reports.iter().filter_map(|report| report.status.as_ref().ok());
    if up.clone().next().is_none() {
        return Err(Failure::new(Exit::Unreachable, "no member answers"));
    }
    if up.clone().all(|status| status.leader == 0) {
        return Err(Failure::new(Exit::NoQuorum, "no member knows a quorum that could decide"));
    }
    if reports.iter().any(|report| !report.errors().is_empty()) {
        return Err(Failure::silent(Exit::Unhealthy));
    }
    Ok(())
}

impl Report {
    fn errors(&self) -> Vec<String> {
        match &self.status {
            Ok(status) => status.errors.iter().map(|error| error.trim().to_owned()).collect(),
            Err(error) => vec![format!("unreachable: {error}")],
        }
    }

    /// How many decisions others have executed and this member has not.
    fn lag(&self, all: &[Report]) -> u64 {
        let executed = |report: &Report| report.status.as_ref().map_or(0, |status| status.raft_applied_index);
        let furthest = all.iter().map(executed).max().unwrap_or(0);
        furthest - executed(self)
    }

    fn role(&self) -> &'static str {
        match &self.status {
            Err(_) => "-",
            Ok(status) if status.is_learner => "observer",
            Ok(status) if status.leader == self.member.id && self.has_leader() => "leader",
            Ok(_) => "voter",
        }
    }

    /// Whether the strategy of its first group has leaders; servers that do not say have.
    fn has_leader(&self) -> bool {
        let strategy = self.native.as_ref().and_then(|native| native.groups.first()).and_then(|group| concur::find(&group.strategy));
        strategy.is_none_or(|strategy| strategy.traits.has_leader)
    }

    fn value(&self, all: &[Report]) -> Value {
        let status = self.status.as_ref().ok();
        json!({
            "name": self.member.name,
            "id": format!("{:x}", self.member.id),
            "endpoint": self.endpoint,
            "reachable": status.is_some(),
            "role": self.role(),
            "leader": status.map(|status| format!("{:x}", status.leader)),
            "term": status.map(|status| status.raft_term),
            "revision": status.and_then(|status| status.header.as_ref()).map(|header| header.revision),
            "executed": status.map(|status| status.raft_applied_index),
            "lag": status.map(|_| self.lag(all)),
            "disk_bytes": status.map(|status| status.db_size),
            "quota_bytes": status.map(|status| status.db_size_quota),
            "groups": self.native.iter().flat_map(|native| &native.groups).map(group_value).collect::<Vec<_>>(),
            "alarms": self.errors(),
        })
    }
}

fn group_value(group: &GroupStatus) -> Value {
    json!({
        "namespace": group.namespace,
        "strategy": group.strategy,
        "epoch": group.epoch,
        "leader": format!("{:x}", group.leader),
        "term": group.term,
        "decided": group.decided,
        "executed": group.executed,
        "revision": group.revision,
    })
}

fn text(reports: &[Report], wide: bool) -> String {
    let mut table = Table::new(&["NAME", "ENDPOINT", "ROLE", "TERM", "REVISION", "EXECUTED", "LAG", "DISK", "ALARMS"]);
    for report in reports {
        let errors = report.errors();
        let alarms = if errors.is_empty() { "-".to_owned() } else { errors.join("; ") };
        let shown = |f: &dyn Fn(&pb::StatusResponse) -> String| report.status.as_ref().map_or("-".to_owned(), f);
        table.row([
            report.member.name.clone(),
            report.endpoint.clone(),
            report.role().into(),
            shown(&|status| status.raft_term.to_string()),
            shown(&|status| status.header.as_ref().map_or(0, |header| header.revision).to_string()),
            shown(&|status| status.raft_applied_index.to_string()),
            shown(&|_| report.lag(reports).to_string()),
            shown(&|status| size(status.db_size)),
            alarms,
        ]);
    }
    table.text() + &if wide { groups_text(reports) } else { String::new() }
}

/// A line for each group on each node.
fn groups_text(reports: &[Report]) -> String {
    let mut table = Table::new(&["NAME", "NAMESPACE", "STRATEGY", "EPOCH", "TERM", "REVISION", "DECIDED", "EXECUTED"]);
    for report in reports {
        for group in report.native.iter().flat_map(|native| &native.groups) {
            let numbers = [group.epoch, group.term, group.revision, group.decided, group.executed].map(|number| number.to_string());
            table.row([report.member.name.clone(), group.namespace.clone(), group.strategy.clone()].into_iter().chain(numbers));
        }
    }
    format!("\n{}", table.text())
}

fn size(bytes: i64) -> String {
    let bytes = bytes as f64;
    for (unit, name) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if bytes >= f64::from(unit) {
            return format!("{:.1} {name}", bytes / f64::from(unit));
        }
    }
    format!("{bytes} B")
}
