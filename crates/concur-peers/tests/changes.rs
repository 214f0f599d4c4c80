//! What a change leads to, and what is refused.

use concur_core::{Epoch, Phase, ReplicaId, ReplicaSet, Wire};
use concur_peers::{Change, ChangeError, Configuration, Member, Newcomer, Role};

fn three() -> Configuration {
    let member = |n: u8| Member {
        id: ReplicaId(n),
        name: format!("n{}", n + 1),
        weight: 1,
        peer: format!("h{n}:2380"),
        incarnation: 100 + u64::from(n),
        ..Member::default()
    };
    Configuration::genesis("raft", (0..3).map(member).collect())
}

fn newcomer(name: &str) -> Newcomer {
    Newcomer { name: name.into(), peer: format!("{name}:2380"), ..Newcomer::default() }
}

fn next(configuration: &Configuration, change: Change) -> Result<Configuration, ChangeError> {
    configuration.next(&change, concur_decision::find)
}

fn set(ids: &[u8]) -> ReplicaSet {
    ids.iter().map(|&id| ReplicaId(id)).collect()
}

#[test]
fn a_newcomer_observes_first_and_votes_once_it_is_promoted() {
    let added = next(&three(), Change::Add { newcomer: newcomer("n4"), votes: true }).unwrap();
    assert_eq!((added.epoch, added.voters(), added.everyone()), (Epoch(1), set(&[0, 1, 2]), set(&[0, 1, 2, 3])));
    assert!(!added.may_vote(ReplicaId(3), 7));
    let promoted = next(&added, Change::Promote { id: ReplicaId(3), incarnation: 7 }).unwrap();
    assert_eq!(promoted.voters(), set(&[0, 1, 2, 3]));
    assert!(promoted.may_vote(ReplicaId(3), 7));
    assert!(!promoted.may_vote(ReplicaId(3), 8), "another disk has forgotten what it promised");
    assert_eq!(Configuration::from_bytes(&promoted.to_bytes()), Ok(promoted));
}

#[test]
fn who_takes_a_place_takes_it_in_one_step() {
    let added = next(&three(), Change::Replace { id: ReplicaId(0), newcomer: newcomer("n4") }).unwrap();
    assert_eq!(added.voters(), set(&[0, 1, 2]), "nobody leaves before");
    let replaced = next(&added, Change::Promote { id: ReplicaId(3), incarnation: 7 }).unwrap();
    assert_eq!((replaced.voters(), replaced.everyone()), (set(&[1, 2, 3]), set(&[1, 2, 3])));
    // Whose place was to be taken left by itself: the newcomer is promoted all the same.
    let left = next(&added, Change::Remove { id: ReplicaId(0) }).unwrap();
    assert_eq!(left.member(ReplicaId(3)).unwrap().role, Role::Promised { replaces: None });
}

#[test]
fn who_leads_first_is_said_by_one_change_and_not_by_those_after_it() {
    let led = next(&three(), Change::Lead { id: ReplicaId(2) }).unwrap();
    assert_eq!(led.first, Some(ReplicaId(2)));
    let moved = next(&led, Change::Move { id: ReplicaId(0), peer: "elsewhere:1".into(), client: String::new() }).unwrap();
    assert_eq!(moved.first, None);
}

#[test]
fn nobody_soon_has_the_number_of_a_stranger() {
    let mut configuration = three();
    let stranger = configuration.number_of_a_stranger();
    for n in 0..40 {
        configuration = next(&configuration, Change::Add { newcomer: newcomer(&format!("a{n}")), votes: false }).unwrap();
        assert!(configuration.member(stranger).is_none());
    }
}

#[test]
fn numbers_are_not_given_again_soon() {
    let mut now = three();
    let mut given = Vec::new();
    for n in 0..70 {
        now = next(&now, Change::Add { newcomer: newcomer(&format!("x{n}")), votes: false }).unwrap();
        let id = now.named(&format!("x{n}")).unwrap().id;
        given.push(id.0);
        now = next(&now, Change::Remove { id }).unwrap();
    }
    assert_eq!(given[..61], (3..64).collect::<Vec<u8>>()[..]);
    assert_eq!(given[61..], (3..12).collect::<Vec<u8>>()[..], "the founders' numbers are taken");
}

#[test]
fn a_disk_that_was_rebuilt_votes_only_under_the_life_that_is_named() {
    let rebuilt = next(&three(), Change::Rebuild { id: ReplicaId(1) }).unwrap();
    assert_eq!((rebuilt.voters(), rebuilt.member(ReplicaId(1)).unwrap().incarnation), (set(&[0, 2]), 0));
    assert_eq!(next(&rebuilt, Change::Promote { id: ReplicaId(1), incarnation: 0 }), Err(ChangeError::NotSeen { name: "n2".into() }));
    let back = next(&rebuilt, Change::Promote { id: ReplicaId(1), incarnation: 9 }).unwrap();
    assert!(back.may_vote(ReplicaId(1), 9));
    assert!(!back.may_vote(ReplicaId(1), 101));
}

#[test]
fn a_strategy_takes_along_only_what_it_can() {
    let epaxos = next(&three(), Change::Switch { strategy: "epaxos".into() }).unwrap();
    assert_eq!(epaxos.first, None);
    let lead = Change::Lead { id: ReplicaId(1) };
    assert!(matches!(next(&epaxos, lead.clone()), Err(ChangeError::NoLeader { .. })));
    assert_eq!(next(&three(), lead).unwrap().first, Some(ReplicaId(1)));
    let heavy = next(&three(), Change::Weigh { id: ReplicaId(0), weight: 3 }).unwrap();
    let quorums = heavy.quorums(&concur_decision::find("raft").unwrap());
    assert!(quorums.is_quorum(Phase::Accept, set(&[0])), "three of five");
    assert!(!quorums.is_quorum(Phase::Accept, set(&[1, 2])));
    assert!(matches!(next(&heavy, Change::Switch { strategy: "epaxos".into() }), Err(ChangeError::Weights { .. })));
}

