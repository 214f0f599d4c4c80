//! Users and roles: what may be changed when, and who may do what once it matters.

use bytes::Bytes;
use concur_core::{Change, StateMachine, Wire};
use concur_kv::KvError::*;
use concur_kv::*;
use std::collections::BTreeMap;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn name(text: &str) -> String {
    text.to_owned()
}

fn auth(kv: &mut Kv, command: AuthCommand) -> Result<(), KvError> {
    match kv.execute(&Command::Auth(command).by_node(), 0) {
        Reply::Done { .. } => Ok(()),
        Reply::Refused(error) => Err(error),
        reply => panic!("{reply:?}"),
    }
}

fn user_add(user: &str) -> AuthCommand {
    AuthCommand::UserAdd { name: name(user), password: bytes("hash"), no_password: false }
}

fn grant_role(user: &str, role: &str) -> AuthCommand {
    AuthCommand::UserGrantRole { name: name(user), role: name(role) }
}

fn permit(role: &str, access: Access, key: &str, range_end: &str) -> AuthCommand {
    let permission = Permission { access, key: bytes(key), range_end: bytes(range_end) };
    AuthCommand::RoleGrantPermission { name: name(role), permission: Some(permission) }
}

/// A store with root, and with alice, who may do on `a` to `b` what is said. Auth is on.
fn guarded(access: Access) -> Kv {
    guarded_in(Ordering::Total, access)
}

fn guarded_in(ordering: Ordering, access: Access) -> Kv {
    let mut kv = Kv::new(Config { ordering, ..Config::default() });
    for command in [
        user_add("root"),
        grant_role("root", "root"),
        AuthCommand::RoleAdd { name: name("of-a") },
        permit("of-a", access, "a", "b"),
        user_add("alice"),
        grant_role("alice", "of-a"),
        user_add("bob"),
        AuthCommand::Enable,
    ] {
        assert_eq!(auth(&mut kv, command.clone()), Ok(()), "{command:?}");
    }
    kv
}

fn is(user: &str, kv: &Kv) -> Asker {
    Asker::User { name: name(user), revision: kv.auth().revision() }
}

/// What somebody's command comes to.
fn does(kv: &mut Kv, asker: &Asker, command: Command) -> Result<Reply, KvError> {
    let asked = Command::from_bytes(&command.to_bytes_as(asker)).expect("a command");
    match kv.execute(&asked, 1000) {
        Reply::Refused(error) => Err(error),
        Reply::Read(Answer::Refused(error)) => Err(error),
        reply => Ok(reply),
    }
}

fn verdict(kv: &mut Kv, user: &str, command: Command) -> Result<(), KvError> {
    let asker = is(user, kv);
    does(kv, &asker, command).map(drop)
}

fn put(key: &str) -> Put {
    Put { key: bytes(key), value: bytes("v"), ..Put::default() }
}

fn delete(key: &str, range_end: &str) -> DeleteRange {
    DeleteRange { key: bytes(key), range_end: bytes(range_end), prev_kv: false }
}

fn range(key: &str, range_end: &str) -> RangeQuery {
    RangeQuery { key: bytes(key), range_end: bytes(range_end), ..RangeQuery::default() }
}

fn read(query: RangeQuery) -> Command {
    Command::Read(Query::Range(query))
}

