//! The list: what changed since etcd 3.5.2 that a client can see, and where that is shown.

use std::pin::Pin;

use crate::{guard, kv, leases, members, pages, watch};

/// One change.
pub(crate) struct Change {
    /// Where it is told of: a pull request, an issue or an advisory of etcd's repository; empty if only a release tells of it.
    pub(crate) at: &'static str,
    /// Since which version; of those that came to several lines the last line's, where it is known.
    pub(crate) since: &'static str,
    /// What it concerns.
    pub(crate) api: &'static str,
    pub(crate) what: &'static str,
    pub(crate) how: How,
}

/// What became of it here.
pub(crate) enum How {
    /// A test of this folder provokes it.
    Here(&'static str, fn() -> Pin<Box<dyn Future<Output = ()> + Send>>),
    /// A test elsewhere does: its file, from the root of the repository, and its name.
    There(&'static str, &'static str),
    /// It cannot concern Concur, or is not so here: why.
    Not(&'static str),
}

macro_rules! how {
    (here $file:ident::$test:ident) => {
        How::Here(concat!(stringify!($file), "::", stringify!($test)), || Box::pin($file::$test()))
    };
    (there $file:literal $test:ident) => {
        How::There($file, stringify!($test))
    };
    (not $why:literal) => {
        How::Not($why)
    };
}

macro_rules! changes {
    ($($since:literal $at:literal $api:ident $what:literal => $kind:ident($($how:tt)+);)*) => {
        pub(crate) const CHANGES: &[Change] = &[$(
            Change { at: $at, since: $since, api: stringify!($api), what: $what, how: how!($kind $($how)+) }
        ),*];
    };
}

changes! {
    // Keys.
    "3.7.0" "12342" KV "RangeStream sends a range in chunks, all at one revision; header, count and more come with the last" => here(kv::streams_a_range);
    "3.7.0" "12342" KV "RangeStream takes no sorts and no filters by revision" => here(kv::streams_no_sorted_range);
    "3.7.0" "21791" KV "a range of keys only leaves their leases out, unless it sorts by value" => here(kv::leaves_leases_out_of_keys_only);
    "3.7.0" "21432" KV "a transaction that reads at a revision is judged before it writes, on every member alike" => here(kv::judges_revisions_before_a_transaction_writes);
    "3.6.0" "13555" KV "a sort by what is not there is refused" => here(kv::refuses_sorts_that_are_not_there);
    "3.6.0" "13560" KV "the version that a client's library tells of itself must be text" => here(kv::refuses_a_version_that_is_no_text);
    "3.6.0" "13560" Watch "the same where a stream begins" => here(watch::refuses_a_version_that_is_no_text);
    "3.6.0" "13435" KV "what writes nothing goes on while the store is full" => here(kv::keeps_what_does_not_write_while_full);
    "3.7.1" "22139" KV "puts in nested transactions count as space" => here(kv::keeps_what_does_not_write_while_full);
    "3.5.7" "14899" KV "a transaction that only reads, and fails, brings nothing down" => here(kv::survives_reads_that_fail);
    "3.5.5" "14110" KV "so does one whose caller gives up" => here(kv::survives_reads_that_fail);
    "3.5.5" "14424" KV "a single member keeps what it acknowledged" => there("crates/concur-cli/tests/kill.rs" nothing_acknowledged_is_lost_and_nothing_stale_is_read);
    "3.6.9" "21378" KV "reads around a change of the leader are not stale" => there("crates/concur-cli/tests/kill.rs" nothing_acknowledged_is_lost_and_nothing_stale_is_read);
    "3.6.9" "21417" KV "reads through a process that was paused are not stale" => there("crates/concur-cli/tests/kill.rs" nothing_acknowledged_is_lost_and_nothing_stale_is_read);
    "3.5.3" "13854" KV "revisions and data of members agree after a crash" => there("crates/concur-cli/tests/kill.rs" nothing_acknowledged_is_lost_and_nothing_stale_is_read);
    "kept" "" KV "a compaction above the current revision, or not above the compacted one, is refused" => here(kv::compacts_within_bounds);
    // Watches.
    "3.6.6" "" Watch "a start at a negative revision is refused" => here(watch::begins_at_no_negative_revision);
    "3.6.2" "20286" Watch "a watch from a revision to come hears nothing before, no progress either" => here(watch::hears_nothing_before_it_begins);
    "3.5.8" "15695" Watch "progress that is asked for does not overtake events" => here(watch::tells_progress_behind_the_events);
    "3.5.13" "17566" Watch "a watch that never had an event is told of progress" => here(watch::is_told_though_nothing_ever_happened);
    "3.5.6" "14563" Watch "a watch that cannot begin, or is not there, ends no other" => here(watch::ends_only_the_one_that_is_named);
    "3.5.13" "17612" Watch "a deletion at the compacted revision is kept and told" => here(watch::sees_a_deletion_at_the_compacted_revision);
    "3.6.1" "20067" Watch "a watch that is cancelled, and whose stream ends, is counted once" => here(watch::is_counted_once);
    "3.5.8" "15515" Watch "a watch does not go back when its member catches up from a snapshot" => there("crates/concur-cli/tests/members.rs" five_are_replaced_by_five_and_the_group_walks_through_every_strategy_under_load);
    "3.6.0" "19522" Watch "a watch over JSON brings nothing down, whatever it says" => here(pages::watches_in_json);
    "3.7.1" "GHSA-xg4h-6gfc-h4m8" Watch "who may read one key may not watch from there on" => here(guard::watches_only_what_may_be_read);
    "3.5.6" "14547" Watch "the reason says that a token is not valid, or old" => here(guard::watches_only_what_may_be_read);
    // Leases.
    "3.6.5" "20615" Lease "a lease that was revoked is not renewed" => here(leases::renews_nothing_that_is_gone);
    "3.5.3" "13690" Lease "a lease can be renewed right behind its grant" => here(leases::renews_nothing_that_is_gone);
    "3.7.0" "20589" Lease "a renewal need not wait for what was decided before, and is right all the same" => here(leases::renews_nothing_that_is_gone);
    "3.6.0" "13676" Lease "a negative id is an id" => here(leases::takes_negative_ids);
    "kept" "" Lease "a time to live is raised to the least, and refused beyond 9,000,000,000 s" => here(leases::grants_within_bounds);
    "3.5.9" "15815" Lease "the keys of a lease are told to who may read all of them" => here(guard::tells_keys_of_leases_to_who_may_read_them);
    "3.6.0" "13508" Lease "what is left of a lease may outlive a change of the leader" => not("it always does: what is left counts in decided time, which stands still while nobody could renew");
    "3.5.13" "17425" Lease "who led before ends no lease" => not("leases are ended by a command that is decided like any other, judged by what is left where it is executed");
    "3.7.0" "20492" Lease "the end of leases goes before other requests of a leader under load" => not("the leader proposes it itself, outside the queue of what clients ask for");
    // Members.
    "3.6.0" "15261" Cluster "members are listed from any member's own state, if that is asked for" => here(members::lists_members_as_it_is_asked);
    "3.6.1" "20051" Cluster "what is asked of a member that is not there brings nothing down" => here(members::names_members_that_are_not_there);
    "3.5.7" "15096" Cluster "a learner that never started is not promoted" => there("crates/concur-server/tests/errors.rs" every_refusal_of_the_table_is_provoked_or_cannot_arise);
    "by 3.7" "" Cluster "a learner refuses with FailedPrecondition, no longer with Unavailable" => there("crates/concur-server/tests/errors.rs" every_refusal_of_the_table_is_provoked_or_cannot_arise);
    "3.6.11" "21667" Cluster "a member is added while another is down, if a quorum is there" => not("what counts is a quorum of those who vote, before and after; who is down is not asked");
    "3.6.6" "20874" Cluster "a member is promoted through one that does not lead, with users too" => not("who asks is found out by the member that is asked; the change that it passes on is not judged again");
    "3.6.0" "13377" Cluster "how many learners there may be is an option" => not("any number of members may observe; the option is taken and does nothing");
    // Upkeep.
    "3.6.0" "13773" Maintenance "Status tells the version of the storage" => here(members::tells_its_state);
    "3.6.0" "19471" Maintenance "Status tells whether the cluster goes back to an older version" => here(members::tells_its_state);
    "3.6.0" "17877" Maintenance "Status tells the quota" => here(members::tells_its_state);
    "3.6.6" "20790" Maintenance "and the one that was given" => here(members::tells_the_quota_that_it_was_given);
    "3.6.0" "14537" Maintenance "HashKV tells up to which revision it went" => here(kv::hashes_up_to_a_revision);
    "3.6.0" "" Maintenance "Snapshot tells the version of the storage with each part" => there("crates/concur-cli/tests/etcd_files.rs" three_members_go_on_from_a_file_of_etcd_and_agree);
    "3.6.0" "11715" Maintenance "Downgrade says whether the cluster could go back" => here(members::judges_downgrades);
    "3.6.0" "11715" Maintenance "and brings it back" => not("refused, since no format here is tied to etcd's version: snapshots go to older ones");
    "3.5.0" "13084" Maintenance "no alarm without a kind is armed" => here(members::arms_no_alarm_without_a_kind);
    "3.5.2" "13476" Maintenance "an alarm that several members raised is left out of health as one" => here(members::leaves_an_alarm_of_any_member_out_of_health);
    "3.5.5" "14272" Maintenance "an alarm of a corrupt member names it" => not("members that disagree are refused where they join or catch up; nobody but a client arms that alarm");
    "3.5.5" "14419" Maintenance "a list of alarms does not keep a member from starting again" => not("a list is read, and nothing is written for it");
    "3.6.5" "20650" Maintenance "a defragmentation and a snapshot of the leader do not meet" => there("crates/concur-cli/tests/etcd_files.rs" requests_are_answered_while_a_member_is_defragmented_and_while_it_sends_a_snapshot);
    "3.6.0" "14039" Maintenance "members compare their hashes at what was compacted" => not("no client sees it; what was decided is executed alike everywhere, and hashes are there to compare");
    "3.6.16" "22637" Maintenance "Hash and a snapshot that comes in do not meet" => not("one thread executes, hashes and takes what comes in");
    // Users.
    "3.7.0" "20802" Auth "anybody may ask whether users are asked for" => here(guard::tells_anybody_whether_users_are_asked_for);
    "3.6.11" "21681" Auth "a put in a transaction tells of the value before only to who may read it" => here(guard::reads_nothing_through_a_nested_put);
    "3.6.11" "21685" Auth "and takes a lease only of whose keys one may write" => here(guard::reads_nothing_through_a_nested_put);
    "3.6.9" "GHSA-rfx7-8w68-q57q" Auth "what is nested in a transaction is judged like the rest" => here(guard::judges_what_is_nested);
    "3.6.9" "GHSA-q8m4-xhhv-38mg" Auth "leases, members, alarms and compaction are not for who does not say who he is" => here(guard::asks_who_calls_for_every_call);
    "3.6.0" "14663" Auth "upkeep is for root" => here(guard::keeps_upkeep_for_root);
    "3.5.10" "16241" Auth "while users are not asked for, tokens are not looked at" => here(guard::looks_at_no_token_while_users_are_not_asked_for);
    "3.5.8" "15619" Auth "a permission for no key is refused" => here(guard::grants_no_empty_range);
    "3.5.0" "13086" Auth "so is none at all" => here(guard::grants_no_empty_range);
    "3.7.0" "21929" Auth "tokens are taken from headers of plain HTTP" => here(guard::knows_tokens_by_either_name);
    "3.5.8" "15676" Auth "a token that names nobody, or no revision, is refused" => there("crates/concur-server/src/auth/jwt.rs" tokens_of_others_and_old_ones_are_nobodys);
    "3.5.5" "14409" Auth "users are there after a restart" => there("crates/concur-cli/tests/serve.rs" users_are_there_after_kill_and_their_tokens_are_asked_for_again);
    "3.5.6" "14648" Auth "and in a member that catches up from a snapshot" => there("crates/concur-kv/tests/auth.rs" users_and_roles_come_back_from_the_image_and_count_in_the_digest);
    "3.5.8" "15653" Auth "a password is forgotten once it was looked at" => not("it is in no log and no page: only its hash is proposed");
    "3.5.26" "20942" Auth "logs show no tokens" => not("nothing that is shown is logged");
    // Pages and JSON.
    "3.5.11" "17039" HTTP "/livez and /readyz say what holds, each check has a page, and some can be left out" => here(pages::says_whether_it_lives_and_serves);
    "3.5.11" "17039" HTTP "a corrupt member is not ready, but lives" => here(pages::is_not_ready_while_corrupt);
    "3.6.0" "13399" HTTP "/health?serializable=true is of the member alone" => here(pages::says_health_of_itself_or_of_all);
    "kept" "" HTTP "health and versions are read with GET alone" => here(pages::answers_checks_by_get_alone);
    "3.6.0" "13772" HTTP "/version tells the version of the storage" => here(pages::names_its_versions);
    "3.6.0" "" HTTP "version 2 of the API is gone" => here(pages::has_no_second_version_of_the_api);
    "3.5.10" "16490" HTTP "Hash and HashKV have a path each" => here(pages::hashes_by_two_paths);
    "3.6.0" "16595" HTTP "refusals in JSON have `code` and `message`" => here(pages::refuses_in_json);
    "kept" "" HTTP "an election's calls without a leader bring nothing down" => here(pages::takes_calls_of_elections_without_a_leader);
    "3.6.0" "13565" HTTP "clients are not served where members listen" => not("members speak Concur's own protocol there, and nothing else");
    "3.5.8" "15589" HTTP "plain HTTP may listen apart from gRPC" => not("taken by `--listen-client-http-urls`, which adds listeners: each serves both, so no stream waits for a page");
    "3.5.8" "15452" HTTP "answers of one connection do not starve each other" => not("another library writes HTTP/2 here; `watch.rs` has a stream of thousands of watchers");
    "3.5.10" "16790" HTTP "a request over HTTP/2 with a `connection` header is refused" => not("HTTP/2 forbids it, and the library that reads it resets such a stream");
    "3.7.1" "22143" HTTP "who sends no headers is cut" => there("crates/concur-server/tests/limits.rs" who_sends_no_headers_is_cut);
    "3.7.1" "22141" HTTP "who does not finish a handshake of TLS is cut" => there("crates/concur-tls/tests/tls.rs" who_says_nothing_keeps_nobody_waiting);
    "3.7.1" "22147" HTTP "members send no answer without end" => not("members speak Concur's own protocol, whose frames are bounded");
    "3.6.0" "14169" HTTP "how many streams a connection may open is an option" => there("crates/concur-server/tests/limits.rs" streams_of_one_connection_are_bounded);
    "3.7.0" "22024" HTTP "a revoked certificate opens no listener" => there("crates/concur-tls/tests/tls.rs" names_and_revoked_certificates_are_looked_at);
    "3.5.8" "15483" HTTP "the versions of TLS can be bounded" => there("crates/concur-cli/tests/etcd.rs" members_and_clients_speak_tls_and_plain_beside_it);
    "3.7.0" "19760" HTTP "clients may come over Unix sockets" => not("not here: a listener is an address and a port");
    // Numbers.
    "3.6.0" "13371" Metrics "etcd_disk_defrag_inflight, etcd_debugging_server_alarms, etcd_server_range_duration_seconds, etcd_server_feature_enabled" => not("not here: calls are counted in grpc_server_*, alarms are told by Status and health");
    "3.7.0" "21038" Metrics "etcd_server_request_duration_seconds, and how long streams of watches take to send" => not("not here: they tell of the inside of etcd's server");
    // What is of the program, the libraries, the tools.
    "3.6.0" "" Program "flags of version 2 and of its proxy are gone" => there("crates/concur-cli/src/etcd/flags.rs" what_has_no_meaning_is_named_and_what_has_another_is_refused);
    "3.7.0" "19959" Program "flags that begin with `--experimental-` are gone" => there("crates/concur-cli/src/etcd/flags.rs" what_has_no_meaning_is_named_and_what_has_another_is_refused);
    "3.6.0" "13635" Program "members find each other by a service (`--discovery-*`)" => not("refused: members are named");
    "3.6.0" "15408" Program "snapshots of the log are made more often (`--snapshot-count`), and sent within bounds" => not("of the inside; taken and ignored");
    "3.7.0" "20187" Program "the store of version 2 is not read any more" => not("no data directory of etcd is run on; snapshots go in and out");
    "3.6.17" "22686" Program "`--force-new-cluster` does not leave a member behind that cannot start" => not("`concur recover` does that work, and says what it would leave behind");
    "3.6.0" "13133" Tools "etcdctl and etcdutl: commands, flags and what they print" => not("of those programs; those of any version speak to Concur");
    "3.6.0" "15274" Tools "clientv3, the Go packages, the proxy, container images, compilers and libraries" => not("of clients and of how etcd is built");
}
