//! Automatic compaction by whoever leads, in virtual time: three replicas, a leader that changes, clocks that differ.

use concur_kv::{AutoCompaction, Command, Config, Kv, Put, RangeQuery, Retention, Revision};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;

struct Node {
    kv: Kv,
    auto: AutoCompaction,
    sample_at_ms: u64,
    /// How far its clock is ahead.
    ahead_ms: u64,
}

/// Runs for a while, a write a minute, and looks at the stores after each.
fn run(retention: Retention, hours: u64, look: impl Fn(&[Node], &[u64], u64)) {
    let node = |ahead_ms| Node { kv: Kv::new(Config::default()), auto: AutoCompaction::new(retention), sample_at_ms: 0, ahead_ms };
    let mut nodes = [node(0), node(20_000), node(45_000)];
    // When each revision was written.
    let mut written_ms = vec![0, 0];
    for minute in 0..hours * 60 {
        let now_ms = minute * MINUTE_MS;
        let mut commands = vec![Command::Put(Put { key: format!("{}", minute % 7).into(), ..Put::default() })];
        written_ms.push(now_ms);
        let leader = (minute / 50 % 3) as usize;
        for (i, node) in nodes.iter_mut().enumerate() {
            // As the node does: everybody samples, whoever leads proposes.
            let own_ms = now_ms + node.ahead_ms;
            let Some(every_ms) = node.auto.interval_ms().filter(|_| own_ms >= node.sample_at_ms) else { continue };
            node.sample_at_ms = own_ms + every_ms;
            let target = node.auto.sample(own_ms, node.kv.revision());
            commands.extend(target.filter(|_| i == leader).map(|revision| Command::Compact { revision }));
        }
        for node in &mut nodes {
            commands.iter().for_each(|command| drop(node.kv.execute(command, now_ms)));
        }
        look(&nodes, &written_ms, now_ms);
    }
    assert!(nodes[0].kv.compacted() > Revision(1), "something was compacted");
}

/// Whether a revision can be read on all.
fn is_readable(nodes: &[Node], revision: i64) -> bool {
    let all = RangeQuery { key: "\0".into(), range_end: "\0".into(), revision: Revision(revision), ..RangeQuery::default() };
    nodes.iter().all(|node| node.kv.range(&all).is_ok())
}

#[test]
fn what_is_younger_than_the_period_is_kept_whoever_leads() {
    for keep_ms in [10 * MINUTE_MS, HOUR_MS, 5 * HOUR_MS] {
        run(Retention::Period { keep_ms }, 24, |nodes, written_ms, now_ms| {
            let young = written_ms.iter().rposition(|&at_ms| at_ms + keep_ms < now_ms).map_or(1, |at| at as i64 + 1);
            assert!(is_readable(nodes, young.min(nodes[0].kv.revision().0)), "{young} at {now_ms}");
            // A leader that was just chosen goes by its own samples: at most one interval more is kept, and a change of leader.
            let old_ms = 3 * keep_ms.min(HOUR_MS) + keep_ms + 100 * MINUTE_MS;
            let old = written_ms.iter().rposition(|&at_ms| at_ms + old_ms < now_ms);
            assert!(old.is_none_or(|old| old < 2 || !is_readable(nodes, old as i64)), "{old:?} at {now_ms}");
            assert!(nodes.iter().all(|node| node.kv.digest() == nodes[0].kv.digest()));
        });
    }
}

#[test]
fn so_many_revisions_are_kept_whoever_leads() {
    let keep = 100;
    run(Retention::Revisions { keep }, 12, |nodes, _, now_ms| {
        let revision = nodes[0].kv.revision().0;
        assert!(is_readable(nodes, (revision - keep + 1).max(1)), "at {now_ms}");
        assert!(
            nodes[0].kv.compacted().0 >= revision - keep - 60 || revision < keep + 60,
            "compacted to {} of {revision}",
            nodes[0].kv.compacted()
        );
    });
}