#[test]
fn changes_are_refused_as_in_etcd_and_those_made_count() {
    let mut kv = Kv::new(Config::default());
    let revoke = |user: &str, role: &str| AuthCommand::UserRevokeRole { name: name(user), role: name(role) };
    let take = |key: &str| AuthCommand::RoleRevokePermission { name: name("r"), key: bytes(key), range_end: Bytes::new() };
    let role = |text: &str| AuthCommand::RoleAdd { name: name(text) };
    let gone = |text: &str| AuthCommand::UserDelete { name: name(text) };
    let role_gone = |text: &str| AuthCommand::RoleDelete { name: name(text) };
    let password = |text: &str| AuthCommand::UserChangePassword { name: name(text), password: bytes("other") };
    let token = AuthCommand::Authenticate { user: name("root"), token: bytes("t"), revision: AuthRevision(1) };
    let mut expect = |command: AuthCommand, verdict: Result<(), KvError>, revision: u64| {
        assert_eq!(auth(&mut kv, command.clone()), verdict, "{command:?}");
        assert_eq!(kv.auth().revision(), AuthRevision(revision), "{command:?}");
    };
    expect(AuthCommand::Enable, Err(RootUserNotExist), 1);
    expect(AuthCommand::Disable, Ok(()), 1);
    expect(token, Err(AuthNotEnabled), 1);
    expect(user_add(""), Err(UserEmpty), 1);
    expect(user_add("root"), Ok(()), 2);
    expect(user_add("root"), Err(UserExists), 2);
    expect(AuthCommand::Enable, Err(RootRoleNotExist), 2);
    expect(grant_role("nobody", "root"), Err(UserNotFound), 2);
    expect(grant_role("root", "r"), Err(RoleNotFound), 2);
    expect(grant_role("root", "root"), Ok(()), 3);
    expect(grant_role("root", "root"), Ok(()), 3);
    expect(role(""), Err(RoleEmpty), 3);
    expect(role("r"), Ok(()), 4);
    expect(role("r"), Err(RoleExists), 4);
    expect(AuthCommand::RoleGrantPermission { name: name("r"), permission: None }, Err(PermissionNotGiven), 4);
    expect(permit("r", Access::Read, "b", "a"), Err(InvalidAuthManagement), 4);
    expect(permit("r", Access::Read, "", ""), Err(InvalidAuthManagement), 4);
    expect(permit("none", Access::Read, "a", ""), Err(RoleNotFound), 4);
    expect(permit("r", Access::Read, "a", ""), Ok(()), 5);
    expect(permit("r", Access::ReadWrite, "a", ""), Ok(()), 6);
    expect(take("b"), Err(PermissionNotGranted), 6);
    expect(take("a"), Ok(()), 7);
    expect(revoke("nobody", "r"), Err(UserNotFound), 7);
    expect(revoke("root", "r"), Err(RoleNotGranted), 7);
    expect(grant_role("root", "r"), Ok(()), 8);
    expect(AuthCommand::Enable, Ok(()), 8);
    expect(AuthCommand::Enable, Ok(()), 8);
    expect(gone("root"), Err(InvalidAuthManagement), 8);
    expect(revoke("root", "root"), Err(InvalidAuthManagement), 8);
    expect(role_gone("root"), Err(InvalidAuthManagement), 8);
    expect(gone("nobody"), Err(UserNotFound), 8);
    expect(role_gone("none"), Err(RoleNotFound), 8);
    expect(password("nobody"), Err(UserNotFound), 8);
    expect(password("root"), Ok(()), 9);
    expect(role_gone("r"), Ok(()), 10);
    expect(AuthCommand::Disable, Ok(()), 11);
    expect(revoke("root", "root"), Ok(()), 12);
    expect(gone("root"), Ok(()), 13);
    assert_eq!(kv.auth().users().count() + kv.auth().roles().count(), 0);
}

