//! Scenarios as text: a few replicas' votes, driven message by message, and what must hold at the end of each step.
//!
//! A file tells one story: the figures and counter-examples of the papers, each named for what it proves. Nothing happens that the
//! file does not say: a message stays on its way until it is delivered or lost, a timer fires when a replica is told to wake. The
//! votes are the real ones, started from the registry; there is no replica around them, no batching, no execution. That two
//! replicas never decide one instance differently is checked at every step, said or not.
//!
//! A line is a step; `#` begins a remark. Replicas are `r0`, `r1`, …; several are written one after the other; `all` are all.
//!
//! | step | what happens |
//! | --- | --- |
//! | `strategy raft` | which protocol; first of all |
//! | `message_bytes 1` | how many bytes of values one message carries, at least one value; before `replicas` |
//! | `replicas 5` | how many vote |
//! | `r0 submits a` | it is given a batch of this name, which interferes with everything; `a of k1 k2`: with these keys only |
//! | `r0 seals x` | it is given a seal of this name |
//! | `deliver r0 > r1` | what is on its way arrives, in the order in which it was sent; `deliver r0 > r1 Vote`: only such messages, `last`: only the last one |
//! | `lose r0 > r1 r2` | it never arrives; with a kind as well |
//! | `repeat r0 > r1 Vote` | what is on its way is doubled |
//! | `talk r0 r1 r2` | whatever is on its way among them arrives, and what follows from it, until nothing is |
//! | `elect r0 by r1 r2` | it wakes and talks with these, until it says that it leads and no further |
//! | `r0 wakes` | time passes until its next timer is due, and only it wakes |
//! | `run r0 r1 for 2 s` | time passes for them: they talk and wake; `run r0 r1 \| r2 for 2 s`: on both sides of a split at once |
//! | `r0 holds its disk` | what it persists from now on is not durable, until `r0 syncs` |
//! | `r0 crashes`, `r0 restarts` | what is not durable is gone, and so is what it had not sent; it starts from its records |
//! | `r0 hears that r1 is down` | a hint; or `up` |
//! | `r0 wants 0.3` | its execution waits for this instance |
//! | `r0 reads` | it is asked for a frontier |
//! | `heal` | all restart, and time passes for all until everything submitted is decided or given up |
//! | `expect r0 decided a b` | it has decided these and nothing else, besides no-ops; `expect r0 decided nothing` |
//! | `expect r0 decided a at 0.3` | and there; `noop at 0.3`; `nothing at 0.3` |
//! | `expect r0 is leader` | as it says of itself |
//! | `expect r0 noted elected` | it has passed this transition since it was started first; `never noted` |
//! | `expect r0 refused a` | it has given it up |
//! | `expect r0 granted` | it has been given a frontier for its last read; `expect r0 granted nothing` |
//! | `expect r0 > r1 Vote` | such a message is on its way; `expect no r0 > r1 Vote` |
//! | `expect a before b` | every replica that has decided both executes them in this order |

mod parse;
mod play;

pub use parse::Step;

/// Why a scenario does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fails {
    /// In which line, counted from 1.
    pub line: usize,
    /// That line.
    pub step: String,
    /// What is wrong.
    pub why: String,
}

impl std::fmt::Display for Fails {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "line {}, `{}`: {}", self.line, self.step, self.why)
    }
}

/// Plays a scenario to its end.
pub fn play(text: &str) -> Result<(), Fails> {
    let mut stage: Option<play::Stage> = None;
    let (mut strategy, mut message_bytes) = (None, 1 << 16);
    for (index, line) in text.lines().enumerate() {
        let step = line.split('#').next().unwrap_or_default().trim();
        if step.is_empty() {
            continue;
        }
        let fails = |why: String| Fails { line: index + 1, step: step.to_owned(), why };
        match (parse::step(step).map_err(fails)?, &mut stage) {
            (Step::Strategy(name), _) => {
                strategy = Some(concur_decision::find(&name).ok_or_else(|| fails(format!("there is no strategy `{name}`")))?);
            }
            (Step::MessageBytes(bytes), None) => message_bytes = bytes,
            (Step::Replicas(count), stage) => {
                let strategy = strategy.ok_or_else(|| fails("which strategy is not said yet".into()))?;
                *stage = Some(play::Stage::new(strategy, count, message_bytes).map_err(fails)?);
            }
            (step, Some(stage)) => stage.take(step).map_err(fails)?,
            (_, None) => return Err(fails("how many replicas there are is not said yet".into())),
        }
    }
    Ok(())
}
