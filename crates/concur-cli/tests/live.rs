//! The commands against a cluster: what they print, and how they end as members are lost.

use concur::{Cluster, Leadership, Namespace, Optimistic, Order, System, Timeouts};
use std::process::Command;
use std::time::{Duration, Instant};

async fn cluster() -> Cluster<impl concur_core::StateMachine> {
    let heartbeat = Duration::from_millis(50);
    let orders = Namespace { order: Order::PerKey, decision_making: Some(Optimistic::EPaxos.into()), ..Namespace::new("orders") };
    let system = System {
        quorum_size: 3,
        decision_making: Leadership::Raft.into(),
        namespaces: vec![orders],
        timeouts: Timeouts { heartbeat, election: 8 * heartbeat, ..Timeouts::default() },
        ..System::default()
    };
    system.concur().await.unwrap()
}

/// What a command printed on standard output, on standard error, and how it ended.
struct Said {
    out: String,
    err: String,
    code: i32,
}

struct Program {
    endpoints: String,
}

impl Program {
    fn of<M: concur_core::StateMachine>(cluster: &Cluster<M>) -> Self {
        let endpoints = cluster.members().iter().map(|member| member.client_addresses()[0].to_string());
        Self { endpoints: endpoints.collect::<Vec<_>>().join(",") }
    }

    fn run(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new(env!("CARGO_BIN_EXE_concur"));
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CONCUR_")) {
            command.env_remove(name);
        }
        let output = command.args(arguments).env("CONCUR_ENDPOINTS", &self.endpoints).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { out: text(output.stdout), err: text(output.stderr), code: output.status.code().unwrap() }
    }

    /// What a command that must succeed printed.
    fn says(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "{arguments:?}: {}", said.err);
        said.out
    }

    /// Runs a command until it ends with this code.
    fn until(&self, code: i32, arguments: &[&str]) -> Said {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let said = self.run(arguments);
            if said.code == code {
                return said;
            }
            assert!(Instant::now() < deadline, "{arguments:?} ends with {} and not {code}: {}{}", said.code, said.out, said.err);
        }
    }
}

