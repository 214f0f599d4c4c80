//! How two systems are compared on a machine that never holds still.
//!
//! The systems take turns, A B B A A B B A and so on, so that a drift of the machine hurts both alike; each pair of turns
//! that stand together gives one ratio; the median of the ratios is what is quoted, with the smallest and the largest.

use serde::Serialize;

/// One of the two systems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Side {
    /// Concur.
    Ours,
    /// What it is measured against.
    Theirs,
}

/// Whose turn comes first and second in a round, counted from 0.
pub(crate) fn order(round: usize) -> [Side; 2] {
    if round.is_multiple_of(2) { [Side::Ours, Side::Theirs] } else { [Side::Theirs, Side::Ours] }
}

/// A measured figure of both systems over all rounds, and its ratio.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Paired {
    /// The median of ours.
    pub ours: f64,
    /// The median of theirs.
    pub theirs: f64,
    /// The median of ours over theirs, each ratio from one round.
    pub ratio: f64,
    /// The smallest ratio.
    pub ratio_min: f64,
    /// The largest ratio.
    pub ratio_max: f64,
    /// The ratios in the order of the rounds.
    pub ratios: Vec<f64>,
}

/// Compares the figures of rounds in which both systems have one; none if there is no such round.
pub(crate) fn paired(rounds: impl IntoIterator<Item = (Option<f64>, Option<f64>)>) -> Option<Paired> {
    let pairs: Vec<(f64, f64)> =
        rounds.into_iter().filter_map(|(ours, theirs)| ours.zip(theirs)).filter(|(_, theirs)| *theirs > 0.0).collect();
    let ratios: Vec<f64> = pairs.iter().map(|(ours, theirs)| ours / theirs).collect();
    Some(Paired {
        ours: median(pairs.iter().map(|(ours, _)| *ours))?,
        theirs: median(pairs.iter().map(|(_, theirs)| *theirs))?,
        ratio: median(ratios.iter().copied())?,
        ratio_min: ratios.iter().copied().reduce(f64::min)?,
        ratio_max: ratios.iter().copied().reduce(f64::max)?,
        ratios,
    })
}

/// The middle value, or the mean of the two in the middle; none of nothing.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len().is_multiple_of(2) { Some((values[values.len() / 2 - 1] + upper) / 2.0) } else { Some(upper) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_alternate_so_that_neither_system_always_goes_first() {
        let turns: Vec<Side> = (0..4).flat_map(order).collect();
        assert_eq!(turns, [Side::Ours, Side::Theirs, Side::Theirs, Side::Ours, Side::Ours, Side::Theirs, Side::Theirs, Side::Ours]);
    }

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_there() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([5.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median([4.0, 1.0, 3.0, 100.0]), Some(3.5));
    }

    #[test]
    fn the_ratio_quoted_is_the_median_of_ratios_not_the_ratio_of_medians() {
        let rounds = [(10.0, 5.0), (100.0, 10.0), (30.0, 20.0)].map(|(ours, theirs)| (Some(ours), Some(theirs)));
        let paired = paired(rounds).unwrap();
        assert_eq!((paired.ours, paired.theirs, paired.ratio), (30.0, 10.0, 2.0));
        assert_eq!((paired.ratio_min, paired.ratio_max), (1.5, 10.0));
        assert_eq!(paired.ratios, [2.0, 10.0, 1.5]);
    }

    #[test]
    fn rounds_in_which_one_side_has_no_figure_are_left_out() {
        assert_eq!(paired([(Some(1.0), None), (None, Some(2.0)), (Some(1.0), Some(0.0))]), None);
        assert_eq!(paired([(Some(1.0), None), (Some(4.0), Some(2.0))]).unwrap().ratios, [2.0]);
    }
}