#[test]
fn a_deleted_role_is_taken_from_whoever_has_it() {
    let mut kv = guarded(Access::ReadWrite);
    assert_eq!(verdict(&mut kv, "alice", Command::Put(put("a1"))), Ok(()));
    assert_eq!(verdict(&mut kv, "root", Command::Auth(AuthCommand::RoleDelete { name: name("of-a") })), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", Command::Put(put("a1"))), Err(PermissionDenied));
    assert!(kv.auth().user("alice").expect("a user").roles.is_empty());
}

#[test]
fn keys_are_for_those_who_may() {
    let mut writer = guarded(Access::Write);
    let mut reader = guarded(Access::Read);
    let prev = |key: &str| Command::Put(Put { prev_kv: true, ..put(key) });
    let delete_prev = |key: &str| Command::DeleteRange(DeleteRange { prev_kv: true, ..delete(key, "") });
    for (command, reads, writes) in [
        (read(range("a", "")), Ok(()), Err(PermissionDenied)),
        (read(range("a", "b")), Ok(()), Err(PermissionDenied)),
        (read(range("a", "\0")), Err(PermissionDenied), Err(PermissionDenied)),
        (read(range("c", "")), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Put(put("a")), Err(PermissionDenied), Ok(())),
        (Command::Put(put("b")), Err(PermissionDenied), Err(PermissionDenied)),
        (prev("a"), Err(PermissionDenied), Err(PermissionDenied)),
        (delete_prev("a"), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::DeleteRange(delete("a", "b")), Err(PermissionDenied), Ok(())),
        (Command::DeleteRange(delete("a", "\0")), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Compact { revision: Revision(2) }, Err(PermissionDenied), Err(PermissionDenied)),
        (Command::SetQuota { quota_bytes: 1 }, Err(PermissionDenied), Err(PermissionDenied)),
        (Command::LeaseGrace { by_ms: 1 }, Err(PermissionDenied), Err(PermissionDenied)),
        (Command::LeaseExpire { leases: vec![] }, Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Auth(AuthCommand::Disable), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Read(Query::Alarms), Ok(()), Ok(())),
        (Command::Read(Query::HashAt { revision: Revision(0) }), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Read(Query::Users), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Read(Query::User { name: name("alice") }), Ok(()), Ok(())),
        (Command::Read(Query::User { name: name("root") }), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Read(Query::Role { name: name("of-a") }), Ok(()), Ok(())),
        (Command::Read(Query::Role { name: name("root") }), Err(PermissionDenied), Err(PermissionDenied)),
        (Command::Read(Query::AuthStatus), Ok(()), Ok(())),
    ] {
        assert_eq!(verdict(&mut reader, "alice", command.clone()), reads, "a reader: {command:?}");
        assert_eq!(verdict(&mut writer, "alice", command.clone()), writes, "a writer: {command:?}");
        let nobody = does(&mut writer, &Asker::Nobody, command.clone()).map(drop);
        let open = matches!(command, Command::Read(Query::AuthStatus));
        if open {
            assert_eq!(nobody, Ok(()));
        } else {
            assert!(matches!(nobody, Err(UserEmpty | PermissionDenied)), "nobody: {command:?} {nobody:?}");
        }
    }
}

#[test]
fn a_transaction_needs_all_that_is_in_it_however_deep() {
    let mut kv = guarded(Access::ReadWrite);
    let inside = |op: Op, depth: usize| {
        (0..depth).fold(Txn { failure: vec![op], ..Txn::default() }, |txn, _| Txn { success: vec![Op::Txn(txn)], ..Txn::default() })
    };
    let compare =
        |key: &str, end: &str| Compare { key: bytes(key), range_end: bytes(end), relation: Relation::Equal, target: Target::Version(0) };
    for depth in [0, 1, 7] {
        for (op, may) in [
            (Op::Put(put("a")), true),
            (Op::Put(put("c")), false),
            (Op::Range(range("a", "b")), true),
            (Op::Range(range("a", "c")), false),
            (Op::DeleteRange(delete("a", "")), true),
            (Op::DeleteRange(delete("", "\0")), false),
            (Op::DeleteRange(delete("b", "")), false),
        ] {
            let got = verdict(&mut kv, "alice", Command::Txn(inside(op.clone(), depth)));
            let refused = if op == Op::DeleteRange(delete("", "\0")) { EmptyKey } else { PermissionDenied };
            assert_eq!(got, if may { Ok(()) } else { Err(refused) }, "{op:?} at {depth}");
        }
        let compared = |key: &str, end: &str| Txn { compare: vec![compare(key, end)], ..Txn::default() };
        assert_eq!(verdict(&mut kv, "alice", Command::Txn(inside(Op::Txn(compared("a", "b")), depth))), Ok(()));
        assert_eq!(verdict(&mut kv, "alice", Command::Txn(inside(Op::Txn(compared("a", "\0")), depth))), Err(PermissionDenied));
    }
    let mut writer = guarded(Access::Write);
    let shown = Op::Put(Put { prev_kv: true, ..put("a") });
    assert_eq!(verdict(&mut writer, "alice", Command::Txn(inside(shown, 3))), Err(PermissionDenied), "it shows what was there");
}

#[test]
fn a_lease_is_for_those_who_may_write_all_its_keys() {
    let mut kv = guarded(Access::ReadWrite);
    let (own, foreign) = (LeaseId(1), LeaseId(2));
    for id in [own, foreign] {
        assert_eq!(verdict(&mut kv, "alice", Command::LeaseGrant { id, ttl_s: 60 }), Ok(()));
    }
    let attach = |key: &str, lease: LeaseId| Put { lease, ..put(key) };
    assert_eq!(verdict(&mut kv, "root", Command::Put(attach("z", foreign))), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", Command::Put(attach("a", own))), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", Command::Put(attach("a", foreign))), Err(PermissionDenied));
    let txn = Txn { success: vec![Op::Put(attach("a", foreign))], ..Txn::default() };
    assert_eq!(verdict(&mut kv, "alice", Command::Txn(txn.clone())), Err(PermissionDenied));
    let nested = Txn { failure: vec![Op::Txn(txn)], ..Txn::default() };
    assert_eq!(verdict(&mut kv, "alice", Command::Txn(nested)), Err(PermissionDenied));
    let keys = |id, keys| Command::Read(Query::LeaseTimeToLive { id, keys, now_ms: 0 });
    assert_eq!(verdict(&mut kv, "alice", keys(own, true)), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", keys(foreign, false)), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", keys(foreign, true)), Err(PermissionDenied));
    assert_eq!(verdict(&mut kv, "alice", Command::LeaseRenew { ids: vec![own] }), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", Command::LeaseRenew { ids: vec![own, foreign] }), Err(PermissionDenied));
    assert_eq!(verdict(&mut kv, "alice", Command::LeaseRevoke { id: foreign }), Err(PermissionDenied));
    assert_eq!(verdict(&mut kv, "alice", Command::Read(Query::Leases)), Err(PermissionDenied));
    assert_eq!(verdict(&mut kv, "root", Command::Read(Query::Leases)), Ok(()));
    assert_eq!(verdict(&mut kv, "root", Command::LeaseRevoke { id: foreign }), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", Command::Read(Query::Leases)), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", Command::LeaseRevoke { id: own }), Ok(()));
    assert_eq!(verdict(&mut kv, "alice", Command::LeaseRevoke { id: own }), Err(LeaseNotFound));
    for command in [Command::LeaseGrant { id: own, ttl_s: 1 }, Command::LeaseRenew { ids: vec![own] }, Command::LeaseRevoke { id: own }] {
        assert_eq!(does(&mut kv, &Asker::Nobody, command).map(drop), Err(UserEmpty));
    }
}

