//! Medians of samples, how two of them compare, and how a figure is written.

/// Which way a figure points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

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

/// Three significant digits, as far as a figure deserves them.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// How many times as good `value` is as `other`: above 1 is better, whichever way the figure points.
pub(crate) fn ratio(value: f64, other: f64, better: Better) -> f64 {
    match better {
        Better::Higher => value / other,
        Better::Lower => other / value,
    }
}

impl Better {
    /// Whether `value` reaches `goal`.
    pub(crate) fn reaches(self, value: f64, goal: f64) -> bool {
        match self {
            Self::Higher => value >= goal,
            Self::Lower => value <= goal,
        }
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

    #[test]
    fn numbers_have_three_digits() {
        let check = |value: f64, want: &str| assert_eq!(number(value), want);
        check(112.4, "112");
        check(11.24, "11.2");
        check(1.124, "1.12");
        check(0.168, "0.17");
    }
}