#[test]
fn sizes_that_were_chosen_must_fit_whoever_votes_next() {
    let chosen = Configuration { counts: Some((2, 2, 3)), ..three() };
    let sizes = |change: Change| match next(&chosen, change) {
        Err(ChangeError::Sizes { voters, .. }) => voters,
        other => panic!("{other:?}"),
    };
    // A vote that could never be given is not promised.
    assert_eq!(sizes(Change::Add { newcomer: newcomer("n4"), votes: true }), 4);
    let observed = next(&chosen, Change::Add { newcomer: newcomer("n4"), votes: false }).unwrap();
    let promoted = next(&observed, Change::Promote { id: ReplicaId(3), incarnation: 7 });
    assert!(matches!(promoted, Err(ChangeError::Sizes { voters: 4, .. })), "{promoted:?}");
    // Whoever takes a place leaves as many.
    let replaced = next(&chosen, Change::Replace { id: ReplicaId(1), newcomer: newcomer("n4") }).unwrap();
    assert_eq!(next(&replaced, Change::Promote { id: ReplicaId(3), incarnation: 7 }).unwrap().voters().len(), 3);
    // Nor is a weight taken that would count for nothing.
    assert_eq!(sizes(Change::Weigh { id: ReplicaId(0), weight: 2 }), 3);
}

#[test]
fn sizes_meet_as_each_protocol_needs() {
    let sizes = |strategy: &str, counts| {
        let strategy = concur_decision::find(strategy).unwrap();
        Configuration { counts: Some(counts), ..three() }.fits(&strategy).is_ok()
    };
    for strategy in ["raft", "multipaxos", "mencius", "fastpaxos"] {
        assert!(sizes(strategy, (3, 1, 3)), "{strategy}");
        assert!(!sizes(strategy, (1, 3, 3)), "{strategy}: two are elected at once");
    }
    assert!(sizes("paxos", (1, 3, 3)), "ballots are their proposers' own");
    assert!(sizes("epaxos", (2, 2, 2)));
    assert!(!sizes("epaxos", (3, 2, 3)), "it asks for none of its own");
}

#[test]
fn each_refusal_says_what_to_do() {
    let now = three();
    let only = next(&next(&now, Change::Remove { id: ReplicaId(0) }).unwrap(), Change::Remove { id: ReplicaId(1) }).unwrap();
    let taken = Newcomer { peer: "h1:2380".into(), ..newcomer("n9") };
    let refused: Vec<(Change, &Configuration, &str)> = vec![
        (Change::Remove { id: ReplicaId(9) }, &now, "there is no member r9; `concur members` lists who is in"),
        (Change::Remove { id: ReplicaId(2) }, &only, "n3 is the only voter"),
        (Change::Rebuild { id: ReplicaId(2) }, &only, "n3 is the only voter"),
        (Change::Add { newcomer: newcomer("n2"), votes: true }, &now, "there is a member named n2 already"),
        (Change::Add { newcomer: taken, votes: true }, &now, "the peer address h1:2380 is n2's"),
        (Change::Add { newcomer: newcomer(""), votes: true }, &now, "the name is empty or too long"),
        (Change::Promote { id: ReplicaId(1), incarnation: 5 }, &now, "nothing would change: n2 votes"),
        (Change::Weigh { id: ReplicaId(1), weight: 1 }, &now, "nothing would change: the vote of n2 weighs 1"),
        (Change::Weigh { id: ReplicaId(1), weight: 0 }, &now, "a weight lies between 1 and 4294967295; 0 does not"),
        (Change::Switch { strategy: "raft".into() }, &now, "nothing would change: the strategy is raft"),
        (Change::Switch { strategy: "rafft".into() }, &now, "there is no strategy `rafft`; `concur strategies` lists them"),
        (Change::Move { id: ReplicaId(0), peer: "h1:2380".into(), client: String::new() }, &now, "the peer address h1:2380 is n2's"),
    ];
    for (change, configuration, says) in refused {
        let error = next(configuration, change.clone()).expect_err(says);
        assert!(error.to_string().starts_with(says), "{change}: {error}");
        assert_eq!(ChangeError::from_bytes(&error.to_bytes()), Ok(error));
    }
}

#[test]
fn a_configuration_that_could_not_decide_with_who_is_there_is_shown() {
    let raft = concur_decision::find("raft").unwrap();
    assert_eq!(three().blocked(&raft, set(&[0, 2, 9])), None);
    let blocked = three().blocked(&raft, set(&[2, 9])).unwrap();
    assert_eq!(blocked, ChangeError::NoQuorum { voters: "n1, n2, n3".into(), close: "n3".into() });
}

#[test]
fn a_configuration_that_was_tampered_with_is_not_read() {
    let bytes = three().to_bytes();
    assert!((0..bytes.len()).all(|n| Configuration::from_bytes(&bytes.slice(..n)).is_err()));
    let mut twice = three();
    twice.members[1].id = ReplicaId(0);
    assert!(Configuration::from_bytes(&twice.to_bytes()).is_err());
    twice = three();
    twice.members[0].name = "x".repeat(2000);
    assert!(Configuration::from_bytes(&twice.to_bytes()).is_err());
}
