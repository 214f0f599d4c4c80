//! The words of a scenario.

use concur_core::{Instance, LaneId, ReplicaId, ReplicaSet};
use std::time::Duration;

/// One step of a scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Which protocol.
    Strategy(String),
    /// How many bytes of values one message carries.
    MessageBytes(usize),
    /// How many vote.
    Replicas(usize),
    /// A batch is submitted; without keys it interferes with everything.
    Submit(ReplicaId, String, Vec<String>),
    /// A seal is submitted.
    Seal(ReplicaId, String),
    /// Messages on these links arrive.
    Deliver(Links),
    /// They are lost.
    Lose(Links),
    /// They are doubled.
    Repeat(Links),
    /// Everything on its way among these arrives.
    Talk(Who),
    /// A replica is made to lead with the help of these.
    Elect(ReplicaId, Who),
    /// A replica's next timer fires.
    Wake(ReplicaId),
    /// Time passes for these, who talk within each group.
    Run(Vec<Who>, Duration),
    /// What is persisted is not durable.
    Hold(ReplicaId),
    /// It becomes so.
    Sync(ReplicaId),
    /// A process ends.
    Crash(ReplicaId),
    /// It starts again.
    Restart(ReplicaId),
    /// A hint.
    Hint(ReplicaId, ReplicaId, bool),
    /// Execution waits.
    Want(ReplicaId, Instance),
    /// A read waits.
    Read(ReplicaId),
    /// Everything is mended.
    Heal,
    /// Something must hold.
    Expect(Claim),
}

/// Some replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// All of them.
    All,
    /// These.
    These(ReplicaSet),
}

/// Messages on their way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// From whom.
    pub from: Who,
    /// To whom.
    pub to: Who,
    /// Of which kind.
    pub kind: Option<String>,
    /// Only the last that was sent on each link.
    pub last: bool,
}

/// What must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// Each of these has decided these batches and no others.
    Decided(Who, Vec<String>),
    /// Each of these has decided this at an instance: a name, `noop` or `nothing`.
    DecidedAt(Who, String, Instance),
    /// What each says of itself.
    Is(Who, String),
    /// Each has passed a transition, or never.
    Noted(Who, String, bool),
    /// Each has given a batch up.
    Refused(Who, String),
    /// Each was granted its last read, or not.
    Granted(Who, bool),
    /// Such messages are on their way, or none.
    OnTheWay(Links, bool),
    /// The first is executed before the second wherever both are decided.
    Before(String, String),
}

/// Reads one step.
pub(super) fn step(text: &str) -> Result<Step, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let unknown = || format!("`{text}` is no step");
    match words[..] {
        ["strategy", name] => Ok(Step::Strategy(name.into())),
        ["message_bytes", bytes] => Ok(Step::MessageBytes(bytes.parse().map_err(|_| unknown())?)),
        ["replicas", count] => Ok(Step::Replicas(count.parse().map_err(|_| unknown())?)),
        ["heal"] => Ok(Step::Heal),
        ["deliver", ref rest @ ..] => Ok(Step::Deliver(links(rest)?)),
        ["lose", ref rest @ ..] => Ok(Step::Lose(links(rest)?)),
        ["repeat", ref rest @ ..] => Ok(Step::Repeat(links(rest)?)),
        ["talk", ref rest @ ..] => Ok(Step::Talk(who(rest)?)),
        ["elect", candidate, "by", ref rest @ ..] => Ok(Step::Elect(replica(candidate).ok_or_else(unknown)?, who(rest)?)),
        ["run", ref rest @ .., "for", amount, unit] => {
            let groups = rest.split(|word| *word == "|").map(who).collect::<Result<_, _>>()?;
            Ok(Step::Run(groups, duration(amount, unit)?))
        }
        ["expect", ref rest @ ..] => Ok(Step::Expect(claim(rest)?)),
        [who, ref rest @ ..] => own(replica(who).ok_or_else(unknown)?, rest).ok_or_else(unknown),
        [] => Err(unknown()),
    }
}

fn own(who: ReplicaId, rest: &[&str]) -> Option<Step> {
    Some(match *rest {
        ["submits", name] => Step::Submit(who, name.into(), Vec::new()),
        ["submits", name, "of", ref keys @ ..] => Step::Submit(who, name.into(), keys.iter().map(|&key| key.into()).collect()),
        ["seals", name] => Step::Seal(who, name.into()),
        ["wakes"] => Step::Wake(who),
        ["holds", "its", "disk"] => Step::Hold(who),
        ["syncs"] => Step::Sync(who),
        ["crashes"] => Step::Crash(who),
        ["restarts"] => Step::Restart(who),
        ["hears", "that", other, "is", how @ ("up" | "down")] => Step::Hint(who, replica(other)?, how == "up"),
        ["wants", at] => Step::Want(who, instance(at)?),
        ["reads"] => Step::Read(who),
        _ => return None,
    })
}

