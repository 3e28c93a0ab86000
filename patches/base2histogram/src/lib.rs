//! A stand-in for the crate `base2histogram`: the part of its interface that `openraft` compiles against, and no more.
//!
//! The real one builds lookup tables for sixteen resolutions, 19 MiB of private memory, as soon as one value is counted.
//! This one counts in powers of two: half a kilobyte a histogram, and percentiles that are right to a factor of two.

use std::fmt;
use std::marker::PhantomData;

/// Bucket 0 holds zeros, bucket n the values of n bits.
const BUCKETS: usize = 65;

/// Counts values by their number of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: Box<[u64; BUCKETS]>,
    slots: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Nothing counted.
    #[must_use]
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), slots: PhantomData }
    }

    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Counts a value several times.
    pub fn record_n(&mut self, value: u64, count: u64) {
        let bucket = u64::BITS - value.leading_zeros();
        self.counts[bucket as usize] += count;
    }

    /// How many values were counted.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The smallest value of the bucket that holds this part, in thousandths, of the values.
    fn percentile(&self, thousandths: u64) -> u64 {
        let rank = (u128::from(self.total()) * u128::from(thousandths)).div_ceil(1000).max(1);
        let mut seen = 0u128;
        for (bits, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= rank {
                return if bits == 0 { 0 } else { 1 << (bits - 1) };
            }
        }
        0
    }

    /// How the values are spread.
    #[must_use]
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.percentile(1),
            p1: self.percentile(10),
            p5: self.percentile(50),
            p10: self.percentile(100),
            p50: self.percentile(500),
            p90: self.percentile(900),
            p99: self.percentile(990),
            p99_9: self.percentile(999),
        }
    }
}

/// How counted values are spread; each percentile is right to a factor of two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[samples: {}, P50: {}, P90: {}, P99: {}]", self.samples, self.p50, self.p90, self.p99)
    }
}

/// Several histograms, for people: a line each.
#[derive(Debug, Clone, Default)]
pub struct AsciiChart<T = ()> {
    series: Vec<(String, PercentileStats)>,
    slots: PhantomData<T>,
}

impl<T> AsciiChart<T> {
    /// No histogram.
    #[must_use]
    pub fn new() -> Self {
        Self { series: Vec::new(), slots: PhantomData }
    }

    /// One more.
    #[must_use]
    pub fn add(mut self, name: &str, histogram: Histogram<T>) -> Self {
        self.series.push((name.to_owned(), histogram.percentile_stats()));
        self
    }
}

impl<T> fmt::Display for AsciiChart<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.series.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_their_size() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats(), PercentileStats::default());
        histogram.record_n(5, 90);
        histogram.record_n(1000, 10);
        histogram.record(0);
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p50, stats.p99), (101, 0, 4, 512));
        histogram.record(u64::MAX);
        assert_eq!(histogram.percentile_stats().p99_9, 1 << 63);
        assert!(AsciiChart::new().add("x", histogram).to_string().starts_with("x: [samples: 102"));
    }
}
