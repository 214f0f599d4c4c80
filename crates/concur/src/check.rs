//! What can be wrong with a system.
//!
//! Each check looks at one thing and says everything that is wrong with it; none hides another's findings. Only what the value
//! itself shows is looked at: the disk and the network come when a node starts.

use crate::units::show;
use crate::{Finding, Network, Order, Quorums, System};
use concur_core::{Family, Ordering, Phase, QuorumRule, QuorumSystem, ReplicaId, ReplicaSet};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most voters that one group can have: beyond this a write costs more messages than it is worth.
const VOTERS_MAX: usize = 9;

pub(crate) fn check(system: &System) -> Vec<Finding> {
    let mut findings = Vec::new();
    for look in [members, addresses, sizes, quorums, weights, regions, links, goals, timeouts, limits, namespaces, etcd, security] {
        look(system, &mut findings);
    }
    findings
}

/// The word that was probably meant, if one is near enough.
pub(crate) fn nearest<'w>(word: &str, words: impl IntoIterator<Item = &'w str>) -> Option<&'w str> {
    let near = words.into_iter().map(|w| (distance(word, w), w)).min()?;
    (near.0 <= 1 + word.len() / 4).then_some(near.1)
}

/// How many letters must be added, removed or changed (Levenshtein 1966).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

/// Letters, digits, `-`, `_` and `.`: what a directory, a URL and a metric label all take.
fn is_name(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    plain && !name.is_empty() && name.len() <= 64 && !name.starts_with('.')
}

fn bad_name(field: String, name: &str) -> Finding {
    let why = "names become directories, labels of metrics and parts of addresses";
    let fix = "use 1 to 64 letters, digits, `-`, `_` or `.`, not beginning with `.`";
    Finding::error("C017", field, format!("`{name}` cannot be a name"), why, fix)
}

fn members(system: &System, out: &mut Vec<Finding>) {
    let mut seen = BTreeMap::new();
    for (i, member) in system.members.iter().enumerate() {
        if !is_name(&member.name) {
            out.push(bad_name(format!("members[{i}].name"), &member.name));
        } else if let Some(first) = seen.insert(member.name.as_str(), i) {
            let what = format!("two members are called `{}` (numbers {} and {})", member.name, first + 1, i + 1);
            let why = "a member is known to its peers by its name: two with one name would both vote as one";
            out.push(Finding::error("C011", format!("members[{i}].name"), what, why, "give each member a name of its own"));
        }
    }
    if !system.members.is_empty() && system.quorum_size != system.members.len() {
        let what = format!("`quorum_size` is {}, and {} members are listed", system.quorum_size, system.members.len());
        let why = "every listed member votes, so a quorum counted over another number could be too small";
        let fix = format!("set `quorum_size = {}`, or list {} members", system.members.len(), system.quorum_size);
        out.push(Finding::error("C010", "system.quorum_size", what, why, fix));
    }
}

fn addresses(system: &System, out: &mut Vec<Finding>) {
    let mut seen: BTreeMap<&str, String> = BTreeMap::new();
    for (i, member) in system.members.iter().enumerate() {
        for (kind, address) in [("peer", member.peer.as_str()), ("client", member.client.as_str())] {
            let field = format!("members[{i}].{kind}");
            if address.is_empty() {
                continue;
            }
            let Some((host, port)) = split_address(address) else {
                let what = format!("`{address}` is not an address");
                let why = "nobody could reach this member";
                out.push(Finding::error("C013", field, what, why, "write `host:port`, such as \"127.0.0.1:2380\" or \"[::1]:2380\""));
                continue;
            };
            if let Some(first) = seen.insert(address, field.clone()).filter(|_| port != 0) {
                let what = format!("{address} is already the address in `{first}`");
                let why = "two listeners cannot have one port of one machine";
                out.push(Finding::error("C012", field.clone(), what, why, "give each listener a port of its own"));
            }
            if !is_loopback(host) && !system.insecure && !concur_tls::is_tls(address) {
                let what = format!("{address} is reached from other machines, and nothing encrypts or authenticates it");
                let why = "whoever reaches the port can read and change everything, and vote";
                let fix = "write `https://` before it and name certificates under `[security]`, use 127.0.0.1, or say `insecure = true` under \
                           `[security]` if the network itself is trusted";
                out.push(Finding::error("C060", field, what, why, fix));
            }
        }
    }
}

