//! When to compact by itself, and to which revision.
//!
//! A node asks now and then, with its clock and the current revision, and proposes what comes out. Two rules, as in etcd: keep
//! what is younger than a period, or keep so many revisions. Pure: samples in, a revision out.

use crate::Revision;
use std::collections::VecDeque;

/// What history to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Retention {
    /// All of it; compaction is the clients' business.
    #[default]
    Everything,
    /// What is younger than this.
    Period {
        /// How long.
        keep_ms: u64,
    },
    /// The newest so many revisions.
    Revisions {
        /// How many.
        keep: i64,
    },
}

/// How often revisions are looked at under [`Retention::Revisions`].
const BY_REVISION_EVERY_MS: u64 = 5 * 60 * 1000;
/// A longer period than this is still compacted this often.
const BY_PERIOD_EVERY_MS_MAX: u64 = 60 * 60 * 1000;
/// How many samples are taken between two compactions.
const SAMPLES: u64 = 10;

/// Decides automatic compactions from samples of the revision over time.
#[derive(Debug, Clone)]
pub struct AutoCompaction {
    retention: Retention,
    /// When which revision was current, oldest first.
    samples: VecDeque<(u64, Revision)>,
    compacted_at_ms: Option<u64>,
    compacted: Revision,
}

impl AutoCompaction {
    /// Starts without any sample: nothing is compacted before a whole period has been seen.
    pub fn new(retention: Retention) -> Self {
        Self { retention, samples: VecDeque::new(), compacted_at_ms: None, compacted: Revision(0) }
    }

    /// How often to call [`sample`](Self::sample).
    pub fn interval_ms(&self) -> Option<u64> {
        match self.retention {
            Retention::Everything => None,
            Retention::Period { .. } => Some((self.every_ms() / SAMPLES).max(1)),
            Retention::Revisions { .. } => Some(BY_REVISION_EVERY_MS),
        }
    }

    /// Takes a sample and says which revision to compact to, if it is time.
    pub fn sample(&mut self, now_ms: u64, current: Revision) -> Option<Revision> {
        let target = match self.retention {
            Retention::Everything => None,
            Retention::Period { keep_ms } => self.by_period(now_ms, current, keep_ms),
            Retention::Revisions { keep } => Some(Revision(current.0.saturating_sub(keep))).filter(|_| self.is_time(now_ms)),
        }?;
        if target <= self.compacted.max(Revision(0)) {
            return None;
        }
        self.compacted = target;
        self.compacted_at_ms = Some(now_ms);
        Some(target)
    }

    // The newest sample that is a period old: what it saw, everyone had a period to read.
    fn by_period(&mut self, now_ms: u64, current: Revision, keep_ms: u64) -> Option<Revision> {
        self.samples.push_back((now_ms, current));
        let old = self.samples.partition_point(|(at_ms, _)| at_ms.saturating_add(keep_ms) <= now_ms);
        self.samples.drain(..old.saturating_sub(1));
        if old == 0 || !self.is_time(now_ms) {
            return None;
        }
        self.samples.front().map(|&(_, revision)| revision)
    }

    fn is_time(&self, now_ms: u64) -> bool {
        self.compacted_at_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= self.every_ms())
    }

    fn every_ms(&self) -> u64 {
        match self.retention {
            Retention::Period { keep_ms } => keep_ms.min(BY_PERIOD_EVERY_MS_MAX),
            Retention::Everything | Retention::Revisions { .. } => BY_REVISION_EVERY_MS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    #[test]
    fn nothing_younger_than_the_period_is_compacted() {
        for keep_ms in [HOUR_MS / 6, HOUR_MS, 10 * HOUR_MS] {
            let mut auto = AutoCompaction::new(Retention::Period { keep_ms });
            let step_ms = auto.interval_ms().unwrap();
            let mut last_ms = None;
            for step in 0..1000 {
                let now_ms = step * step_ms;
                // The revision is the time in steps: what is compacted tells when it was current.
                let Some(target) = auto.sample(now_ms, Revision(step as i64 + 1)) else { continue };
                let current_until_ms = (target.0 as u64 - 1) * step_ms;
                assert!(now_ms - current_until_ms >= keep_ms, "{target} at {now_ms}");
                assert!(now_ms - current_until_ms < keep_ms + 2 * step_ms, "{target} at {now_ms} is late");
                let since_ms = now_ms - last_ms.unwrap_or(0);
                assert!(since_ms >= keep_ms.min(HOUR_MS), "compacted again after {since_ms} ms");
                last_ms = Some(now_ms);
            }
            assert!(last_ms.is_some());
            assert!(auto.samples.len() as u64 <= keep_ms / step_ms + 2, "samples are bounded");
        }
    }

    #[test]
    fn an_idle_store_is_compacted_once() {
        let mut auto = AutoCompaction::new(Retention::Period { keep_ms: HOUR_MS });
        let targets: Vec<_> = (0..100).filter_map(|step| auto.sample(step * HOUR_MS / 10, Revision(7))).collect();
        assert_eq!(targets, [Revision(7)]);
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let mut auto = AutoCompaction::new(Retention::Revisions { keep: 100 });
        assert_eq!(auto.sample(0, Revision(99)), None);
        assert_eq!(auto.sample(0, Revision(100)), None);
        assert_eq!(auto.sample(0, Revision(150)), Some(Revision(50)));
        assert_eq!(auto.sample(1000, Revision(500)), None, "too soon");
        assert_eq!(auto.sample(BY_REVISION_EVERY_MS, Revision(500)), Some(Revision(400)));
        assert_eq!(auto.sample(2 * BY_REVISION_EVERY_MS, Revision(500)), None, "nothing new");
        assert_eq!(AutoCompaction::new(Retention::Everything).sample(0, Revision(9)), None);
    }
}
