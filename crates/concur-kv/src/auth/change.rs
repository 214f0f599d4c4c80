//! The changes of users and roles, each with etcd's refusals, in etcd's order.

use super::grants::{Grants, is_range};
use super::image::Entry;
use super::{ASSIGNED_MAX, Assigned, Auth, AuthCommand, AuthRevision, Permission, ROOT, Role, User};
use crate::KvError;
use bytes::Bytes;

impl Auth {
    /// Makes a change, or refuses it and changes nothing.
    pub(crate) fn execute(&mut self, command: &AuthCommand) -> Result<(), KvError> {
        match command {
            AuthCommand::Enable => self.enable(),
            AuthCommand::Disable => {
                self.disable();
                Ok(())
            }
            AuthCommand::Authenticate { user, token, revision } => self.authenticate(user, token, *revision),
            AuthCommand::UserAdd { name, password, no_password } => self.user_add(name, password, *no_password),
            AuthCommand::UserDelete { name } => self.user_delete(name),
            AuthCommand::UserChangePassword { name, password } => self.user_change_password(name, password),
            AuthCommand::UserGrantRole { name, role } => self.user_grant_role(name, role),
            AuthCommand::UserRevokeRole { name, role } => self.user_revoke_role(name, role),
            AuthCommand::RoleAdd { name } => self.role_add(name),
            AuthCommand::RoleDelete { name } => self.role_delete(name),
            AuthCommand::RoleGrantPermission { name, permission } => self.role_grant(name, permission.as_ref()),
            AuthCommand::RoleRevokePermission { name, key, range_end } => self.role_revoke(name, key, range_end),
        }
    }

