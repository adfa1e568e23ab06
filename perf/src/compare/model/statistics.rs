//! Medians of samples, and how two of them compare.

use super::phase::Better;

/// What a number of samples comes to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    /// The middle sample; the mean of the two in the middle of an even number.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many.
    pub count: usize,
}

impl Summary {
    /// Sums samples up; nothing when there are none.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => sorted[middle - 1].midpoint(sorted[middle]),
        };
        Some(Self { median, min: *first, max: *last, count: sorted.len() })
    }
}

/// How many times as good `value` is as `other`: above 1 is better, whichever way the figure points.
pub(crate) fn ratio(value: f64, other: f64, better: Better) -> f64 {
    match better {
        Better::Higher => value / other,
        Better::Lower => other / value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let check = |samples: &[f64], median, min, max| {
            let want = Summary { median, min, max, count: samples.len() };
            assert_eq!(Summary::of(samples), Some(want), "{samples:?}");
        };
        check(&[3.0], 3.0, 3.0, 3.0);
        check(&[3.0, 1.0, 2.0], 2.0, 1.0, 3.0);
        check(&[4.0, 1.0, 2.0, 9.0], 3.0, 1.0, 9.0);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn above_one_is_better_either_way() {
        assert_eq!(ratio(100.0, 50.0, Better::Higher), 2.0);
        assert_eq!(ratio(1.0, 4.0, Better::Lower), 4.0);
    }
}
