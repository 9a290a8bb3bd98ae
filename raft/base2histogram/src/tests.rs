use proptest::prelude::*;

use super::*;

const BUCKETS: usize = 62 * BUCKETS_PER_OCTAVE;

fn of(values: impl IntoIterator<Item = u64>) -> Histogram {
    let mut histogram = Histogram::new();
    values.into_iter().for_each(|value| histogram.record(value));
    histogram
}

#[test]
fn buckets_lie_end_to_end_over_all_of_u64() {
    assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, BUCKETS - 1));
    for bucket in 1..BUCKETS {
        let width = 1 << octave_of(middle_of(bucket));
        let first = middle_of(bucket) - width / 2;
        assert_eq!(bucket_of(first), bucket, "the first value of bucket {bucket}");
        assert_eq!(
            bucket_of(first - 1),
            bucket - 1,
            "the value before bucket {bucket}"
        );
        assert_eq!(
            bucket_of(first + (width - 1)),
            bucket,
            "the last value of bucket {bucket}"
        );
        assert!(
            width == 1 || width / 2 <= first / 16,
            "bucket {bucket} is too wide"
        );
    }
}

#[test]
fn values_below_sixteen_are_exact() {
    for value in 0..16 {
        assert_eq!(of([value]).percentile_stats().p50, value);
    }
}

#[test]
fn an_empty_histogram_has_no_memory_and_no_values() {
    let histogram = Histogram::<()>::new();
    assert_eq!(histogram.counts.capacity(), 0);
    assert_eq!(
        histogram.percentile_stats().to_string(),
        "0 values, p50 0, p90 0, p99 0, p99.9 0"
    );
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let stats = of(1..=10).percentile_stats();
    assert_eq!(
        (stats.samples, stats.p50, stats.p90, stats.p99, stats.p99_9),
        (10, 5, 9, 10, 10)
    );
}

#[test]
fn histograms_of_equal_counts_are_equal() {
    let mut other = Histogram::new();
    other.record_n(7, 2);
    other.record_n(1 << 40, 0);
    assert_eq!(other, of([7, 7]));
    assert_ne!(other, of([7]));
}

#[test]
fn counts_stay_at_their_most() {
    let mut histogram = of([3]);
    histogram.record_n(3, u64::MAX);
    histogram.record_n(9, u64::MAX);
    let stats = histogram.percentile_stats();
    assert_eq!((stats.samples, stats.p50, stats.p99), (u64::MAX, 3, 3));
}

#[test]
fn a_chart_has_a_line_for_each_row() {
    let chart = AsciiChart::new().add("a", of([1])).add("b", of([2, 3]));
    let lines = "a: 1 values, p50 1, p90 1, p99 1, p99.9 1\nb: 2 values, p50 2, p90 3, p99 3, p99.9 3\n";
    assert_eq!(chart.to_string(), lines);
}

/// Values of every size, not mostly those near 2 to the 64.
fn value() -> impl Strategy<Value = u64> {
    (0..64u32, any::<u64>()).prop_map(|(shift, value)| value >> shift)
}

proptest! {
    #[test]
    fn percentiles_are_a_sixteenth_from_those_of_the_sorted_list(mut values in prop::collection::vec(value(), 1..400)) {
        let stats = of(values.iter().copied()).percentile_stats();
        values.sort_unstable();
        prop_assert_eq!(stats.samples, values.len() as u64);
        for (per_mille, told) in [(500, stats.p50), (900, stats.p90), (990, stats.p99), (999, stats.p99_9)] {
            let exact = values[(values.len() * per_mille).div_ceil(1000) - 1];
            prop_assert!(told.abs_diff(exact) <= exact / 16, "{told} instead of {exact} at {per_mille}");
        }
    }
}