/// Host and port, of an address with or without `https://`.
pub(crate) fn split_address(address: &str) -> Option<(&str, u16)> {
    let bare = address.strip_prefix(concur_tls::HTTPS).unwrap_or(address);
    let (host, port) = bare.rsplit_once(':')?;
    let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    let plain = !host.is_empty() && !host.contains(['/', ' ', '@', '[', ']']);
    plain.then_some((host, port.parse().ok()?))
}

/// Whether only this machine reaches it.
pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn sizes(system: &System, out: &mut Vec<Finding>) {
    let voters = system.numbered_members().len();
    let field = if system.members.is_empty() { "system.quorum_size" } else { "members" };
    match voters {
        0 => {
            let why = "nobody could decide anything";
            out.push(Finding::error("C021", field, "there are no voters".into(), why, "use at least 1; 3 survive the loss of one"));
        }
        1 => {
            let why = "when it is down everything is, and when its disk is lost everything is";
            out.push(Finding::warning("C026", field, "there is one voter".into(), why, "use 3, which survive the loss of one"));
        }
        n if n > VOTERS_MAX => {
            let what = format!("there are {n} voters, and a group can have {VOTERS_MAX}");
            let why = "each voter beyond a few makes every write slower and survives hardly more";
            out.push(Finding::error("C027", field, what, why, "use 3, 5 or 7"));
        }
        n if n % 2 == 0 && system.quorums == Quorums::Majority && equal_weights(system) => {
            let what = format!("{n} voters survive {} losses, which {} do too", (n - 1) / 2, n - 1);
            let why = "the even one adds a vote to every majority and can fail, and survives nothing more";
            out.push(Finding::warning("C023", field, what, why, format!("use {} or {} voters", n - 1, n + 1)));
        }
        _ => {}
    }
}

fn equal_weights(system: &System) -> bool {
    system.members.iter().all(|m| m.weight == 1)
}

fn quorums(system: &System, out: &mut Vec<Finding>) {
    let Quorums::Counts { prepare, accept, fast } = system.quorums else { return };
    let quorums = system.quorum_system();
    let voters = quorums.voters.len();
    let traits = system.decision_making.0.traits;
    for (name, size) in [("prepare", prepare), ("accept", accept), ("fast", fast)] {
        if size == 0 || size > voters {
            let what = format!("`{name}` is {size}, of {voters} voters");
            let why = "no set of voters has that size, so nothing could ever be decided";
            out.push(Finding::error("C021", format!("quorums.{name}"), what, why, format!("use a number from 1 to {voters}")));
            return;
        }
    }
    if !equal_weights(system) {
        let why = "a quorum is counted in members or in weights; a mixture has no meaning that could be checked";
        out.push(Finding::error("C028", "quorums", "counts are given, and members have weights".into(), why, "remove one of the two"));
    }
    if let Some((a, b)) = quorums.disjoint(Phase::Prepare, Phase::Accept) {
        let what = format!(
            "a quorum to read or elect ({prepare} of {voters}) and one to write ({accept} of {voters}) need not meet: {} and {}",
            names(system, a),
            names(system, b)
        );
        let why = "the first would not see what the second decided: acknowledged writes would be lost and reads be stale";
        let fix = format!("make `prepare` + `accept` at least {}", voters + 1);
        out.push(Finding::error("C020", "quorums.prepare", what, why, fix));
    } else if let Some((a, b)) = quorums.disjoint(Phase::Prepare, Phase::Prepare).filter(|_| traits.family != Family::Classic) {
        let what = format!("two quorums to elect ({prepare} of {voters}) need not meet: {} and {}", names(system, a), names(system, b));
        let why = format!("{} takes a majority's vote for proof that nobody else was elected in the same term", traits.title);
        out.push(Finding::error("C020", "quorums.prepare", what, why, format!("make `prepare` at least {}", voters / 2 + 1)));
    } else {
        alone(&quorums, out);
    }
    let own = (system.decision_making.0.quorums)(quorums.voters);
    fast_quorum(system, &quorums, &own, out);
}

/// One of several is enough for a phase.
fn alone(quorums: &QuorumSystem, out: &mut Vec<Finding>) {
    let voters = quorums.voters.len();
    for (name, phase, does) in [("accept", Phase::Accept, "decides"), ("prepare", Phase::Prepare, "answers strong reads")] {
        if quorums.size(phase) == 1 && voters > 1 {
            let what = format!("`{name}` is 1 of {voters}: each voter {does} alone");
            let why = "whoever is given an old copy of its disk goes on alone until it meets another member; where one decides, what it \
                       decided last is lost with its disk";
            out.push(Finding::warning("C036", format!("quorums.{name}"), what, why, "use 2 or more, and never put back a copy of a disk"));
        }
    }
}

