//! The Auth service: users, roles, and how one becomes a user.
//!
//! A password is hashed before its command is proposed, and checked before a token is assigned; neither it nor the token is part of
//! what is decided. If users or roles change between the check and the token, the password is checked again.

use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use concur_kv::{Access, Answer, AuthCommand, AuthStatus, Command, KvError, Permission, Query, Reply, Revision};
use concur_proto::authpb::Permission as PbPermission;
use concur_proto::authpb::permission::Type;
use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::{Caller, Etcd, errors, kv_error, reads_all, unexpected};
use crate::auth::Fresh;
use crate::door::{Level, Stamp};
use crate::metrics::Call;

macro_rules! service {
    ($($method:ident $call:ident $request:ident $response:ident $answer:ident;)*) => {
        #[tonic::async_trait]
        impl Auth for Etcd {
            $(async fn $method(&self, request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                self.metrics.count(Call::$call, self.$answer(request)).await
            })*
        }
    };
}

service! {
    auth_enable AuthEnable AuthEnableRequest AuthEnableResponse do_enable;
    auth_disable AuthDisable AuthDisableRequest AuthDisableResponse do_disable;
    auth_status AuthStatus AuthStatusRequest AuthStatusResponse do_auth_status;
    authenticate Authenticate AuthenticateRequest AuthenticateResponse do_authenticate;
    user_add UserAdd AuthUserAddRequest AuthUserAddResponse do_user_add;
    user_get UserGet AuthUserGetRequest AuthUserGetResponse do_user_get;
    user_list UserList AuthUserListRequest AuthUserListResponse do_user_list;
    user_delete UserDelete AuthUserDeleteRequest AuthUserDeleteResponse do_user_delete;
    user_change_password UserChangePassword AuthUserChangePasswordRequest AuthUserChangePasswordResponse do_user_change_password;
    user_grant_role UserGrantRole AuthUserGrantRoleRequest AuthUserGrantRoleResponse do_user_grant_role;
    user_revoke_role UserRevokeRole AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse do_user_revoke_role;
    role_add RoleAdd AuthRoleAddRequest AuthRoleAddResponse do_role_add;
    role_get RoleGet AuthRoleGetRequest AuthRoleGetResponse do_role_get;
    role_list RoleList AuthRoleListRequest AuthRoleListResponse do_role_list;
    role_delete RoleDelete AuthRoleDeleteRequest AuthRoleDeleteResponse do_role_delete;
    role_grant_permission RoleGrantPermission AuthRoleGrantPermissionRequest AuthRoleGrantPermissionResponse do_role_grant;
    role_revoke_permission RoleRevokePermission AuthRoleRevokePermissionRequest AuthRoleRevokePermissionResponse do_role_revoke;
}

/// The calls that are a command each, once their request is read.
macro_rules! changes {
    ($($answer:ident $call:ident $request:ident $response:ident |$message:pat_param| $command:expr;)*) => {
        impl Etcd {
            $(async fn $answer(&self, request: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                let caller = self.caller(Call::$call, &request).await?;
                let $message = request.into_inner();
                let header = self.change_users($command, &caller).await?;
                Ok(Response::new(pb::$response { header }))
            })*
        }
    };
}

changes! {
    do_enable AuthEnable AuthEnableRequest AuthEnableResponse |_| AuthCommand::Enable;
    do_disable AuthDisable AuthDisableRequest AuthDisableResponse |_| AuthCommand::Disable;
    do_user_delete UserDelete AuthUserDeleteRequest AuthUserDeleteResponse |m| AuthCommand::UserDelete { name: m.name };
    do_user_grant_role UserGrantRole AuthUserGrantRoleRequest AuthUserGrantRoleResponse
        |m| AuthCommand::UserGrantRole { name: m.user, role: m.role };
    do_user_revoke_role UserRevokeRole AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse
        |m| AuthCommand::UserRevokeRole { name: m.name, role: m.role };
    do_role_add RoleAdd AuthRoleAddRequest AuthRoleAddResponse |m| AuthCommand::RoleAdd { name: m.name };
    do_role_delete RoleDelete AuthRoleDeleteRequest AuthRoleDeleteResponse |m| AuthCommand::RoleDelete { name: m.role };
    do_role_grant RoleGrantPermission AuthRoleGrantPermissionRequest AuthRoleGrantPermissionResponse
        |m| AuthCommand::RoleGrantPermission { name: m.name, permission: m.perm.map(permission).transpose()? };
    do_role_revoke RoleRevokePermission AuthRoleRevokePermissionRequest AuthRoleRevokePermissionResponse
        |m| AuthCommand::RoleRevokePermission { name: m.role, key: m.key, range_end: m.range_end };
}

impl Etcd {
    async fn change_users(&self, command: AuthCommand, caller: &Caller) -> Result<Option<pb::ResponseHeader>, Status> {
        match self.execute(Command::Auth(command), caller).await? {
            (Reply::Done { revision }, stamp) => Ok(self.header(revision, stamp)),
            _ => Err(unexpected()),
        }
    }