    fn enable(&mut self) -> Result<(), KvError> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(KvError::RootUserNotExist)?;
        if !root.roles.contains(ROOT) {
            return Err(KvError::RootRoleNotExist);
        }
        self.enabled = true;
        self.changed(Entry::Summary);
        Ok(())
    }

    fn disable(&mut self) {
        if self.enabled {
            self.enabled = false;
            self.next_revision();
            self.disabled_at = self.revision;
        }
    }

    fn authenticate(&mut self, user: &str, token: &Bytes, revision: AuthRevision) -> Result<(), KvError> {
        self.password_of(user)?;
        if revision != self.revision {
            return Err(KvError::AuthOldRevision);
        }
        if self.assigned.len() == ASSIGNED_MAX {
            self.assigned.pop_front();
            self.assigned_before += 1;
        }
        self.assigned.push_back(Assigned { token: token.clone(), user: user.to_owned(), revision });
        self.changes += 1;
        Ok(())
    }

    fn user_add(&mut self, name: &str, password: &Bytes, no_password: bool) -> Result<(), KvError> {
        if name.is_empty() {
            return Err(KvError::UserEmpty);
        }
        if self.users.contains_key(name) {
            return Err(KvError::UserExists);
        }
        self.next_revision();
        let password = if no_password { Bytes::new() } else { password.clone() };
        self.users.insert(name.to_owned(), User { password, no_password, since: self.revision, ..User::default() });
        self.changed(Entry::User(name.to_owned()));
        Ok(())
    }

    fn user_delete(&mut self, name: &str) -> Result<(), KvError> {
        if self.enabled && name == ROOT {
            return Err(KvError::InvalidAuthManagement);
        }
        self.users.remove(name).ok_or(KvError::UserNotFound)?;
        self.next_revision();
        self.changed(Entry::User(name.to_owned()));
        Ok(())
    }

    fn user_change_password(&mut self, name: &str, password: &Bytes) -> Result<(), KvError> {
        let next = AuthRevision(self.revision.0 + 1);
        let user = self.users.get_mut(name).ok_or(KvError::UserNotFound)?;
        user.password = if user.no_password { Bytes::new() } else { password.clone() };
        user.since = next;
        self.next_revision();
        self.changed(Entry::User(name.to_owned()));
        Ok(())
    }

    fn user_grant_role(&mut self, name: &str, role: &str) -> Result<(), KvError> {
        let user = self.users.get_mut(name).ok_or(KvError::UserNotFound)?;
        if role != ROOT && !self.roles.contains_key(role) {
            return Err(KvError::RoleNotFound);
        }
        if user.roles.insert(role.to_owned()) {
            self.next_revision();
            self.roles_changed(name);
        }
        Ok(())
    }

    fn user_revoke_role(&mut self, name: &str, role: &str) -> Result<(), KvError> {
        if self.enabled && name == ROOT && role == ROOT {
            return Err(KvError::InvalidAuthManagement);
        }
        let user = self.users.get_mut(name).ok_or(KvError::UserNotFound)?;
        if !user.roles.remove(role) {
            return Err(KvError::RoleNotGranted);
        }
        self.next_revision();
        self.roles_changed(name);
        Ok(())
    }

    fn role_add(&mut self, name: &str) -> Result<(), KvError> {
        if name.is_empty() {
            return Err(KvError::RoleEmpty);
        }
        if self.roles.contains_key(name) {
            return Err(KvError::RoleExists);
        }
        self.next_revision();
        self.roles.insert(name.to_owned(), Role::default());
        self.changed(Entry::Role(name.to_owned()));
        Ok(())
    }

    fn role_delete(&mut self, name: &str) -> Result<(), KvError> {
        if self.enabled && name == ROOT {
            return Err(KvError::InvalidAuthManagement);
        }
        self.roles.remove(name).ok_or(KvError::RoleNotFound)?;
        self.next_revision();
        self.changed(Entry::Role(name.to_owned()));
        for user in self.users_with(name) {
            self.users.get_mut(&user).expect("just found").roles.remove(name);
            self.roles_changed(&user);
        }
        Ok(())
    }

    fn role_grant(&mut self, name: &str, permission: Option<&Permission>) -> Result<(), KvError> {
        let permission = permission.ok_or(KvError::PermissionNotGiven)?;
        if !is_range(&permission.key, &permission.range_end) {
            return Err(KvError::InvalidAuthManagement);
        }
        let role = self.roles.get_mut(name).ok_or(KvError::RoleNotFound)?;
        let on_the_same = |known: &&mut Permission| known.key == permission.key && known.range_end == permission.range_end;
        match role.permissions.iter_mut().find(on_the_same) {
            Some(known) => known.access = permission.access,
            None => {
                let at = role.permissions.partition_point(|known| known.key <= permission.key);
                role.permissions.insert(at, permission.clone());
            }
        }
        self.permissions_changed(name);
        Ok(())
    }

    fn role_revoke(&mut self, name: &str, key: &Bytes, range_end: &Bytes) -> Result<(), KvError> {
        let role = self.roles.get_mut(name).ok_or(KvError::RoleNotFound)?;
        let before = role.permissions.len();
        role.permissions.retain(|known| known.key != key || known.range_end != range_end);
        if role.permissions.len() == before {
            return Err(KvError::PermissionNotGranted);
        }
        self.permissions_changed(name);
        Ok(())
    }

    fn permissions_changed(&mut self, role: &str) {
        self.next_revision();
        self.changed(Entry::Role(role.to_owned()));
        for user in self.users_with(role) {
            self.merge_grants(&user);
        }
    }

    fn roles_changed(&mut self, user: &str) {
        self.merge_grants(user);
        self.changed(Entry::User(user.to_owned()));
    }

    /// Makes a user's merged permissions anew.
    pub(super) fn merge_grants(&mut self, user: &str) {
        let Some(user) = self.users.get_mut(user) else { return };
        let roles = user.roles.iter().filter_map(|role| self.roles.get(role));
        user.grants = Grants::of(roles.flat_map(|role| &role.permissions));
    }

    fn users_with(&self, role: &str) -> Vec<String> {
        self.users.iter().filter(|(_, user)| user.roles.contains(role)).map(|(name, _)| name.clone()).collect()
    }

    fn next_revision(&mut self) {
        self.revision.0 += 1;
        self.changed(Entry::Summary);
    }

    fn changed(&mut self, entry: Entry) {
        self.dirty.insert(entry);
        self.changes += 1;
    }
}