fn fast_quorum(system: &System, quorums: &QuorumSystem, own: &QuorumSystem, out: &mut Vec<Finding>) {
    let traits = system.decision_making.0.traits;
    if traits.family != Family::Optimistic {
        return;
    }
    let voters = quorums.voters.len();
    let fixed = matches!(own.rule, QuorumRule::Counts { .. });
    for (name, phase) in [("fast", Phase::Fast), ("accept", Phase::Accept), ("prepare", Phase::Prepare)] {
        let (size, needed) = (quorums.size(phase), own.size(phase));
        if size < needed && phase != Phase::Prepare {
            let what = format!("`{name}` is {size} of {voters}, and {} needs {needed}", traits.title);
            let why = "whoever recovers sees too few of those that voted to tell what may have been decided";
            let more = if fixed { "" } else { " or more" };
            out.push(Finding::error("C022", format!("quorums.{name}"), what, why, format!("use {needed}{more}, or leave it out")));
        } else if size != needed && fixed {
            let what = format!("`{name}` is {size} of {voters}, and {} has {needed}", traits.title);
            let why = "its sizes are proved together, for each number of voters, and it takes no others: this one would mean nothing";
            out.push(Finding::error("C022", format!("quorums.{name}"), what, why, "leave it out, or choose another strategy"));
        }
    }
}

fn names(system: &System, set: ReplicaSet) -> String {
    let members = system.numbered_members();
    let names = set.iter().filter_map(|id| members.get(usize::from(id.0))).map(|m| m.name.as_str());
    format!("{{{}}}", names.collect::<Vec<_>>().join(", "))
}

fn weights(system: &System, out: &mut Vec<Finding>) {
    let traits = system.decision_making.0.traits;
    let total: u64 = system.members.iter().map(|m| m.weight.min(u64::from(u32::MAX))).sum();
    for (i, member) in system.members.iter().enumerate() {
        let field = format!("members[{i}].weight");
        if member.weight == 0 || member.weight > u64::from(u32::MAX) {
            let what = format!("{} has the weight {}", member.name, member.weight);
            let why = "a member that is listed votes, and its vote must count for something";
            out.push(Finding::error("C025", field, what, why, "use 1 or more; remove the member if it should not vote"));
        } else if member.weight != 1 && !traits.has_leader {
            let what = format!("{} has the weight {}, and {} counts every vote as one", member.name, member.weight, traits.title);
            let why = "its quorums are proved for equal votes; with weights two of them might not meet where they must";
            out.push(Finding::error("C024", field, what, why, "give every member the weight 1, or choose a strategy with a leader"));
        } else if system.members.len() > 1 && 2 * member.weight > total {
            let what = format!("{} alone is a majority ({} of {total})", member.name, member.weight);
            let why = "nothing can be decided without it, and everything by it alone: the others only copy";
            out.push(Finding::warning("C029", field, what, why, "make every weight less than half of the sum"));
        }
    }
}

fn regions(system: &System, out: &mut Vec<Finding>) {
    for (i, member) in system.members.iter().enumerate() {
        if member.region.is_empty() || system.regions.contains_key(&member.region) {
            continue;
        }
        let known = system.regions.keys().map(String::as_str);
        let guess = nearest(&member.region, known).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
        let what = format!("{} is in the region `{}`, which is not described{guess}", member.name, member.region);
        let why = "what holds for a region (its law, its distance) cannot be checked for one that is not known";
        let fix = format!("add `[regions.{}]`, or correct the name", member.region);
        out.push(Finding::error("C014", format!("members[{i}].region"), what, why, fix));
    }
}

fn links(system: &System, out: &mut Vec<Finding>) {
    let mut seen = BTreeMap::new();
    for (i, link) in system.links.iter().enumerate() {
        let (a, b) = (&link.between.0, &link.between.1);
        for name in [a, b].into_iter().filter(|name| !name.is_empty() && !system.regions.contains_key(*name)) {
            let what = format!("`{name}` is not a region that is described");
            let why = "a round trip to nowhere would leave the real one unknown";
            out.push(Finding::error(
                "C033",
                format!("link[{i}].between"),
                what,
                why,
                format!("add `[regions.{name}]`, or correct the name"),
            ));
        }
        let pair = if a <= b { (a, b) } else { (b, a) };
        if let Some(first) = seen.insert(pair, i) {
            let what = format!("the round trip between `{a}` and `{b}` is given twice (numbers {} and {})", first + 1, i + 1);
            out.push(Finding::error("C033", format!("link[{i}]"), what, "only one of them can be right", "remove one"));
        }
    }
    if !system.links.is_empty() && crate::predict::round_trips(system).is_none() {
        let why = "latencies are predicted only when all round trips between members are known";
        let fix = "give every member a region, and every two regions a `[[link]]`";
        out.push(Finding::warning("C034", "link", "some round trips between members are not given".into(), why, fix));
    }
}

