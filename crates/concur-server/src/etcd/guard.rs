//! What each call needs before it is begun.
//!
//! Most calls are judged by the store, with the users and roles as they are when the command is executed or the read is answered.
//! What the store does not see (members, the leader, the disk) is judged here, against what this node has executed, as in etcd. The
//! match names every call: one that is added must be given a line, and without a [`Caller`] it reaches nothing.

use std::future::Future;
use std::time::Instant;

use concur_kv::Asker;
use tonic::{Request, Status};

use super::{Caller, Etcd, kv_error, reads_all};
use crate::auth::Credentials;
use crate::door::Level;
use crate::metrics::Call;

/// What a call needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// Nothing: it is how one becomes a user, or says nothing of the cluster.
    Nothing,
    /// What the store says.
    Judged,
    /// A user.
    User,
    /// Somebody with the role `root`.
    Root,
}

fn need(call: Call) -> Need {
    match call {
        Call::Authenticate | Call::HealthCheck | Call::HealthWatch => Need::Nothing,
        // Anybody may ask; a token that is shown must be a good one all the same.
        Call::AuthStatus => Need::Judged,
        Call::Range | Call::RangeStream | Call::Put | Call::DeleteRange | Call::Txn | Call::Compact | Call::Watch => Need::Judged,
        Call::LeaseGrant | Call::LeaseRevoke | Call::LeaseKeepAlive | Call::LeaseTimeToLive | Call::LeaseLeases => Need::Judged,
        Call::Alarm | Call::Status | Call::Hash | Call::HashKv => Need::Judged,
        Call::UserGet | Call::RoleGet => Need::Judged,
        // The steps of which they are made.
        Call::Lock | Call::Unlock => Need::Judged,
        Call::Campaign | Call::Proclaim | Call::Leader | Call::Observe | Call::Resign => Need::Judged,
        Call::MemberList => Need::User,
        Call::MemberAdd | Call::MemberRemove | Call::MemberUpdate | Call::MemberPromote => Need::Root,
        Call::MoveLeader | Call::Defragment | Call::Snapshot | Call::Downgrade => Need::Root,
        // The store judges these too; here, so that nobody else has passwords hashed.
        Call::AuthEnable | Call::AuthDisable => Need::Root,
        Call::UserAdd | Call::UserList | Call::UserDelete | Call::UserChangePassword => Need::Root,
        Call::UserGrantRole | Call::UserRevokeRole => Need::Root,
        Call::RoleAdd | Call::RoleList | Call::RoleDelete | Call::RoleGrantPermission | Call::RoleRevokePermission => Need::Root,
    }
}

impl Etcd {
    /// Who sends a request, if that is enough for the call.
    pub(super) fn caller<R>(&self, call: Call, request: &Request<R>) -> impl Future<Output = Result<Caller, Status>> + Send {
        // While auth is off nothing is read, and nothing kept.
        let guarded = need(call) != Need::Nothing && self.door.pulse().auth().is_enabled();
        let shown = guarded.then(|| Credentials::of(request.metadata(), request.extensions()));
        let deadline = self.deadline(request.metadata());
        async move {
            let deadline = deadline?;
            match shown {
                None => Ok(Caller { deadline, asker: Asker::Nobody }),
                Some(shown) => self.admit(call, &shown, deadline).await,
            }
        }
    }

    /// The caller again, for the next message of a stream.
    pub(super) async fn caller_again(&self, call: Call, shown: &Credentials) -> Result<Caller, Status> {
        let deadline = Instant::now() + self.limits.request_time_max;
        if !self.door.pulse().auth().is_enabled() {
            return Ok(Caller { deadline, asker: Asker::Nobody });
        }
        self.admit(call, shown, deadline).await
    }

    async fn admit(&self, call: Call, shown: &Credentials, deadline: Instant) -> Result<Caller, Status> {
        let asker = self.authority.asker(&self.door, shown, deadline).await?;
        let caller = Caller { deadline, asker };
        let judged = caller.asker.clone();
        match need(call) {
            Need::Nothing | Need::Judged => return Ok(caller),
            Need::User => self.read(Level::Eventual, reads_all(), &caller, move |kv| kv.auth().check_user(&judged)).await?,
            Need::Root => self.read(Level::Eventual, reads_all(), &caller, move |kv| kv.auth().check_root(&judged)).await?,
        }
        .0
        .map_err(kv_error)?;
        Ok(caller)
    }
}
