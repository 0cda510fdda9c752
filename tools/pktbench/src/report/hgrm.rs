//! `--hgrm`: the response times (in a closed loop, the service times) as a table of percentiles, in the text format that
//! HdrHistogram's plotter reads. Values are in ms. Packets without an answer count with their age at the end of the run.

use hdrhistogram::Histogram;

/// Rows for each halving of the distance to 100 %, the default of HdrHistogram's tools.
const ROWS_PER_HALVING: u32 = 5;

/// The table of a histogram in ns. The caller ends the last line. Six decimals of a ms are ns: HdrHistogram's own tools
/// print three, which would leave two digits of a latency of 44 µs.
pub(crate) fn table(histogram: &Histogram<u64>) -> String {
    let ms = |ns: f64| ns / 1e6;
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    for step in histogram.iter_quantiles(ROWS_PER_HALVING) {
        let value = ms(step.value_iterated_to() as f64);
        let quantile = step.quantile_iterated_to();
        let count = histogram.count_between(0, step.value_iterated_to());
        text += &format!("{value:12.6} {quantile:14.12} {count:10}");
        if quantile < 1.0 {
            text += &format!(" {:14.2}", 1.0 / (1.0 - quantile));
        }
        text.push('\n');
    }
    let (mean, deviation, max) = (ms(histogram.mean()), ms(histogram.stdev()), ms(histogram.max() as f64));
    text += &format!("#[Mean    = {mean:12.6}, StdDeviation   = {deviation:12.6}]\n");
    text += &format!("#[Max     = {max:12.6}, Total count    = {:12}]\n", histogram.len());
    // As in HdrHistogram, for the number of significant digits. The crate does not expose it.
    let sub_buckets = (2 * 10_u64.pow(histogram.sigfig().into())).next_power_of_two();
    let buckets = histogram.buckets();
    text + &format!("#[Buckets = {buckets:12}, SubBuckets     = {sub_buckets:12}]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::histogram::new_histogram;

    #[test]
    fn short_latencies_keep_three_digits() {
        let mut histogram = new_histogram();
        [1_234, 44_321, 5_500_000_000].iter().for_each(|ns| histogram.record(*ns).unwrap());
        let table = table(&histogram);
        let values: Vec<f64> = table
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        for ms in [0.001_234, 0.044_321, 5_500.0] {
            assert!(values.iter().any(|value| (value / ms - 1.0).abs() < 0.001), "{ms}: {table}");
        }
        assert!(table.lines().filter(|line| line.starts_with("#[")).count() == 3, "{table}");
    }
}