fn security(system: &System, out: &mut Vec<Finding>) {
    if let Err(error) = system.security.rules.check() {
        let why = "nobody could connect, or by weaker means than were meant";
        out.push(Finding::error("C069", "security.cipher_suites", error.to_string(), why, "name what there is, or leave it out"));
    }
    let sides = [("client", &system.security.client), ("peer", &system.security.peer)];
    for (name, options) in sides {
        if options.cert_file.as_os_str().is_empty() != options.key_file.as_os_str().is_empty() {
            let what = "a certificate goes with its key, and one of them is not named".to_owned();
            let why = "a certificate is shown by whoever can prove to have its key";
            out.push(Finding::error("C064", format!("security.{name}"), what, why, "give both `cert_file` and `key_file`"));
        }
    }
    for (i, member) in system.members.iter().enumerate() {
        for ((name, options), address) in sides.into_iter().zip([&member.client, &member.peer]) {
            if concur_tls::is_tls(address) && !options.has_certificate() && !options.auto {
                let what = format!("{address} asks for TLS, and there is no certificate under `[security.{name}]`");
                let why = "a listener with TLS has to show one";
                let fix = "give `cert_file` and `key_file`, or `auto = true` for one that encrypts and proves nothing";
                out.push(Finding::warning("C064", format!("members[{i}].{name}"), what, why, fix));
            }
        }
    }
}

fn goals(system: &System, out: &mut Vec<Finding>) {
    if let (Some(goal), Some(bounds)) = (system.goals.write_latency, crate::predict::physical_bounds(system)) {
        if let Some((member, bound)) = bounds.into_iter().filter(|(_, bound)| *bound > goal).max_by_key(|(_, bound)| *bound) {
            let what = format!("{} is impossible: the nearest quorum of {member} is {} away", show(goal), show(bound));
            let why = "no strategy decides before a quorum could have answered";
            let fix = format!("allow {} or more, or move members nearer to one another", show(bound));
            out.push(Finding::error("C032", "goals.write_latency", what, why, fix));
        } else {
            unmet(system, goal, out);
        }
    }
    if system.goals.regions_lost > 0 {
        survive(system, out);
    }
}

fn unmet(system: &System, goal: Duration, out: &mut Vec<Finding>) {
    let latencies = system.predict().latencies;
    let slow: Vec<_> = latencies.iter().filter(|l| l.usual > goal).map(|l| format!("{} {}", l.member, show(l.usual))).collect();
    if !slow.is_empty() {
        let what = format!("with {} these take longer than {}: {}", system.decision_making.0.traits.title, show(goal), slow.join(", "));
        let why = "the goal is possible, but not for them with this strategy";
        out.push(Finding::warning("C035", "goals.write_latency", what, why, "compare strategies, or let clients write elsewhere"));
    }
}

fn survive(system: &System, out: &mut Vec<Finding>) {
    let quorums = system.quorum_system();
    let regions: Vec<(String, ReplicaSet)> = crate::predict::regions(system).into_iter().collect();
    let placed = regions.iter().fold(ReplicaSet::EMPTY, |all, (_, set)| all.union(*set));
    if let Some(id) = quorums.voters.minus(placed).iter().next() {
        let what =
            format!("{} is in no region, and {} are to be survivable", names(system, ReplicaSet::one(id)), system.goals.regions_lost);
        let why = "what fails together with it is not known";
        out.push(Finding::error("C030", "goals.regions_lost", what, why, "give every member its region"));
        return;
    }
    // The regions whose loss takes most votes are the worst case.
    let mut by_votes: Vec<_> = regions.iter().map(|(name, set)| (votes(system, *set), name, *set)).collect();
    by_votes.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let lost = &by_votes[..system.goals.regions_lost.min(by_votes.len())];
    let left = lost.iter().fold(quorums.voters, |left, (_, _, set)| left.minus(*set));
    if !quorums.is_quorum(Phase::Prepare, left) || !quorums.is_quorum(Phase::Accept, left) {
        let which = lost.iter().map(|(_, name, _)| name.as_str()).collect::<Vec<_>>().join(" and ");
        let what = format!(
            "losing {which} leaves {} of {} voters in {} regions, which is no quorum",
            left.len(),
            quorums.voters.len(),
            regions.len()
        );
        let why = "of two regions one always holds half of the votes or more";
        let fix = format!("spread the voters over at least {} regions, none with half of the votes", 2 * system.goals.regions_lost + 1);
        out.push(Finding::error("C030", "goals.regions_lost", what, why, fix));
    }
}

