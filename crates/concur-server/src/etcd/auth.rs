//! The Auth service. There are no users: what asks whether that is so is answered, what would change it is not served.

use concur_proto::etcdserverpb as pb;
use concur_proto::etcdserverpb::auth_server::Auth;
use tonic::{Request, Response, Status};

use super::{Etcd, errors};
use crate::metrics::Call;

const NO_USERS: &str = "concur: users and roles are not served; guard the listener instead";

macro_rules! not_served {
    ($($name:ident $request:ident $response:ident;)*) => {
        #[tonic::async_trait]
        impl Auth for Etcd {
            async fn auth_status(&self, _: Request<pb::AuthStatusRequest>) -> Result<Response<pb::AuthStatusResponse>, Status> {
                let status = pb::AuthStatusResponse { header: self.bare_header(), enabled: false, auth_revision: 1 };
                self.metrics.count(Call::AuthStatus, async { Ok(Response::new(status)) }).await
            }

            async fn authenticate(&self, _: Request<pb::AuthenticateRequest>) -> Result<Response<pb::AuthenticateResponse>, Status> {
                self.metrics.count(Call::Authenticate, async { Err(errors::AUTH_NOT_ENABLED.into()) }).await
            }

            $(async fn $name(&self, _: Request<pb::$request>) -> Result<Response<pb::$response>, Status> {
                Err(Status::unimplemented(NO_USERS))
            })*
        }
    };
}

not_served! {
    auth_enable AuthEnableRequest AuthEnableResponse;
    auth_disable AuthDisableRequest AuthDisableResponse;
    user_add AuthUserAddRequest AuthUserAddResponse;
    user_get AuthUserGetRequest AuthUserGetResponse;
    user_list AuthUserListRequest AuthUserListResponse;
    user_delete AuthUserDeleteRequest AuthUserDeleteResponse;
    user_change_password AuthUserChangePasswordRequest AuthUserChangePasswordResponse;
    user_grant_role AuthUserGrantRoleRequest AuthUserGrantRoleResponse;
    user_revoke_role AuthUserRevokeRoleRequest AuthUserRevokeRoleResponse;
    role_add AuthRoleAddRequest AuthRoleAddResponse;
    role_get AuthRoleGetRequest AuthRoleGetResponse;
    role_list AuthRoleListRequest AuthRoleListResponse;
    role_delete AuthRoleDeleteRequest AuthRoleDeleteResponse;
    role_grant_permission AuthRoleGrantPermissionRequest AuthRoleGrantPermissionResponse;
    role_revoke_permission AuthRoleRevokePermissionRequest AuthRoleRevokePermissionResponse;
}
