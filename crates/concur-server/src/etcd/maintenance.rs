//! The Maintenance service.

use concur_kv::{Alarm, AlarmKind, Answer, Command, HashAnswer, Query, Reply, Revision};
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::alarm_request::AlarmAction;
use concur_proto::etcdserverpb::downgrade_request::DowngradeAction;
use concur_proto::etcdserverpb::maintenance_server::Maintenance;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{Caller, ETCD_VERSION, Etcd, errors, reads_all, refused, unexpected};
use crate::door::{Level, Stamp, Upkeep};
use crate::metrics::Call;

#[tonic::async_trait]
impl Maintenance for Etcd {
    type SnapshotStream = ReceiverStream<Result<pb::SnapshotResponse, Status>>;

    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        self.metrics.count(Call::Alarm, self.do_alarm(request)).await
    }

    async fn status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        self.metrics.count(Call::Status, self.do_status(request)).await
    }

    async fn defragment(&self, request: Request<pb::DefragmentRequest>) -> Result<Response<pb::DefragmentResponse>, Status> {
        let done = async {
            self.caller(Call::Defragment, &request).await?;
            self.door.upkeep(Upkeep::Defragment).await.map_err(refused)?;
            Ok(Response::new(pb::DefragmentResponse { header: None }))
        };
        self.metrics.count(Call::Defragment, done).await
    }

    async fn hash(&self, request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let done = async {
            let (answer, stamp) = self.hash_at(0, &self.caller(Call::Hash, &request).await?).await?;
            Ok(Response::new(pb::HashResponse { header: self.header(answer.revision, stamp), hash: fold(answer.hash) }))
        };
        self.metrics.count(Call::Hash, done).await
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let done = async {
            let (answer, stamp) = self.hash_at(request.get_ref().revision, &self.caller(Call::HashKv, &request).await?).await?;
            Ok(Response::new(pb::HashKvResponse {
                header: self.header(answer.revision, stamp),
                hash: fold(answer.hash),
                compact_revision: answer.compacted.0,
                hash_revision: answer.hash_revision.0,
            }))
        };
        self.metrics.count(Call::HashKv, done).await
    }

    async fn snapshot(&self, request: Request<pb::SnapshotRequest>) -> Result<Response<Self::SnapshotStream>, Status> {
        let snapshot = async {
            self.caller(Call::Snapshot, &request).await?;
            self.do_snapshot().await
        };
        self.metrics.count(Call::Snapshot, snapshot).await
    }

    async fn move_leader(&self, request: Request<pb::MoveLeaderRequest>) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let lead = async {
            let caller = self.caller(Call::MoveLeader, &request).await?;
            self.lead(&caller, request.get_ref().target_id).await?;
            Ok(Response::new(pb::MoveLeaderResponse { header: None }))
        };
        self.metrics.count(Call::MoveLeader, lead).await
    }

    async fn downgrade(&self, request: Request<pb::DowngradeRequest>) -> Result<Response<pb::DowngradeResponse>, Status> {
        self.metrics.count(Call::Downgrade, self.do_downgrade(request)).await
    }
}

impl Etcd {
    async fn do_alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let caller = self.caller(Call::Alarm, &request).await?;
        let request = request.into_inner();
        let kind = match pb::AlarmType::try_from(request.alarm) {
            Ok(pb::AlarmType::None) => None,
            Ok(pb::AlarmType::Nospace) => Some(AlarmKind::NoSpace),
            Ok(pb::AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
            Err(_) => return Err(Status::invalid_argument("concur: there is no such alarm")),
        };
        let alarm = kind.map(|kind| Alarm { member: request.member_id, kind });
        let command = match (AlarmAction::try_from(request.action), alarm) {
            (Ok(AlarmAction::Activate), Some(alarm)) => Some(Command::AlarmArm { alarm }),
            (Ok(AlarmAction::Deactivate), Some(alarm)) => Some(Command::AlarmDisarm { alarm }),
            (Ok(_), _) => None,
            (Err(_), _) => return Err(Status::invalid_argument("concur: alarms are listed, activated or deactivated")),
        };
        let (revision, alarms, stamp) = match command {
            Some(command) => match self.execute(command, &caller).await? {
                (Reply::Alarms { revision, alarms }, stamp) => (revision, alarms, stamp),
                _ => return Err(unexpected()),
            },
            None => match self.ask(Query::Alarms, Level::Strong, &caller).await? {
                (Answer::Alarms { revision, alarms }, stamp) => (revision, alarms, stamp),
                _ => return Err(unexpected()),
            },
        };
        // To arm or disarm no alarm changes none, and tells of none.
        let listed = request.action == AlarmAction::Get as i32 || kind.is_some();
        let alarms = if listed { alarms } else { Vec::new() };
        let shown = alarms.into_iter().filter(|alarm| kind.is_none_or(|kind| kind == alarm.kind)).map(|alarm| pb::AlarmMember {
            member_id: alarm.member,
            alarm: match alarm.kind {
                AlarmKind::NoSpace => pb::AlarmType::Nospace,
                AlarmKind::Corrupt => pb::AlarmType::Corrupt,
            } as i32,
        });
        Ok(Response::new(pb::AlarmResponse { header: self.header(revision, stamp), alarms: shown.collect() }))
    }