fn votes(system: &System, set: ReplicaSet) -> u64 {
    let members = system.numbered_members();
    set.iter().map(|ReplicaId(i)| members[usize::from(i)].weight).sum()
}

fn timeouts(system: &System, out: &mut Vec<Finding>) {
    let timeouts = &system.timeouts;
    for (name, duration) in [("heartbeat", timeouts.heartbeat), ("election", timeouts.election), ("request", timeouts.request)] {
        if duration.is_zero() {
            let what = format!("`{name}` is zero");
            out.push(Finding::error("C042", format!("timeouts.{name}"), what, "it would pass before anything can happen", "leave it out"));
        }
    }
    if timeouts.heartbeat >= timeouts.election {
        let what = format!(
            "a heartbeat comes every {}, and after {} of silence somebody takes over",
            show(timeouts.heartbeat),
            show(timeouts.election)
        );
        let why = "a leader in perfect health would be deposed between two heartbeats";
        let fix = format!("make `heartbeat` a tenth of `election`, such as {}", show(timeouts.election / 10));
        out.push(Finding::error("C040", "timeouts.heartbeat", what, why, fix));
    } else if timeouts.heartbeat * 3 > timeouts.election {
        let what = format!(
            "fewer than three heartbeats ({}) fit into an election timeout ({})",
            show(timeouts.heartbeat),
            show(timeouts.election)
        );
        let why = "one late or lost heartbeat is enough for an election that nobody needed";
        out.push(Finding::warning("C043", "timeouts.heartbeat", what, why, "make `election` ten times `heartbeat`"));
    }
    let Some(farthest) = crate::predict::round_trips(system).and_then(|t| t.into_iter().flatten().max()) else { return };
    if timeouts.election <= farthest {
        let what = format!("the election timeout ({}) is not above the longest round trip ({})", show(timeouts.election), show(farthest));
        let why = "a vote would come back after its candidate gave up, so that nobody may ever be elected";
        let fix = format!("make `election` at least ten round trips: {}", show(farthest * 10));
        out.push(Finding::error("C041", "timeouts.election", what, why, fix));
    } else if timeouts.election < farthest * 5 {
        let what =
            format!("the election timeout ({}) is below five of the longest round trips ({})", show(timeouts.election), show(farthest));
        let why = "jitter of a few round trips would cause elections";
        out.push(Finding::warning("C041", "timeouts.election", what, why, format!("make `election` {} or more", show(farthest * 10))));
    }
}

fn limits(system: &System, out: &mut Vec<Finding>) {
    let limits = &system.limits;
    let all = [
        ("request_bytes_max", limits.request_bytes_max as u64),
        ("batch_bytes_max", limits.batch_bytes_max as u64),
        ("batches_in_flight_max", limits.batches_in_flight_max as u64),
        ("pending_commands_max", limits.pending_commands_max as u64),
        ("quota_bytes", limits.quota_bytes),
        ("checkpoint_bytes", limits.checkpoint_bytes),
    ];
    for (name, _) in all.into_iter().filter(|(_, value)| *value == 0) {
        let why = "with none of it nothing could be done";
        out.push(Finding::error("C042", format!("limits.{name}"), format!("`{name}` is zero"), why, "leave it out"));
    }
    if limits.request_bytes_max > 16 << 20 {
        let what = format!("requests of {} MiB are allowed", limits.request_bytes_max >> 20);
        let why = "one request is sent to every voter as a whole, and heartbeats and others' requests wait behind it";
        out.push(Finding::error("C044", "limits.request_bytes_max", what, why, "use 16 MiB or less, and keep large objects elsewhere"));
    }
}