#[test]
fn a_command_is_judged_where_it_stands_in_the_order() {
    let mut kv = guarded(Access::ReadWrite);
    let before = is("alice", &kv);
    let put_a = Command::Put(put("a"));
    assert_eq!(does(&mut kv, &before, put_a.clone()).map(drop), Ok(()));
    auth(&mut kv, user_add("carol")).expect("a change");
    assert_eq!(does(&mut kv, &before, put_a.clone()).map(drop), Err(AuthOldRevision), "whoever asks must look again");
    assert_eq!(verdict(&mut kv, "alice", put_a.clone()), Ok(()));
    auth(&mut kv, permit("of-a", Access::Read, "a", "b")).expect("a change");
    assert_eq!(verdict(&mut kv, "alice", put_a.clone()), Err(PermissionDenied));
    assert_eq!(verdict(&mut kv, "nobody", put_a.clone()), Err(PermissionDenied));
    assert_eq!(does(&mut kv, &Asker::User { name: name("alice"), revision: AuthRevision(0) }, put_a.clone()).map(drop), Err(UserEmpty));
    assert_eq!(verdict(&mut kv, "nobody", Command::Auth(AuthCommand::Disable)), Err(UserNotFound));
    auth(&mut kv, AuthCommand::Disable).expect("a change");
    assert_eq!(does(&mut kv, &Asker::Nobody, put_a).map(drop), Ok(()));
}

