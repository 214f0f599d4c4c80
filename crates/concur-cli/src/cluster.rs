//! `concur members` and `concur status`: what members say of themselves and of one another.

use crate::exit::{Exit, Failure, Outcome};
use crate::output::{Output, Table};
use crate::reach::{Link, Reach, client, wait};
use clap::Args;
use concur_proto::concur::v1::concur_client::ConcurClient;
use concur_proto::concur::v1::{GroupStatus, MemberStatus, StatusReply, StatusRequest};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use serde_json::{Value, json};
use std::time::Duration;

/// Who is in, what they do, how far behind they are, and where they listen
#[derive(Debug, Args)]
pub(crate) struct Members {
    /// The namespace whose members these are [default: default]
    #[arg(long, env = "CONCUR_NAMESPACE", default_value = "default", hide_default_value = true, value_name = "NAME")]
    namespace: String,
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
}

/// A member, from what the native API and etcd's say of it.
#[derive(Debug, Default)]
struct Listed {
    id: u64,
    name: String,
    role: String,
    weight: Option<u64>,
    epoch: Option<u64>,
    lag: Option<u64>,
    heard: Option<bool>,
    region: String,
    peer: String,
    client: String,
}

impl Members {
    pub(crate) fn run(self) -> Outcome {
        wait(async {
            let link = self.reach.connect().await?;
            let said = native(&link).await;
            let group = said.as_ref().and_then(|said| said.groups.iter().find(|group| group.namespace == self.namespace));
            let listed = match (group, &said) {
                (Some(group), _) => natively(group, &link.members().await.unwrap_or_default()),
                (None, Some(said)) if self.namespace != "default" => {
                    let what = format!("namespace `{}` is not on {}; ask a member that has it", self.namespace, said.name);
                    return Err(Failure::new(Exit::Invalid, what));
                }
                (None, _) => link.members().await?.iter().map(Listed::of).collect(),
            };
            self.output.show(&Value::Array(listed.iter().map(Listed::value).collect()), |wide| {
                let change = group.map(|group| group.change.as_str()).filter(|change| !change.is_empty());
                members_text(&listed, wide) + &change.map(|change| format!("\nunder way: {change}\n")).unwrap_or_default()
            })
        })
    }
}

/// The members of a group. Where clients reach them is known to etcd's list if not to the configuration.
fn natively(group: &GroupStatus, others: &[pb::Member]) -> Vec<Listed> {
    let listed = |member: &MemberStatus| {
        let other = others.iter().find(|other| other.id == member.node).map(Listed::of).unwrap_or_default();
        Listed {
            id: member.node,
            name: if member.name == member.peer && !other.name.is_empty() { other.name } else { member.name.clone() },
            role: member.role.clone(),
            weight: Some(member.weight),
            epoch: member.heard.then_some(member.epoch),
            lag: member.lag,
            heard: Some(member.heard),
            region: member.region.clone(),
            peer: member.peer.clone(),
            client: if other.client.is_empty() { member.client.clone() } else { other.client },
        }
    };
    group.members.iter().map(listed).collect()
}

impl Listed {
    fn of(member: &pb::Member) -> Self {
        let plain = |urls: &[String]| urls.iter().map(|url| concur_tls::address(url)).collect::<Vec<_>>().join(",");
        Self {
            id: member.id,
            name: member.name.clone(),
            role: role(member).into(),
            peer: plain(&member.peer_ur_ls),
            client: plain(&member.client_ur_ls),
            ..Self::default()
        }
    }

    fn value(&self) -> Value {
        json!({
            "id": format!("{:x}", self.id),
            "name": self.name,
            "role": self.role,
            "weight": self.weight,
            "epoch": self.epoch,
            "lag": self.lag,
            "heard": self.heard,
            "region": self.region,
            "peer": self.peer,
            "client": self.client,
        })
    }

    /// By how much it lags, or why that is not known.
    fn lag(&self) -> String {
        match (self.heard, self.lag) {
            (Some(false), _) => "silent".into(),
            (_, Some(lag)) => lag.to_string(),
            (_, None) => "-".into(),
        }
    }
}

fn members_text(listed: &[Listed], wide: bool) -> String {
    let mut headings = vec!["NAME", "ID", "ROLE", "EPOCH", "LAG", "PEER", "CLIENT"];
    if wide {
        headings.extend(["WEIGHT", "REGION"]);
    }
    let mut table = Table::new(&headings);
    let number = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
    for member in listed {
        let Listed { name, id, role, peer, client, region, .. } = member;
        let mut cells =
            vec![name.clone(), format!("{id:x}"), role.clone(), number(member.epoch), member.lag(), peer.clone(), client.clone()];
        if wide {
            cells.extend([number(member.weight), region.clone()]);
        }
        table.row(cells);
    }
    table.text()
}