#[tokio::test]
async fn keys_leases_and_transactions_are_used_from_the_shell() {
    let cluster = cluster().await;
    let program = Program::of(&cluster);
    program.until(0, &["put", "warm", "up", "--timeout", "1s"]);
    let first: i64 = program.says(&["put", "hello", "world"]).trim().strip_prefix("revision ").unwrap().parse().unwrap();
    assert_eq!(program.says(&["get", "hello"]), "KEY    VALUE\nhello  world\n");
    assert_eq!(program.says(&["get", "hello", "--value-only"]), "world");
    let wide = program.says(&["get", "hello", "-o", "wide"]);
    assert!(wide.contains("strong, revision ") && wide.contains("served by n"), "{wide}");
    let eventual = program.says(&["get", "hello", "--level", "eventual", "-o", "json"]);
    assert!(eventual.contains("\"level\": \"eventual\""), "{eventual}");
    program.says(&["put", "hello", "again", "--previous"]);
    let from = first.to_string();
    let events = program.says(&["watch", "hello", "--revision", &from, "--count", "2", "--previous", "-o", "json"]);
    let lines: Vec<&str> = events.lines().collect();
    assert!(lines.len() == 2 && lines[1].contains("\"value\":\"again\"") && lines[1].contains("\"previous\":\"world\""), "{events}");
    let native = program.says(&["watch", "hello", "--revision", &from, "--count", "2", "--previous", "-o", "json", "-n", "default"]);
    assert_eq!(native, events);

    assert_eq!(program.says(&["lease", "grant", "60", "--id", "77"]), "0000000000000077  60 seconds\n");
    program.says(&["put", "leased", "v", "--lease", "77"]);
    assert!(program.says(&["lease", "timetolive", "77", "--keys"]).ends_with("leased\n"));
    assert_eq!(program.says(&["lease", "keep-alive", "77", "--once"]), "0000000000000077  60 seconds\n");
    assert_eq!(program.says(&["lease", "list"]), "LEASE\n0000000000000077\n");
    program.says(&["lease", "revoke", "77"]);
    let gone = program.run(&["get", "leased"]);
    assert_eq!((gone.code, gone.out.as_str(), gone.err.as_str()), (1, "", "error: there is no key leased\n"));
    assert_eq!(program.run(&["lease", "keep-alive", "77", "--once"]).code, 1);

    let txn = ["txn", "--if", "version lock = 0", "--then", "put lock \"held by a\"", "--else", "get lock"];
    assert!(program.says(&txn).starts_with("the conditions hold\n"));
    assert_eq!(program.says(&txn), "the conditions do not hold\ngot lock  held by a\n");
    assert_eq!(program.says(&["get", "--prefix", "", "--count-only"]), "3\n");
    assert_eq!(program.says(&["del", "h", "--prefix"]), "deleted 1\n");
    assert_eq!(program.run(&["put", "", "v"]).code, 3);
    assert_eq!(program.run(&["get", "k", "--revision", "1000000"]).code, 3);

    program.says(&["put", "order", "1", "-n", "orders"]);
    let order = program.says(&["get", "order", "-n", "orders", "-o", "wide"]);
    assert!(order.contains("namespace orders"), "{order}");
    assert_eq!(program.run(&["put", "order", "1", "-n", "nowhere"]).code, 3);
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn who_is_in_and_the_strategy_are_changed_from_the_shell() {
    let cluster = cluster().await;
    let program = Program::of(&cluster);
    program.until(0, &["put", "warm", "up", "--timeout", "1s"]);
    let refused = |code: i32, words: &str, arguments: &[&str]| {
        let said = program.run(arguments);
        assert!(said.code == code && said.err.contains(words), "{arguments:?} ends with {}: {}", said.code, said.err);
    };
    let members = || program.says(&["members", "-o", "json"]);

    program.until(0, &["member", "weigh", "n1", "2"]);
    assert!(members().contains("\"weight\": 2"), "{}", members());
    refused(1, "nothing would change", &["member", "weigh", "n1", "2"]);
    refused(3, "counts every vote as one", &["strategy", "switch", "epaxos"]);
    program.until(0, &["member", "weigh", "n1", "1"]);

    program.until(0, &["member", "move-leader", "n2"]);
    program.until(0, &["member", "move-leader", "n3"]);
    assert!(program.says(&["strategy", "switch", "epaxos"]).starts_with("decided by epaxos"));
    refused(1, "no leader that could be moved", &["member", "move-leader", "n1"]);
    program.until(0, &["strategy", "switch", "raft"]);

    program.until(0, &["member", "add", "n4", "127.0.0.1:1", "--observer"]);
    assert!(members().contains("\"observer\""), "{}", members());
    refused(1, "has not shown itself", &["member", "promote", "n4"]);
    refused(1, "is n4's", &["member", "add", "n5", "127.0.0.1:1", "--observer"]);
    program.until(0, &["member", "move", "n4", "127.0.0.1:2"]);
    program.until(0, &["member", "remove", "n4"]);
    refused(3, "there is no member n4", &["member", "remove", "n4"]);
    program.until(0, &["member", "replace", "n3"]);
    assert_eq!(members().matches("\"voter\"").count(), 3, "{}", members());
    // The other namespace has members and changes of its own.
    program.until(0, &["member", "add", "n4", "127.0.0.1:1", "--observer", "--namespace", "orders"]);
    assert_eq!(program.says(&["get", "warm", "--value-only"]), "up");
    cluster.stop().await.unwrap();
}

#[tokio::test]
async fn exit_codes_tell_a_member_lost_from_a_quorum_lost_from_nobody_there() {
    let cluster = cluster().await;
    let program = Program::of(&cluster);
    program.until(0, &["put", "k", "v", "--timeout", "1s"]);
    program.says(&["put", "k", "v", "-n", "orders"]);
    let status = program.until(0, &["status"]).out;
    assert_eq!((status.lines().count(), status.matches("leader").count()), (4, 1), "{status}");
    assert_eq!(program.says(&["members"]).matches("voter").count(), 3);

    cluster.node("n3").unwrap().leave();
    let unhealthy = program.until(5, &["status"]);
    assert!(unhealthy.out.contains("unreachable"), "{}", unhealthy.out);
    program.until(0, &["put", "k", "still", "--timeout", "2s"]);
    program.until(0, &["put", "k", "still", "--timeout", "2s", "-n", "orders"]);

    cluster.node("n2").unwrap().leave();
    let lost = program.until(4, &["put", "k", "lost", "--timeout", "1s"]);
    assert!(lost.err.contains("is not known"), "{}", lost.err);
    program.until(4, &["get", "k", "--timeout", "1s"]);
    program.until(4, &["get", "k", "--timeout", "1s", "-n", "orders"]);
    program.until(4, &["status"]);
    // The one that is left may not have heard that the last write was decided, and while the other left, one more was.
    let held = program.says(&["get", "k", "--level", "eventual", "--value-only"]);
    assert!(["v", "still", "lost"].contains(&held.as_str()), "{held}");
    let held = program.says(&["get", "k", "--level", "eventual", "--value-only", "-n", "orders"]);
    assert!(["v", "still"].contains(&held.as_str()), "{held}");

    cluster.stop().await.unwrap();
    for command in [&["put", "k", "v", "--timeout", "500ms"][..], &["status"], &["get", "k", "-n", "orders", "--timeout", "500ms"]] {
        assert_eq!(program.run(command).code, 2, "{command:?}");
    }
}