#[test]
fn a_token_is_good_until_its_user_or_password_changes_or_auth_was_off() {
    let mut kv = guarded(Access::Read);
    let at = kv.auth().revision();
    let assign = |user: &str, revision| AuthCommand::Authenticate { user: name(user), token: bytes("t"), revision };
    assert_eq!(auth(&mut kv, assign("alice", at)), Ok(()));
    assert_eq!(kv.auth().revision(), at, "a token changes nothing that is kept");
    assert_eq!(auth(&mut kv, assign("alice", AuthRevision(at.0 - 1))), Err(AuthOldRevision));
    assert_eq!(auth(&mut kv, assign("nobody", at)), Err(AuthFailed));
    let forged = Command::Auth(assign("root", at));
    assert_eq!(verdict(&mut kv, "root", forged.clone()), Err(PermissionDenied), "only a node assigns tokens");
    assert_eq!(does(&mut kv, &Asker::Nobody, forged).map(drop), Err(PermissionDenied));
    let (tokens, seen) = kv.auth().assigned(0);
    assert_eq!(tokens.map(|token| token.user.as_str()).collect::<Vec<_>>(), ["alice"]);
    assert_eq!(kv.auth().assigned(seen).0.count(), 0);
    assert!(kv.auth().holds("alice", at) && kv.auth().holds("root", at));
    auth(&mut kv, AuthCommand::UserChangePassword { name: name("root"), password: bytes("new") }).expect("a change");
    assert!(kv.auth().holds("alice", at) && !kv.auth().holds("root", at));
    auth(&mut kv, AuthCommand::UserDelete { name: name("alice") }).expect("a change");
    auth(&mut kv, user_add("alice")).expect("a change");
    assert!(!kv.auth().holds("alice", at), "another of the same name");
    let later = kv.auth().revision();
    assert!(kv.auth().holds("alice", later));
    auth(&mut kv, AuthCommand::Disable).expect("a change");
    assert!(!kv.auth().holds("alice", later));
    auth(&mut kv, AuthCommand::Enable).expect("a change");
    assert!(!kv.auth().holds("alice", later));
    let cards = AuthCommand::UserAdd { name: name("card"), password: bytes("x"), no_password: true };
    auth(&mut kv, cards).expect("a change");
    assert_eq!(kv.auth().password_of("card").map(drop), Err(NoPasswordUser));
}

#[test]
fn users_and_roles_come_back_from_the_image_and_count_in_the_digest() {
    let mut kv = Kv::new(Config::default());
    let empty = kv.digest();
    let mut kept: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut note = |kv: &mut Kv| {
        for Change { key, value } in kv.changes() {
            match value {
                Some(value) => kept.insert(key, value),
                None => kept.remove(&key),
            };
        }
        assert_eq!(kept.clone().into_iter().collect::<Vec<_>>(), kv.image().collect::<Vec<_>>());
    };
    note(&mut kv);
    assert!(kv.image().all(|(key, _)| key[0] != b'a'), "a store without users has the image that it always had");
    let mut other = guarded(Access::Read);
    note(&mut other);
    auth(&mut other, AuthCommand::UserDelete { name: name("bob") }).expect("a change");
    auth(&mut other, AuthCommand::RoleAdd { name: name("more") }).expect("a change");
    auth(&mut other, AuthCommand::RoleDelete { name: name("more") }).expect("a change");
    note(&mut other);
    assert_ne!(other.digest(), empty);
    let changes = other.auth().changes();
    let mut again = Kv::from_image(Config::default(), &mut other.image()).expect("an image");
    assert_eq!(again.digest(), other.digest());
    assert_eq!(again.auth().revision(), other.auth().revision());
    assert_eq!(verdict(&mut again, "alice", read(range("a", "b"))), Ok(()));
    assert_eq!(verdict(&mut again, "alice", Command::Put(put("a"))), Err(PermissionDenied));
    let image: Vec<_> = again.image().collect();
    StateMachine::load(&mut other, &mut image.into_iter()).expect("an image");
    assert_ne!(other.auth().changes(), changes, "whoever keeps tokens must look again");
    let bad = |key: &'static [u8], value: &'static [u8]| {
        Kv::from_image(Config::default(), &mut [(Bytes::from_static(key), Bytes::from_static(value))].into_iter())
    };
    assert!(bad(b"a", b"").is_err() && bad(b"ax", b"").is_err() && bad(b"au\xff", b"").is_err() && bad(b"am", b"").is_err());
}

#[test]
fn ordered_per_key_what_is_judged_by_other_keys_waits_for_them() {
    let kv = guarded_in(Ordering::PerKey, Access::ReadWrite);
    let alice = is("alice", &kv);
    let of = |command: Command| StateMachine::footprint(&kv, &command.to_bytes_as(&alice));
    let (a, b) = (of(Command::Put(put("a1"))), of(Command::Put(put("a2"))));
    assert!(!a.interferes(&b), "puts of different keys still commute");
    let attached = of(Command::Put(Put { lease: LeaseId(1), ..put("a2") }));
    assert!(a.interferes(&attached), "whether it may depends on the keys of the lease");
    let inner = Txn { success: vec![Op::Put(Put { lease: LeaseId(1), ..put("a2") })], ..Txn::default() };
    assert!(a.interferes(&of(Command::Txn(Txn { failure: vec![Op::Txn(inner)], ..Txn::default() }))));
    assert!(a.interferes(&of(Command::Auth(AuthCommand::Enable))), "a change of users comes before or after everything");
}
