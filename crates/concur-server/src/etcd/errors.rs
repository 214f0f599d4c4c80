//! What etcd's clients expect a refusal to say: the code and the exact text, which they compare.
//!
//! The table is a fact of etcd's API, as of 3.7.3. Conversions from refusals of the state machine and of the replica stand with the
//! services that need them.

use tonic::{Code, Status};

/// A refusal that etcd's clients know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EtcdError {
    /// The status code.
    pub code: Code,
    /// The text, compared literally by clients.
    pub text: &'static str,
}

impl From<EtcdError> for Status {
    fn from(error: EtcdError) -> Status {
        Status::new(error.code, error.text)
    }
}

macro_rules! table {
    ($($name:ident $code:ident $text:literal;)*) => {
        $(
            #[doc = concat!("`", $text, "`")]
            pub const $name: EtcdError = EtcdError { code: Code::$code, text: $text };
        )*
        /// Every refusal of the table.
        pub const ALL: &[EtcdError] = &[$($name),*];
    };
}

table! {
    EMPTY_KEY InvalidArgument "etcdserver: key is not provided";
    KEY_NOT_FOUND InvalidArgument "etcdserver: key not found";
    VALUE_PROVIDED InvalidArgument "etcdserver: value is provided";
    LEASE_PROVIDED InvalidArgument "etcdserver: lease is provided";
    TOO_MANY_OPS InvalidArgument "etcdserver: too many operations in txn request";
    DUPLICATE_KEY InvalidArgument "etcdserver: duplicate key given in txn request";
    INVALID_CLIENT_API_VERSION InvalidArgument "etcdserver: invalid client api version";
    INVALID_SORT_OPTION InvalidArgument "etcdserver: invalid sort option";
    COMPACTED OutOfRange "etcdserver: mvcc: required revision has been compacted";
    FUTURE_REVISION OutOfRange "etcdserver: mvcc: required revision is a future revision";
    NO_SPACE ResourceExhausted "etcdserver: mvcc: database space exceeded";
    LEASE_NOT_FOUND NotFound "etcdserver: requested lease not found";
    LEASE_EXISTS FailedPrecondition "etcdserver: lease already exists";
    LEASE_TTL_TOO_LARGE OutOfRange "etcdserver: too large lease TTL";
    MEMBER_EXISTS FailedPrecondition "etcdserver: member ID already exist";
    PEER_URL_EXISTS FailedPrecondition "etcdserver: Peer URLs already exists";
    MEMBER_NOT_ENOUGH_STARTED FailedPrecondition "etcdserver: re-configuration failed due to not enough started members";
    MEMBER_BAD_URLS InvalidArgument "etcdserver: given member URLs are invalid";
    MEMBER_NOT_FOUND NotFound "etcdserver: member not found";
    MEMBER_NOT_LEARNER FailedPrecondition "etcdserver: can only promote a learner member";
    LEARNER_NOT_READY FailedPrecondition "etcdserver: can only promote a learner member which is in sync with leader";
    TOO_MANY_LEARNERS FailedPrecondition "etcdserver: too many learner members in cluster";
    CLUSTER_ID_MISMATCH FailedPrecondition "etcdserver: cluster ID mismatch";
    REQUEST_TOO_LARGE InvalidArgument "etcdserver: request is too large";
    TOO_MANY_REQUESTS ResourceExhausted "etcdserver: too many requests";
    ROOT_USER_NOT_EXIST FailedPrecondition "etcdserver: root user does not exist";
    ROOT_ROLE_NOT_EXIST FailedPrecondition "etcdserver: root user does not have root role";
    USER_EXISTS FailedPrecondition "etcdserver: user name already exists";
    USER_EMPTY InvalidArgument "etcdserver: user name is empty";
    USER_NOT_FOUND FailedPrecondition "etcdserver: user name not found";
    ROLE_EXISTS FailedPrecondition "etcdserver: role name already exists";
    ROLE_NOT_FOUND FailedPrecondition "etcdserver: role name not found";
    ROLE_EMPTY InvalidArgument "etcdserver: role name is empty";
    AUTH_FAILED InvalidArgument "etcdserver: authentication failed, invalid user ID or password";
    PERMISSION_NOT_GIVEN InvalidArgument "etcdserver: permission not given";
    PERMISSION_DENIED PermissionDenied "etcdserver: permission denied";
    ROLE_NOT_GRANTED FailedPrecondition "etcdserver: role is not granted to the user";
    PERMISSION_NOT_GRANTED FailedPrecondition "etcdserver: permission is not granted to the role";
    AUTH_NOT_ENABLED FailedPrecondition "etcdserver: authentication is not enabled";
    INVALID_AUTH_TOKEN Unauthenticated "etcdserver: invalid auth token";
    INVALID_AUTH_MANAGEMENT InvalidArgument "etcdserver: invalid auth management";
    AUTH_OLD_REVISION InvalidArgument "etcdserver: revision of auth store is old";
    NO_LEADER Unavailable "etcdserver: no leader";
    NOT_LEADER FailedPrecondition "etcdserver: not leader";
    LEADER_CHANGED Unavailable "etcdserver: leader changed";
    NOT_CAPABLE FailedPrecondition "etcdserver: not capable";
    STOPPED Unavailable "etcdserver: server stopped";
    TIMED_OUT Unavailable "etcdserver: request timed out";
    TIMED_OUT_LEADER_FAILED Unavailable "etcdserver: request timed out, possibly due to previous leader failure";
    TIMED_OUT_CONNECTION_LOST Unavailable "etcdserver: request timed out, possibly due to connection lost";
    TIMED_OUT_APPLYING Unavailable "etcdserver: request timed out, waiting for the applied index took too long";
    UNHEALTHY Unavailable "etcdserver: unhealthy cluster";
    CORRUPT DataLoss "etcdserver: corrupt cluster";
    NOT_FOR_LEARNER FailedPrecondition "etcdserver: rpc not supported for learner";
    BAD_TRANSFEREE FailedPrecondition "etcdserver: bad leader transferee";
    WATCH_CANCELED Cancelled "etcdserver: watch canceled";
    CLUSTER_VERSION_UNAVAILABLE FailedPrecondition "etcdserver: cluster version not found during downgrade";
    BAD_DOWNGRADE_FORMAT InvalidArgument "etcdserver: wrong downgrade target version format";
    INVALID_DOWNGRADE_TARGET InvalidArgument "etcdserver: invalid downgrade target version";
    DOWNGRADE_IN_PROCESS FailedPrecondition "etcdserver: cluster has a downgrade job in progress";
    NO_DOWNGRADE FailedPrecondition "etcdserver: no inflight downgrade job";
    CANCELED Cancelled "etcdserver: request canceled";
    DEADLINE_EXCEEDED DeadlineExceeded "etcdserver: context deadline exceeded";
}

/// A message that was not read, refused as clients know it: one beyond the limit in the words of gRPC's Go library, one nested too
/// deep, which only transactions are, as one of too many operations. Any other refusal is as it was.
pub(crate) fn of_a_message(status: Status) -> Status {
    if status.code() == Code::Internal && status.message().contains("recursion limit reached") {
        return TOO_MANY_OPS.into();
    }
    let sizes = || {
        let told = status.message().strip_prefix("Error, decoded message length too large: found ")?;
        let (found, limit) = told.split_once(" bytes, the limit is: ")?;
        Some((found.to_owned(), limit.strip_suffix(" bytes")?.to_owned()))
    };
    match sizes().filter(|_| status.code() == Code::OutOfRange) {
        Some((found, limit)) => Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})")),
        None => status,
    }
}

/// How a refusal reads as the reason for which a watch is cancelled: as etcd's own library prints a status.
pub(crate) fn in_a_watch(status: &Status) -> String {
    let code = match status.code() {
        Code::InvalidArgument => "InvalidArgument",
        Code::Unauthenticated => "Unauthenticated",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::Unavailable => "Unavailable",
        _ => "Unknown",
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}
