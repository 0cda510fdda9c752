//! Chooses the charts of a result and their data. There is no chart for what was not measured.

use hdrhistogram::Histogram;

use super::canvas::Point;
use super::chart::{Axis, Chart, Series, Shape, draw};
use super::palette::ChartColor;
use super::scale::{self, Scale};
use super::timeline::{TimelinePoint, intervals_per_point, timeline};
use crate::result::document::{Config, Document, SizeClass};
use crate::result::latency::Latency;
use crate::traffic::profile::Profile;
use crate::traffic::stages::Stages;

/// Points of a curve for each nine of the percentile, such as from p90 to p99: enough for a smooth curve.
const POINTS_PER_NINE: u32 = 30;

pub(super) fn charts(document: &Document) -> Vec<Chart> {
    let timeline = timeline(&document.intervals);
    let charts = [
        spectrum(document),
        throughput(&timeline, document),
        over_time(&timeline, document),
        by_size(&document.sizes),
    ];
    charts.into_iter().flatten().collect()
}

fn spectrum(document: &Document) -> Option<Chart> {
    let service = curve("service", ChartColor::Blue, &document.latency_ns.service);
    let response = document.latency_ns.response.as_ref();
    let response = response.and_then(|latency| curve("response", ChartColor::Orange, latency));
    let series: Vec<Series> = [response, service].into_iter().flatten().collect();
    let samples = points(&series).map(|(tail, _)| tail).reduce(f64::max)?;
    let x = Axis { scale: Scale::percentiles(samples), name: "percentile" };
    let y = times(&series);
    Some(Chart {
        id: "spectrum",
        title: "Latency by percentile",
        note: match (series.len(), document.latency_ns.service.censored) {
            (_, 1..) => {
                "Packets without an answer are drawn with their age at the end of the run.".to_owned()
            }
            (1, _) => "At p90, 1 packet in 10 is slower; at p99, 1 in 100; and so on.".to_owned(),
            _ => "Response: from when a packet was due. Service: from when it was sent.".to_owned(),
        },
        content: draw(&x, &y, &series, &[]),
    })
}

/// `None` if there is no sample, or if the histogram of the document cannot be read.
fn curve(name: &'static str, color: ChartColor, latency: &Latency) -> Option<Series> {
    let histogram = latency.all().ok().filter(|histogram| !histogram.is_empty())?;
    let samples = histogram.len();
    let points = tails(samples).map(|tail| Some((tail, at_tail(&histogram, tail))));
    // The curve ends at the slowest sample.
    let slowest = Some((samples as f64, histogram.max() as f64));
    Some(Series { name, color, shape: Shape::Line, points: points.chain([slowest]).collect() })
}

/// Values of `1 / (1 - quantile)` from 1 to about the number of samples, in equal steps of the logarithm.
fn tails(samples: u64) -> impl Iterator<Item = f64> {
    let steps = ((samples as f64).log10() * f64::from(POINTS_PER_NINE)) as u32;
    (0..=steps).map(|step| 10_f64.powf(f64::from(step) / f64::from(POINTS_PER_NINE)))
}

fn at_tail(histogram: &Histogram<u64>, tail: f64) -> f64 {
    histogram.value_at_quantile(1.0 - 1.0 / tail) as f64
}

fn throughput(timeline: &[TimelinePoint], document: &Document) -> Option<Chart> {
    let last = timeline.last().filter(|_| timeline.len() > 1)?;
    let mut note = match intervals_per_point(&document.intervals) {
        1 => "Packets received per second, in each interval.".to_owned(),
        count => format!("Packets received per second; each point is the mean of {count} intervals."),
    };
    let achieved = timeline.iter().map(|point| Some((point.middle_s, point.packets_per_s)));
    let mut series = vec![Series {
        name: "throughput",
        color: ChartColor::Teal,
        shape: Shape::Filled,
        points: achieved.collect(),
    }];
    if let Some(points) = asked(timeline, &document.config) {
        series.push(Series { name: "asked", color: ChartColor::Orange, shape: Shape::Line, points });
    }
    if !document.stages.is_empty() {
        note += " Vertical lines: stages.";
    }
    let max = points(&series).map(|(_, packets_per_s)| packets_per_s).fold(0.0, f64::max);
    let y = Axis { scale: Scale::linear(max, scale::count), name: "packets/s" };
    Some(Chart {
        id: "throughput",
        title: "Throughput over time",
        note,
        content: draw(&seconds(last), &y, &series, &stage_ends(document)),
    })
}

/// The rate that was asked for, in the same intervals. `None` in a closed loop.
fn asked(timeline: &[TimelinePoint], config: &Config) -> Option<Vec<Option<Point>>> {
    let rate = config.rate?;
    let Some(stages) = &config.stages else {
        return Some(timeline.iter().map(|point| Some((point.middle_s, rate))).collect());
    };
    // A file may have any text.
    let stages: Stages = stages.parse().ok()?;
    let profile = Profile::new(&[], &stages.pieces());
    // The sum of several load generators has the same stages at a higher rate.
    let factor = rate / stages.mean_rate();
    let points = timeline.iter().map(|point| {
        let half_s = point.end_s - point.middle_s;
        let [from, to] =
            [point.middle_s - half_s, point.end_s].map(|s| profile.position_at((s * 1e9) as u64));
        Some((point.middle_s, (to - from) / (2.0 * half_s) * factor))
    });
    Some(points.collect())
}