    /// etcd goes back by one minor version, and says whether it could. Here no format is tied to that version: nothing is ever under
    /// way, and going back is refused. To cancel what is not under way is no error, as etcd has it.
    async fn do_downgrade(&self, request: Request<pb::DowngradeRequest>) -> Result<Response<pb::DowngradeResponse>, Status> {
        let caller = self.caller(Call::Downgrade, &request).await?;
        let request = request.into_inner();
        let action = DowngradeAction::try_from(request.action).map_err(|_| Status::unknown("etcdserver: unknown method"))?;
        let target = match action {
            DowngradeAction::Cancel => None,
            _ => Some(minor_version(&request.version).ok_or(errors::BAD_DOWNGRADE_FORMAT)?),
        };
        let (revision, stamp) = self.read(Level::Strong, reads_all(), &caller, concur_kv::Kv::revision).await?;
        let (major, minor) = minor_version(ETCD_VERSION).unwrap_or_default();
        match (action, target) {
            (_, Some(target)) if target != (major, minor - 1) => Err(errors::INVALID_DOWNGRADE_TARGET.into()),
            (DowngradeAction::Enable, _) => Err(Status::failed_precondition(
                "concur: there is no older version to go back to; snapshots can be restored in older etcds",
            )),
            _ => Ok(Response::new(pb::DowngradeResponse { header: self.header(revision, stamp), version: format!("{major}.{minor}") })),
        }
    }

    /// What this member knows of itself, without asking the others.
    async fn do_status(&self, request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let caller = self.caller(Call::Status, &request).await?;
        let (store, stamp) = match self.ask(Query::Status, Level::Eventual, &caller).await? {
            (Answer::Status(store), stamp) => (store, stamp),
            _ => return Err(unexpected()),
        };
        let node = self.door.status().await.map_err(refused)?;
        let mut errors = node.errors;
        if node.leader == 0 {
            errors.push("etcdserver: no leader".into());
        }
        errors.extend(store.alarms.iter().map(|alarm| format!("memberID:{} alarm:{} ", alarm.member, alarm_name(alarm.kind))));
        Ok(Response::new(pb::StatusResponse {
            header: self.header(store.revision, stamp),
            version: ETCD_VERSION.into(),
            db_size: node.storage_bytes as i64,
            leader: node.leader,
            raft_index: node.decided,
            raft_term: node.term,
            raft_applied_index: node.executed,
            errors,
            db_size_in_use: node.storage_used_bytes as i64,
            is_learner: node.observer,
            storage_version: ETCD_VERSION.into(),
            db_size_quota: store.quota_bytes as i64,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn hash_at(&self, revision: i64, caller: &Caller) -> Result<(HashAnswer, Stamp), Status> {
        match self.ask(Query::HashAt { revision: Revision(revision) }, Level::Eventual, caller).await? {
            (Answer::Hash(answer), stamp) => Ok((answer, stamp)),
            _ => Err(unexpected()),
        }
    }
}

/// The major and minor numbers of a version: three numbers, of which the last may be left out.
fn minor_version(text: &str) -> Option<(u64, u64)> {
    let numbers = text.split_once(['-', '+']).map_or(text, |(numbers, _)| numbers);
    let numbers: Vec<u64> = numbers.split('.').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [major, minor] | [major, minor, _] => Some((major, minor)),
        _ => None,
    }
}

/// How etcd prints an alarm.
pub(crate) fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

fn fold(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}