fn namespaces(system: &System, out: &mut Vec<Finding>) {
    let mut seen = BTreeMap::new();
    for (i, namespace) in system.namespaces.iter().enumerate() {
        let field = |key: &str| format!("namespace[{i}].{key}");
        if !is_name(&namespace.name) {
            out.push(bad_name(field("name"), &namespace.name));
        } else if namespace.name == "default" || seen.insert(namespace.name.as_str(), i).is_some() {
            let what = format!("a namespace `{}` exists already", namespace.name);
            let why = "requests name their namespace, and two with one name could not be told apart";
            out.push(Finding::error("C016", field("name"), what, why, "choose another name; `default` is always there"));
        }
        voters_of(system, i, out);
        let traits = namespace.decision_making.unwrap_or(system.decision_making).0.traits;
        unused_order(namespace.order, traits, field("order"), out);
    }
    unused_order(system.order, system.decision_making.0.traits, "system.order".into(), out);
}

fn unused_order(order: Order, traits: &concur_core::Traits, field: String, out: &mut Vec<Finding>) {
    if order == Order::PerKey && traits.order == Ordering::Total {
        let what = format!("{} puts everything in one order, whatever the namespace asks for", traits.title);
        let why = "a revision for the whole namespace is given up, and nothing is won for it";
        out.push(Finding::warning("C051", field, what, why, "use `order = \"total\"`, or a strategy without a leader"));
    }
}

fn voters_of(system: &System, i: usize, out: &mut Vec<Finding>) {
    let namespace = &system.namespaces[i];
    let members = system.numbered_members();
    for (j, name) in namespace.members.iter().enumerate() {
        let field = format!("namespace[{i}].members[{j}]");
        let Some(member) = members.iter().find(|m| m.name == *name) else {
            let guess = nearest(name, members.iter().map(|m| m.name.as_str())).map(|n| format!("; did you mean `{n}`?"));
            let what = format!("`{name}` is not a member{}", guess.unwrap_or_default());
            out.push(Finding::error(
                "C015",
                field,
                what,
                "a vote that nobody can cast counts in every quorum",
                "correct the name, or add the member",
            ));
            continue;
        };
        if namespace.members[..j].contains(name) {
            let what = format!("`{name}` is listed twice");
            out.push(Finding::error("C015", field.clone(), what, "it still has one vote", "remove one"));
        }
        jurisdiction(system, i, member, field, out);
    }
    if namespace.members.is_empty() {
        for member in &members {
            jurisdiction(system, i, member, format!("namespace[{i}].jurisdiction"), out);
        }
    }
}

fn jurisdiction(system: &System, i: usize, member: &crate::Member, field: String, out: &mut Vec<Finding>) {
    let namespace = &system.namespaces[i];
    if namespace.jurisdiction.is_empty() {
        return;
    }
    let law = system.regions.get(&member.region).map_or("", |r| r.jurisdiction.as_str());
    if law != namespace.jurisdiction {
        let place = if law.is_empty() { "no known jurisdiction".to_string() } else { format!("the jurisdiction {law}") };
        let what = format!("{} is in {place}, and data of `{}` must stay in {}", member.name, namespace.name, namespace.jurisdiction);
        let why = "a voter holds a whole copy of the data";
        let fix = format!("list only members in {} under `members`", namespace.jurisdiction);
        out.push(Finding::error("C031", field, what, why, fix));
    }
}

fn etcd(system: &System, out: &mut Vec<Finding>) {
    let name = system.etcd_namespace.as_str();
    let order = match system.namespaces.iter().find(|n| n.name == name) {
        Some(namespace) => namespace.order,
        None if name.is_empty() || name == "default" => system.order,
        None => {
            let names = system.namespaces.iter().map(|n| n.name.as_str()).chain(["default"]);
            let guess = nearest(name, names).map(|n| format!("; did you mean `{n}`?")).unwrap_or_default();
            let what = format!("there is no namespace `{name}`{guess}");
            out.push(Finding::error("C052", "etcd.namespace", what, "the etcd API would have nothing to serve", "name one that exists"));
            return;
        }
    };
    if order == Order::PerKey && matches!(system.network, Network::Stream { .. }) {
        let field = if name.is_empty() || name == "default" { "system.order" } else { "etcd.namespace" };
        let what = "the etcd API is to serve a namespace ordered per key".to_string();
        let why = "every etcd reply carries the one revision that the whole store has reached, and per key there is none";
        let fix = "order it `total`; put what should be ordered per key into a namespace of its own, which the native API serves";
        out.push(Finding::error("C050", field, what, why, fix));
    }
}