    async fn do_user_add(&self, request: Request<pb::AuthUserAddRequest>) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        let caller = self.caller(Call::UserAdd, &request).await?;
        let pb::AuthUserAddRequest { name, password, options, .. } = request.into_inner();
        let no_password = options.is_some_and(|options| options.no_password);
        let password = if no_password { Bytes::new() } else { self.authority.passwords().hash(password).await? };
        let header = self.change_users(AuthCommand::UserAdd { name, password, no_password }, &caller).await?;
        Ok(Response::new(pb::AuthUserAddResponse { header }))
    }

    async fn do_user_change_password(
        &self,
        request: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        let caller = self.caller(Call::UserChangePassword, &request).await?;
        let pb::AuthUserChangePasswordRequest { name, password, hashed_password } = request.into_inner();
        let password = match password {
            // A hash that whoever asks has made is taken as it is.
            password if password.is_empty() => decoded(&hashed_password)?,
            password => self.authority.passwords().hash(password).await?,
        };
        let header = self.change_users(AuthCommand::UserChangePassword { name, password }, &caller).await?;
        Ok(Response::new(pb::AuthUserChangePasswordResponse { header }))
    }

    async fn do_authenticate(&self, request: Request<pb::AuthenticateRequest>) -> Result<Response<pb::AuthenticateResponse>, Status> {
        let caller = self.caller(Call::Authenticate, &request).await?;
        let pb::AuthenticateRequest { name, password } = request.into_inner();
        loop {
            let user = name.clone();
            let checked = self.read(Level::Strong, reads_all(), &caller, move |kv| (kv.auth().password_of(&user), kv.revision())).await?;
            let ((password_of, mut revision), mut stamp) = checked;
            let (hash, at) = password_of.map_err(kv_error)?;
            if !self.authority.passwords().matches(password.clone(), hash).await? {
                return Err(errors::AUTH_FAILED.into());
            }
            let Fresh { token, digest } = self.authority.token(&name, at).await?;
            if let Some(digest) = digest {
                let assign = AuthCommand::Authenticate { user: name.clone(), token: Bytes::copy_from_slice(&digest), revision: at };
                match self.execute(Command::Auth(assign).by_node(), &caller).await {
                    Ok((Reply::Done { revision: at }, executed)) => (revision, stamp) = (at, executed),
                    Ok(_) => return Err(unexpected()),
                    Err(status) if is_old(&status) && Instant::now() < caller.deadline => continue,
                    Err(status) => return Err(status),
                }
            }
            return Ok(Response::new(pb::AuthenticateResponse { header: self.header(revision, stamp), token }));
        }
    }

    async fn do_auth_status(&self, request: Request<pb::AuthStatusRequest>) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let caller = self.caller(Call::AuthStatus, &request).await?;
        match self.ask(Query::AuthStatus, Level::Strong, &caller).await? {
            (Answer::Auth(AuthStatus { revision, enabled, auth_revision }), stamp) => {
                Ok(Response::new(pb::AuthStatusResponse { header: self.header(revision, stamp), enabled, auth_revision: auth_revision.0 }))
            }
            _ => Err(unexpected()),
        }
    }

    async fn do_user_get(&self, request: Request<pb::AuthUserGetRequest>) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        let caller = self.caller(Call::UserGet, &request).await?;
        let (revision, stamp, roles) = self.names(Query::User { name: request.into_inner().name }, &caller).await?;
        Ok(Response::new(pb::AuthUserGetResponse { header: self.header(revision, stamp), roles }))
    }

    async fn do_user_list(&self, request: Request<pb::AuthUserListRequest>) -> Result<Response<pb::AuthUserListResponse>, Status> {
        let caller = self.caller(Call::UserList, &request).await?;
        let (revision, stamp, users) = self.names(Query::Users, &caller).await?;
        Ok(Response::new(pb::AuthUserListResponse { header: self.header(revision, stamp), users }))
    }

    async fn do_role_get(&self, request: Request<pb::AuthRoleGetRequest>) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        let caller = self.caller(Call::RoleGet, &request).await?;
        match self.ask(Query::Role { name: request.into_inner().role }, Level::Strong, &caller).await? {
            (Answer::Role { revision, permissions }, stamp) => {
                let perm = permissions.into_iter().map(wire_permission).collect();
                Ok(Response::new(pb::AuthRoleGetResponse { header: self.header(revision, stamp), perm }))
            }
            _ => Err(unexpected()),
        }
    }

    async fn do_role_list(&self, request: Request<pb::AuthRoleListRequest>) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        let caller = self.caller(Call::RoleList, &request).await?;
        let (revision, stamp, roles) = self.names(Query::Roles, &caller).await?;
        Ok(Response::new(pb::AuthRoleListResponse { header: self.header(revision, stamp), roles }))
    }

    async fn names(&self, query: Query, caller: &Caller) -> Result<(Revision, Stamp, Vec<String>), Status> {
        match self.ask(query, Level::Strong, caller).await? {
            (Answer::Names { revision, names }, stamp) => Ok((revision, stamp, names)),
            _ => Err(unexpected()),
        }
    }
}

fn is_old(status: &Status) -> bool {
    status.message() == errors::AUTH_OLD_REVISION.text
}

fn decoded(hash: &str) -> Result<Bytes, Status> {
    STANDARD.decode(hash).map(Bytes::from).map_err(|_| kv_error(KvError::NoPasswordUser))
}

#[allow(clippy::result_large_err)]
fn permission(permission: PbPermission) -> Result<Permission, Status> {
    let access = match Type::try_from(permission.perm_type) {
        Ok(Type::Read) => Access::Read,
        Ok(Type::Write) => Access::Write,
        Ok(Type::Readwrite) => Access::ReadWrite,
        Err(_) => return Err(errors::INVALID_AUTH_MANAGEMENT.into()),
    };
    Ok(Permission { access, key: permission.key, range_end: permission.range_end })
}

fn wire_permission(permission: Permission) -> PbPermission {
    let kind = match permission.access {
        Access::Read => Type::Read,
        Access::Write => Type::Write,
        Access::ReadWrite => Type::Readwrite,
    };
    PbPermission { perm_type: kind as i32, key: permission.key, range_end: permission.range_end }
}