fn role(member: &pb::Member) -> &'static str {
    if member.is_learner { "observer" } else { "voter" }
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
    let endpoint = member.client_ur_ls.first().map(|url| concur_tls::address(url)).unwrap_or_default();
    let (status, native) = match reach.connect_to(&endpoint).await {
        Ok(link) => (status(&link).await, native(&link).await),
        Err(failure) => (Err(failure.into_message()), None),
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

    /// What it says of the group that its front door shows.
    fn group(&self) -> Option<&GroupStatus> {
        let groups = &self.native.as_ref()?.groups;
        groups.iter().find(|group| group.namespace == "default").or(groups.first())
    }

    /// The epoch that it is in; 0 for servers that know none.
    fn epoch(&self) -> u64 {
        self.group().map_or(0, |group| group.epoch)
    }

    /// How many decisions others have executed and this member has not; nothing if it is in an earlier epoch than they.
    fn lag(&self, all: &[Report]) -> Option<u64> {
        let executed = |report: &Report| report.status.as_ref().map_or(0, |status| status.raft_applied_index);
        let newest = all.iter().map(Report::epoch).max().unwrap_or(0);
        let furthest = all.iter().filter(|report| report.epoch() == newest).map(executed).max().unwrap_or(0);
        (self.epoch() == newest).then(|| furthest.saturating_sub(executed(self)))
    }

    /// What it does, if that is something else than voting.
    fn seat(&self) -> Option<&str> {
        self.group().map(|group| group.role.as_str()).filter(|role| !matches!(*role, "" | "voter"))
    }

    fn change(&self) -> Option<&str> {
        self.group().map(|group| group.change.as_str()).filter(|change| !change.is_empty())
    }

    fn role(&self) -> &str {
        match &self.status {
            Err(_) => "-",
            Ok(_) if self.seat().is_some() => self.seat().unwrap_or_default(),
            Ok(status) if status.is_learner => "observer",
            Ok(status) if status.leader == self.member.id && self.has_leader() => "leader",
            Ok(_) => "voter",
        }
    }

    /// Whether the strategy of its first group has leaders; servers that do not say have.
    fn has_leader(&self) -> bool {
        let strategy = self.group().and_then(|group| concur::find(&group.strategy));
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
            "epoch": status.map(|_| self.epoch()),
            "lag": status.and_then(|_| self.lag(all)),
            "change": self.change(),
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
        "role": group.role,
        "change": group.change,
        "pause_ms": group.passage_us as f64 / 1e3,
        "leader": format!("{:x}", group.leader),
        "term": group.term,
        "decided": group.decided,
        "executed": group.executed,
        "revision": group.revision,
    })
}

fn text(reports: &[Report], wide: bool) -> String {
    let mut table = Table::new(&["NAME", "ENDPOINT", "ROLE", "EPOCH", "TERM", "REVISION", "EXECUTED", "LAG", "DISK", "ALARMS"]);
    for report in reports {
        let errors = report.errors();
        let alarms = if errors.is_empty() { "-".to_owned() } else { errors.join("; ") };
        let shown = |f: &dyn Fn(&pb::StatusResponse) -> String| report.status.as_ref().map_or("-".to_owned(), f);
        table.row([
            report.member.name.clone(),
            report.endpoint.clone(),
            report.role().into(),
            shown(&|_| report.epoch().to_string()),
            shown(&|status| status.raft_term.to_string()),
            shown(&|status| status.header.as_ref().map_or(0, |header| header.revision).to_string()),
            shown(&|status| status.raft_applied_index.to_string()),
            shown(&|_| report.lag(reports).map_or("an epoch".into(), |lag| lag.to_string())),
            shown(&|status| size(status.db_size)),
            alarms,
        ]);
    }
    let mut text = table.text();
    for (report, change) in reports.iter().filter_map(|report| Some((report, report.change()?))) {
        text += &format!("under way at {}: {change}\n", report.member.name);
    }
    text + &if wide { groups_text(reports) } else { String::new() }
}

/// A line for each group on each node.
fn groups_text(reports: &[Report]) -> String {
    let mut table = Table::new(&["NAME", "NAMESPACE", "STRATEGY", "ROLE", "EPOCH", "TERM", "REVISION", "DECIDED", "EXECUTED"]);
    for report in reports {
        for group in report.native.iter().flat_map(|native| &native.groups) {
            let numbers = [group.epoch, group.term, group.revision, group.decided, group.executed].map(|number| number.to_string());
            let words = [&report.member.name, &group.namespace, &group.strategy, &group.role].map(Clone::clone);
            table.row(words.into_iter().chain(numbers));
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