/// The ends of the stages except the last, in seconds. So many stages that their ends would hide the curve have none.
fn stage_ends(document: &Document) -> Vec<f64> {
    const MOST: usize = 50;
    match document.stages.split_last() {
        Some((_, stages)) if stages.len() <= MOST => stages.iter().map(|stage| stage.end_s).collect(),
        _ => Vec::new(),
    }
}

fn over_time(timeline: &[TimelinePoint], document: &Document) -> Option<Chart> {
    let kind = document.latency_ns.primary_name();
    let last = timeline.last().filter(|_| timeline.len() > 1)?;
    let line = |name, color, figure: fn(&TimelinePoint) -> Option<u64>| Series {
        name,
        color,
        shape: Shape::Line,
        points: timeline.iter().map(|at| figure(at).map(|ns| (at.middle_s, ns as f64))).collect(),
    };
    let series = [
        line("p99.9", ChartColor::Magenta, |point| point.p999_ns),
        line("p99", ChartColor::Violet, |point| point.p99_ns),
        line("p50", ChartColor::Green, |point| point.p50_ns),
    ];
    points(&series).next()?;
    let note = match intervals_per_point(&document.intervals) {
        1 => format!("Percentiles of the {kind} time, in each interval."),
        count => format!("Percentiles of the {kind} time; each point is the worst of {count} intervals."),
    };
    Some(Chart {
        id: "latency",
        title: "Latency over time",
        note,
        content: draw(&seconds(last), &times(&series), &series, &stage_ends(document)),
    })
}

fn by_size(classes: &[SizeClass]) -> Option<Chart> {
    let line = |name, color, figure: fn(&SizeClass) -> Option<u64>| {
        let places = classes.iter().enumerate();
        let points = places.map(|(place, class)| figure(class).map(|ns| (place as f64, ns as f64)));
        Series { name, color, shape: Shape::Dotted, points: points.collect() }
    };
    let series = [
        line("p99", ChartColor::Violet, |class| class.p99_ns),
        line("p50", ChartColor::Green, |class| class.p50_ns),
    ];
    points(&series).next()?;
    let names = classes.iter().map(|class| range(class.from_bytes, class.to_bytes)).collect();
    let x = Axis { scale: Scale::categories(names), name: "payload bytes (1K = 1024)" };
    Some(Chart {
        id: "sizes",
        title: "Latency by size",
        note: "Service time by payload length.".to_owned(),
        content: draw(&x, &times(&series), &series, &[]),
    })
}

/// `0`, `64–127`, `1K–2K`: short, because the labels of the axis stand next to each other.
pub(super) fn range(from: u32, to: u32) -> String {
    // `to` is included: it is one less than a round number.
    let (from, end) = (u64::from(from), u64::from(to) + 1);
    let unit = [(1 << 20, "M"), (1 << 10, "K")];
    let unit = unit.into_iter().find(|(unit, _)| from >= *unit && from % unit == 0 && end % unit == 0);
    match unit {
        _ if end <= from + 1 => from.to_string(),
        Some((unit, name)) => format!("{}{name}–{}{name}", from / unit, end / unit),
        None => format!("{from}–{to}"),
    }
}

fn seconds(last: &TimelinePoint) -> Axis {
    Axis { scale: Scale::up_to(last.end_s, scale::count), name: "time since the start (s)" }
}

fn times(series: &[Series]) -> Axis {
    let values: Vec<f64> = points(series).map(|(_, ns)| ns).collect();
    Axis { scale: Scale::fitting(values.iter().copied(), scale::time), name: "latency" }
}

fn points(series: &[Series]) -> impl Iterator<Item = Point> {
    series.iter().flat_map(|series| series.points.iter().copied().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_ends_at_the_slowest_sample() {
        let mut histogram = crate::record::histogram::new_histogram();
        histogram.record_n(1_000, 999).unwrap();
        histogram.record(50_000).unwrap();
        let curve = curve("service", ChartColor::Blue, &Latency::of(&histogram, None)).unwrap();
        let (tail, slowest) = curve.points.last().unwrap().unwrap();
        assert_eq!(tail, 1000.0);
        assert!((49_900.0..=50_100.0).contains(&slowest), "{slowest}");
        assert_eq!(curve.points[0], Some((1.0, 1_000.0)));
    }

    #[test]
    fn size_ranges_have_short_labels() {
        assert_eq!(range(0, 0), "0");
        assert_eq!(range(64, 127), "64–127");
        assert_eq!(range(65_536, 131_071), "64K–128K");
        assert_eq!(range(1024, 2047), "1K–2K");
        assert_eq!(range(1000, 2000), "1000–2000");
        assert_eq!(range(1 << 31, u32::MAX), "2048M–4096M");
        assert_eq!((range(2048, 2048), range(9, 2)), ("2048".to_owned(), "9".to_owned()));
    }
}