fn claim(words: &[&str]) -> Result<Claim, String> {
    let unknown = || format!("`{}` is nothing to expect", words.join(" "));
    if let [first, "before", second] = *words {
        return Ok(Claim::Before(first.into(), second.into()));
    }
    if words.contains(&">") {
        let (rest, there) = words.strip_prefix(&["no"]).map_or((words, true), |rest| (rest, false));
        return Ok(Claim::OnTheWay(links(rest)?, there));
    }
    let split = words.iter().position(|word| *word != "all" && replica(word).is_none()).ok_or_else(unknown)?;
    let (replicas, rest) = words.split_at(split);
    let who = who(replicas)?;
    Ok(match *rest {
        ["decided", name, "at", at] => Claim::DecidedAt(who, name.into(), instance(at).ok_or_else(unknown)?),
        ["decided", "nothing"] => Claim::Decided(who, Vec::new()),
        ["decided", ref names @ ..] => Claim::Decided(who, names.iter().map(|&name| name.into()).collect()),
        ["is", ref role @ ..] => Claim::Is(who, role.join(" ")),
        ["noted", ref note @ ..] => Claim::Noted(who, note.join(" "), true),
        ["never", "noted", ref note @ ..] => Claim::Noted(who, note.join(" "), false),
        ["refused", name] => Claim::Refused(who, name.into()),
        ["granted", "nothing"] => Claim::Granted(who, false),
        ["granted"] => Claim::Granted(who, true),
        _ => return Err(unknown()),
    })
}

fn links(words: &[&str]) -> Result<Links, String> {
    let unknown = || format!("`{}` names no links; it is `r0 > r1`", words.join(" "));
    let arrow = words.iter().position(|word| *word == ">").ok_or_else(unknown)?;
    let (from, to) = (&words[..arrow], &words[arrow + 1..]);
    let end = to.iter().position(|word| *word != "all" && replica(word).is_none()).unwrap_or(to.len());
    let (to, mut rest) = to.split_at(end);
    let last = rest.last() == Some(&"last");
    if last {
        rest = &rest[..rest.len() - 1];
    }
    let kind = match rest {
        [] => None,
        [kind] => Some((*kind).to_owned()),
        _ => return Err(unknown()),
    };
    Ok(Links { from: who(from)?, to: who(to)?, kind, last })
}

fn who(words: &[&str]) -> Result<Who, String> {
    match words {
        [] => Err("nobody is named".into()),
        ["all"] => Ok(Who::All),
        some => {
            let one = |word: &&str| replica(word).ok_or_else(|| format!("`{word}` is no replica; it is `r0`"));
            some.iter().map(one).collect::<Result<ReplicaSet, _>>().map(Who::These)
        }
    }
}

fn replica(word: &str) -> Option<ReplicaId> {
    word.strip_prefix('r')?.parse().ok().filter(|n| *n < concur_core::REPLICAS_MAX as u8).map(ReplicaId)
}

fn instance(word: &str) -> Option<Instance> {
    let (lane, number) = word.split_once('.')?;
    Some(Instance { lane: LaneId(lane.parse().ok()?), number: number.parse().ok()? })
}

fn duration(amount: &str, unit: &str) -> Result<Duration, String> {
    let amount: u64 = amount.parse().map_err(|_| format!("`{amount}` is no number"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(amount)),
        "s" => Ok(Duration::from_secs(amount)),
        _ => Err(format!("`{unit}` is no unit of time; it is `ms` or `s`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_as_they_are_meant() {
        let r = ReplicaId;
        assert_eq!(step("r1 submits a of k1 k2"), Ok(Step::Submit(r(1), "a".into(), vec!["k1".into(), "k2".into()])));
        let to = Who::These([r(1), r(2)].into_iter().collect());
        let vote = Links { from: Who::These(ReplicaSet::one(r(0))), to, kind: Some("Vote".into()), last: true };
        assert_eq!(step("deliver r0 > r1 r2 Vote last"), Ok(Step::Deliver(vote)));
        assert_eq!(step("run all for 2 s"), Ok(Step::Run(vec![Who::All], Duration::from_secs(2))));
        let at = Instance { lane: LaneId(2), number: 7 };
        let claim = Claim::DecidedAt(Who::These(ReplicaSet::one(r(3))), "noop".into(), at);
        assert_eq!(step("expect r3 decided noop at 2.7"), Ok(Step::Expect(claim)));
        assert_eq!(
            step("expect all never noted suffix truncated"),
            Ok(Step::Expect(Claim::Noted(Who::All, "suffix truncated".into(), false)))
        );
        assert!(step("r0 explodes").is_err());
        assert!(step("deliver r0 r1").is_err());
    }
}
