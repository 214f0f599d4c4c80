//! A longer text on each code.

/// What a code means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Explanation {
    /// The code.
    pub code: &'static str,
    /// It in a few words.
    pub title: &'static str,
    /// More.
    pub text: &'static str,
}

/// The explanation of a code, in upper or lower case.
pub fn explain(code: &str) -> Option<&'static Explanation> {
    EXPLANATIONS.iter().find(|e| e.code.eq_ignore_ascii_case(code))
}

/// All explanations, in the order of their codes.
pub fn explanations() -> &'static [Explanation] {
    EXPLANATIONS
}

const fn e(code: &'static str, title: &'static str, text: &'static str) -> Explanation {
    Explanation { code, title, text }
}

const EXPLANATIONS: &[Explanation] = &[
    e(
        "C001",
        "not TOML",
        "The file breaks the rules of TOML (toml.io) at this place. Common causes: a text without quotes, a key given \
       twice, a `[table]` where a list needs `[[table]]`. The rest of the file is read as far as it makes sense.",
    ),
    e(
        "C002",
        "unknown key",
        "Keys that mean nothing are refused rather than ignored, so that a misspelt limit or timeout does not \
       silently keep its default.",
    ),
    e(
        "C003",
        "duration without a unit",
        "Durations are texts with a number and a unit: ns, us, ms, s, min or h. A bare number is \
       refused, since etcd's flags, for one, mean milliseconds by it and most other programs seconds.",
    ),
    e(
        "C004",
        "wrong kind of value",
        "The value is of another kind than the key takes, or a word that is not among its choices. Only \
       choices that are built exist.",
    ),
    e(
        "C005",
        "unknown strategy",
        "`decision_making` names an entry of the registry, which `concur strategies` prints with the order, \
       quorums, delays and reads of each.",
    ),
    e("C006", "missing key", "The key has no default that could be right: a member needs a name and an address for its peers."),
    e(
        "C010",
        "quorum_size against the members",
        "`quorum_size` says how many replicas vote. All listed members vote, so the two numbers \
       must agree. Leave `quorum_size` out when members are listed.",
    ),
    e(
        "C011",
        "name used twice",
        "Peers, quorums and data directories know a member by its name. Two processes under one name would \
       cast one vote twice, and two majorities could then disagree.",
    ),
    e(
        "C012",
        "address used twice",
        "Only one process can listen on a port of a machine, and peers dial the address they find in the list.",
    ),
    e("C013", "not an address", "Addresses are `host:port`, where the host is a name, an IPv4 address, or an IPv6 address in brackets."),
    e(
        "C014",
        "unknown region",
        "A member's region must be described by a `[regions.NAME]` table, even an empty one, so that a misspelt \
       region is not taken for another place.",
    ),
    e(
        "C015",
        "unknown member of a namespace",
        "A namespace lists names of members. A name that is not there would still count in the \
       size of every quorum, and its vote never come.",
    ),
    e(
        "C016",
        "namespace exists already",
        "Each namespace is a group with its own history; requests choose it by name. `default` is \
       there without being listed.",
    ),
    e(
        "C017",
        "not a name",
        "Names become directories, metric labels and parts of URLs, so they are kept to letters, digits, `-`, `_` \
       and `.`, at most 64.",
    ),
    e(
        "C020",
        "quorums that do not meet",
        "Consensus rests on one fact: any quorum that elects or reads shares a member with any quorum \
       that wrote. If there are two that share none, a network split can let both go on, each sure to be alone. Of N voters with \
       quorums of `prepare` and `accept`, prepare + accept must exceed N (Howard, Malkhi and Spiegelman 2016); where leaders are \
       elected for a term that anybody may win, two `prepare` quorums must meet too. The message shows two groups that never meet.",
    ),
    e("C021", "impossible quorum", "A quorum is a number of voters from one to all."),
    e(
        "C022",
        "quorum not of a size that the strategy needs",
        "A strategy that decides in one round trip must be able to tell, after a crash, what may \
       have been decided from those that are left. That needs larger quorums: ⌈3N/4⌉ in Fast Paxos, which is 4 of 5; `concur strategies` shows those of each. EPaxos' sizes \
       are proved together for each number of voters, and it takes no others.",
    ),
    e(
        "C023",
        "an even number of voters",
        "A majority of four is three, so four survive one loss, as three do; with one more machine that \
       may fail and one more vote to wait for.",
    ),
    e(
        "C024",
        "weights the strategy cannot use",
        "Weighted votes need a quorum rule that is a plain sum. Strategies that decide in one \
       round trip prove their recovery for equal votes.",
    ),
    e(
        "C025",
        "a vote that weighs nothing",
        "A listed member votes. A weight of zero would make it an observer, which is a role of its own.",
    ),
    e("C026", "a single voter", "One voter decides alone and durably, which is right for development. It survives no failure."),
    e(
        "C027",
        "too many voters",
        "Every write goes to every voter, and a leader's work grows with their number. Seven survive three losses.",
    ),
    e("C028", "counts and weights", "`[quorums]` counts members, weights count votes. One rule must decide what is enough."),
    e(
        "C029",
        "one member is a majority",
        "With more than half of all votes a member decides alone; the others' votes never matter, and \
       nothing goes on without it.",
    ),
    e(
        "C030",
        "a region that must be survivable is not",
        "To survive the loss of whole regions, what is left must still hold a quorum. Of \
       two regions, one holds at least half of the votes, so two can never survive the loss of either; three can, with votes spread \
       evenly. A third voter in a third place is enough. It holds a whole copy as the others do: no voter holds less.",
    ),
    e(
        "C031",
        "a voter outside the jurisdiction",
        "A voter holds a whole copy. A namespace with a `jurisdiction` may only have voters in \
       regions of that jurisdiction, and a region without one is in none.",
    ),
    e(
        "C032",
        "faster than the distance allows",
        "Before a write is acknowledged a quorum must have answered. The time to the nearest \
       quorum and back is a bound for every strategy; no tuning gets below it.",
    ),
    e("C033", "a link that cannot be used", "Each `[[link]]` gives one round trip between two described regions, or within one."),
    e("C034", "round trips are missing", "Predictions need all of them. Within a region zero is assumed unless a link says otherwise."),
    e(
        "C035",
        "the strategy misses the goal",
        "A quorum could answer in time, but this strategy adds the way to its leader. A strategy \
       without a leader, or another place for the leader, may meet the goal.",
    ),
    e(
        "C036",
        "one voter is enough",
        "With `accept` 1 a write is acknowledged when one disk holds it, and with `prepare` 1 one voter alone says what was decided. \
       Both are quorums as long as the other phase takes all the others. But a disk that is lost takes along what it alone held, and a member \
       that is given an old copy of its disk needs nobody to go on from there: others refuse it, and that is found only when they meet.",
    ),
    e(
        "C040",
        "heartbeat at or above the election timeout",
        "Followers take over when they hear nothing for an election timeout. The \
       heartbeat must come several times within it; ten times is usual.",
    ),
    e(
        "C041",
        "election timeout against the round trip",
        "An election takes about two round trips, and a leader's heartbeat half of one. \
       Below one round trip no election can end; below about five, jitter causes needless ones.",
    ),
    e("C042", "zero", "A limit or a timeout of zero would stop everything. Leave it out for the default."),
    e(
        "C043",
        "few heartbeats an election timeout",
        "With fewer than three heartbeats in an election timeout one lost message can depose \
       a healthy leader.",
    ),
    e(
        "C044",
        "requests too large",
        "A request travels whole, to every voter, in front of everything behind it. Keep values small; keep \
       large objects in an object store and their names here.",
    ),
    e(
        "C050",
        "etcd on a namespace ordered per key",
        "The etcd API promises one revision for the whole store, which every write raises by \
       one. A namespace ordered per key lets writes to different keys pass each other, so that there is no such number.",
    ),
    e(
        "C051",
        "per key under a total order",
        "A strategy with one lane orders all commands anyway. `per-key` then only gives up the \
       namespace's revision.",
    ),
    e(
        "C052",
        "no such namespace",
        "`[etcd] namespace` chooses which namespace the etcd API serves: `default` or one under `[[namespace]]`.",
    ),
    e(
        "C060",
        "open to other machines without TLS",
        "Listeners beyond loopback carry data and votes in the clear, and take them from \
       anybody. Give them TLS: write `https://` before their addresses and name certificates (`--cert-file`, `--key-file`, \
       `--trusted-ca-file` and their `--peer-` twins, or `[security]` in a file). Say `insecure = true` (or `--insecure`) only where the network itself keeps others out.",
    ),
    e(
        "C061",
        "the data directory belongs to another system",
        "A data directory remembers its cluster, its member and the member list it \
       voted in. Starting it under another list would count its votes in quorums that never met the old ones. Correct the list, or \
       start with an empty directory.",
    ),
    e("C062", "no such member", "A node is started under the name of a listed member."),
    e(
        "C063",
        "this node cannot join",
        "A node without data that joins (`--initial-cluster-state existing`) asks the members which one it is. None of them answered, \
       or none lists it: run `concur member add` first, and correct the addresses.",
    ),
    e(
        "C064",
        "TLS without certificates",
        "An address that begins with `https://` is served by TLS, for which a listener shows a certificate and proves that it has the \
       key: name both (`--cert-file` and `--key-file`, for peers `--peer-cert-file` and `--peer-key-file`). `--auto-tls` and \
       `--peer-auto-tls` make one instead, which encrypts and proves nothing about who answers. Whom a certificate must be signed by \
       is said by `--trusted-ca-file` and `--peer-trusted-ca-file`, and by `--cacert` for clients.",
    ),
    e(
        "C065",
        "a certificate's file cannot be read",
        "The path is wrong, or the file is not readable for the user that the node runs as. Keys are usually readable for one user only.",
    ),
    e(
        "C066",
        "a file holds no certificate or key",
        "Files are PEM: text with lines such as `-----BEGIN CERTIFICATE-----`. A DER file is converted with `openssl x509 -inform der`; \
       an encrypted key is decrypted with `openssl pkey`.",
    ),
    e(
        "C067",
        "the key is another certificate's",
        "Whoever shows a certificate proves that it has its key; with this one it could not. `openssl x509 -noout -pubkey -in CERT` and \
       `openssl pkey -pubout -in KEY` print the same text for a pair.",
    ),
    e(
        "C068",
        "a certificate out of its time",
        "A certificate counts between two dates, and whoever verifies it refuses it before and after. Replace the file: nodes look at \
       their files at each handshake, so that no restart is needed. A clock that is wrong has the same effect.",
    ),
    e(
        "C069",
        "no such cipher suite or TLS version",
        "TLS 1.2 and 1.3 are spoken, with the suites of each that encrypt and authenticate at once and have forward secrecy.",
    ),
    e(
        "C070",
        "options of passwords or tokens that cannot be used",
        "`--auth-token` is `simple`, or `jwt` with a sign-method and the files of its keys; `--bcrypt-cost` lies between 4 and 31.",
    ),
];
