//! The value of `--stages`: a list of stages, each with its course of the rate.
//!
//! ```text
//!   ramp 0..10k 30s, hold 10k 2m, step 2k every 10s to 20k, spike 50k 5s, sine 5k..15k period 60s for 5m
//!   '------------'   '---------'  becomes five stages: 12k, 14k, 16k, 18k, 20k
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::traffic::parse::{MAX_TIME, parse_rate, parse_time};
use crate::traffic::profile::{Piece, Profile, Shape};

/// The most stages, with every step as one of them. Each has its own histograms in the result.
pub(crate) const MAX_STAGES: usize = 1000;

/// A step that is this close to the last rate is the last one: rates are rounded.
const SAME_RATE: f64 = 1e-6;

/// The stages of a run, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stages {
    /// As it was written.
    text: String,
    pub(crate) stages: Vec<Stage>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stage {
    /// The text of the stage. A step has its rate after it, in parentheses.
    pub(crate) name: String,
    pub(crate) piece: Piece,
}

impl Stages {
    pub(crate) fn pieces(&self) -> Vec<Piece> {
        self.stages.iter().map(|stage| stage.piece).collect()
    }

    /// The rate at the start of the first stage.
    pub(crate) fn start_rate(&self) -> f64 {
        self.stages.first().map_or(0.0, |first| first.piece.shape.rate_at(0, first.piece.length_ns))
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_nanos(self.stages.iter().map(|stage| stage.piece.length_ns).sum())
    }

    /// The mean rate over all stages, in packets per second.
    pub(crate) fn mean_rate(&self) -> f64 {
        self.packets() / self.duration().as_secs_f64()
    }

    fn packets(&self) -> f64 {
        Profile::new(&[], &self.pieces()).position_at(u64::MAX)
    }

    /// The ends of the stages, from the start of the first one.
    pub(crate) fn ends_ns(&self) -> impl Iterator<Item = u64> {
        self.stages.iter().scan(0, |end_ns, stage| {
            *end_ns += stage.piece.length_ns;
            Some(*end_ns)
        })
    }

    /// Parses a stage and adds it, or its steps.
    fn push(&mut self, text: &str) -> Result<(), String> {
        let last = self.stages.last().map_or(0.0, |last| {
            let Piece { shape, length_ns } = last.piece;
            shape.rate_at(length_ns, length_ns)
        });
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        let constant = || {
            let (rate, time) = rest.split_once(char::is_whitespace).ok_or("a rate and a time are missing")?;
            Ok::<_, String>(Piece { shape: Shape::Constant(rate_or_0(rate)?), length_ns: length_ns(time)? })
        };
        let example = Example::of(word).ok_or_else(|| {
            format!("unknown stage '{word}'; write ramp, hold, step, spike or sine, such as 'hold 10k 2m'")
        })?;
        let pieces = match word {
            "ramp" => ramp(rest).map(|piece| vec![(piece, None)]),
            "step" => steps(rest, last, MAX_STAGES.saturating_sub(self.stages.len())),
            "sine" => sine(rest).map(|piece| vec![(piece, None)]),
            _ => constant().map(|piece| vec![(piece, None)]),
        };
        let pieces = pieces.map_err(|problem| format!("{problem}; write {example}"))?;
        if self.stages.len() + pieces.len() > MAX_STAGES {
            return Err(format!("there are more than {MAX_STAGES} stages, the limit; use fewer"));
        }
        self.stages.extend(pieces.into_iter().map(|(piece, rate)| Stage {
            name: rate.map_or_else(|| text.to_owned(), |rate| format!("{text} ({})", short(rate))),
            piece,
        }));
        Ok(())
    }
}

/// How to write a stage, for error messages.
struct Example(&'static str, &'static str);

impl Example {
    fn of(word: &str) -> Option<Self> {
        Some(match word {
            "ramp" => Self("ramp A..B TIME", "ramp 0..10k 30s"),
            "hold" => Self("hold RATE TIME", "hold 10k 2m"),
            "spike" => Self("spike RATE TIME", "spike 50k 5s"),
            "step" => Self("step RATE every TIME to RATE", "step 2k every 10s to 20k"),
            "sine" => Self("sine A..B period TIME for TIME", "sine 5k..15k period 60s for 5m"),
            _ => return None,
        })
    }
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}', such as '{}'", self.0, self.1)
    }
}

fn ramp(text: &str) -> Result<Piece, String> {
    let (rates, time) = text.split_once(char::is_whitespace).ok_or("two rates and a time are missing")?;
    let (from, to) = range(rates)?;
    Ok(Piece { shape: Shape::Linear { from, to }, length_ns: length_ns(time)? })
}

fn sine(text: &str) -> Result<Piece, String> {
    let (rates, rest) = text.split_once(" period ").ok_or("'period' is missing")?;
    let (period, time) = rest.split_once(" for ").ok_or("'for' is missing")?;
    let (low, high) = range(rates.trim())?;
    if low >= high {
        return Err("the first rate of a sine must be the lower one".to_owned());
    }
    let shape = Shape::Sine { low, high, period_ns: length_ns(period)? };
    Ok(Piece { shape, length_ns: length_ns(time)? })
}

/// The steps from a rate, which is not a step itself, to the last one.
fn steps(text: &str, from: f64, most: usize) -> Result<Vec<(Piece, Option<f64>)>, String> {
    let (height, rest) = text.split_once(" every ").ok_or("'every' is missing")?;
    let (time, to) = rest.split_once(" to ").ok_or("'to' is missing")?;
    let (height, to) = (parse_rate(height.trim())?, rate_or_0(to.trim())?);
    let length_ns = length_ns(time)?;
    let count = ((to - from).abs() / height - SAME_RATE).ceil();
    if count < 1.0 {
        return Err(format!("the rate is already {}", short(from)));
    }
    if count > most as f64 {
        return Err(format!(
            "{count} steps of {} to {} are more than the {most} that are left of {MAX_STAGES} stages",
            short(height),
            short(to)
        ));
    }
    let rate = |step: f64| if step < count { from + height * step * (to - from).signum() } else { to };
    let rates = (1..=count as usize).map(|step| rate(step as f64));
    Ok(rates.map(|rate| (Piece { shape: Shape::Constant(rate), length_ns }, Some(rate))).collect())
}

fn range(text: &str) -> Result<(f64, f64), String> {
    let (from, to) = text.split_once("..").ok_or_else(|| format!("'{text}' is not a range of rates"))?;
    Ok((rate_or_0(from)?, rate_or_0(to)?))
}

/// 0 is a pause.
fn rate_or_0(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { parse_rate(text).map_err(|_| format!("'{text}' is not a rate")) }
}

fn length_ns(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let time = parse_time(text).map_err(|problem| format!("'{text}': {problem}"))?;
    match time.as_nanos() as u64 {
        0 => Err(format!("'{text}' is no time")),
        // `MAX_TIME` fits.
        length_ns => Ok(length_ns),
    }
}

/// A rate as people write it: `500`, `12k`, `1.5M`.
fn short(rate: f64) -> String {
    let rounded = |number: f64| (number * 1e6).round() / 1e6;
    match rate {
        1e6.. => format!("{}M", rounded(rate / 1e6)),
        1e3.. => format!("{}k", rounded(rate / 1e3)),
        _ => rounded(rate).to_string(),
    }
}

impl FromStr for Stages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut stages = Self { text: text.trim().to_owned(), stages: Vec::new() };
        for (index, stage) in text.split(',').enumerate() {
            let words = stage.split_whitespace().collect::<Vec<_>>().join(" ");
            stages.push(&words).map_err(|problem| format!("stage {} '{words}': {problem}", index + 1))?;
        }
        let total: Duration =
            stages.stages.iter().map(|stage| Duration::from_nanos(stage.piece.length_ns)).sum();
        if total > MAX_TIME {
            return Err("the stages together last longer than 365 days, the limit; shorten them".to_owned());
        }
        if stages.packets() < 1.0 {
            return Err("the stages send nothing; give one of them a rate, such as 'hold 10k 30s'".to_owned());
        }
        Ok(stages)
    }
}

/// Shows the original text.
impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn stages(text: &str) -> Stages {
        text.parse().unwrap()
    }

    fn rates(text: &str) -> Vec<f64> {
        let rate = |stage: Stage| match stage.piece.shape {
            Shape::Constant(rate) => rate,
            shape => shape.rate_at(stage.piece.length_ns, stage.piece.length_ns),
        };
        stages(text).stages.into_iter().map(rate).collect()
    }

    #[test]
    fn every_kind_of_stage_has_its_course() {
        let text = "ramp 0..10k 30s, hold 10k 2m,step 2k every 10s to 15k, spike 50k 1m 5s,  \
                    sine 5k..15k  period 60s for 5m";
        let stages = stages(text);
        let parts: Vec<_> = stages
            .stages
            .iter()
            .map(|stage| (stage.name.as_str(), stage.piece.shape, stage.piece.length_ns / SECOND_NS))
            .collect();
        let expected = [
            ("ramp 0..10k 30s", Shape::Linear { from: 0.0, to: 10e3 }, 30),
            ("hold 10k 2m", Shape::Constant(10e3), 120),
            ("step 2k every 10s to 15k (12k)", Shape::Constant(12e3), 10),
            ("step 2k every 10s to 15k (14k)", Shape::Constant(14e3), 10),
            ("step 2k every 10s to 15k (15k)", Shape::Constant(15e3), 10),
            ("spike 50k 1m 5s", Shape::Constant(50e3), 65),
            (
                "sine 5k..15k period 60s for 5m",
                Shape::Sine { low: 5e3, high: 15e3, period_ns: 60 * SECOND_NS },
                300,
            ),
        ];
        assert_eq!(parts, expected);
        assert_eq!(stages.duration(), Duration::from_secs(545));
        let packets = 150e3 + 1200e3 + 410e3 + 3250e3 + 3000e3;
        assert!((stages.mean_rate() - packets / 545.0).abs() < 1e-6);
        assert_eq!(stages.ends_ns().last(), Some(545 * SECOND_NS));
        assert_eq!((stages.to_string(), stages.start_rate()), (text.to_owned(), 0.0));
        assert_eq!(self::stages("sine 5k..15k period 60s for 5m").start_rate(), 10e3);
    }

    #[test]
    fn steps_begin_after_the_rate_before_and_go_up_or_down() {
        assert_eq!(rates("step 2k every 1s to 5k"), [2e3, 4e3, 5e3]);
        assert_eq!(rates("hold 10k 1s, step 4k every 1s to 0"), [10e3, 6e3, 2e3, 0.0]);
        assert_eq!(rates("ramp 5..30 1s, step 0.1 every 1s to 30.3"), [30.0, 30.1, 30.2, 30.3]);
        // 10k after whole periods, up to rounding.
        assert_eq!(rates("sine 5k..15k period 3s for 9s, step 5k every 1s to 20k")[1..], [15e3, 20e3]);
        assert_eq!(rates("step 1 every 1s to 1000").len(), MAX_STAGES);
    }

    #[test]
    fn more_than_1000_stages_are_refused_whatever_their_kind() {
        let holds = |count: usize| vec!["hold 10 1s"; count].join(",");
        assert_eq!(holds(MAX_STAGES).parse::<Stages>().unwrap().stages.len(), MAX_STAGES);
        for text in [holds(MAX_STAGES + 1), format!("{},step 1 every 1s to 1000", holds(MAX_STAGES))] {
            let problem = text.parse::<Stages>().unwrap_err();
            assert!(problem.starts_with("stage 1001 ") && problem.contains("1000 stages"), "{problem}");
        }
    }

    #[test]
    fn an_invalid_stage_is_an_error_that_names_it_and_shows_how_to_write_it() {
        let cases = [
            ("", "stage 1 '': unknown stage ''; write ramp, hold, step, spike or sine"),
            ("hold 10k 2m,", "stage 2 '': unknown stage ''"),
            ("hold 10k 2m, rise 3k 5s", "stage 2 'rise 3k 5s': unknown stage 'rise'"),
            ("hold 10k", "write 'hold RATE TIME', such as 'hold 10k 2m'"),
            ("hold", "write 'hold RATE TIME', such as 'hold 10k 2m'"),
            ("hold fast 5s", "'fast' is not a rate; write 'hold RATE TIME'"),
            ("hold 10k x", "'x': a time is a number, in seconds or with its unit"),
            ("hold 10k 0s", "'0s' is no time"),
            ("hold -1 5s", "'-1' is not a rate"),
            ("spike 2000M 5s", "'2000M' is not a rate; write 'spike RATE TIME'"),
            (
                "ramp 10k 5s",
                "'10k' is not a range of rates; write 'ramp A..B TIME', such as 'ramp 0..10k 30s'",
            ),
            ("ramp 0..10k", "write 'ramp A..B TIME'"),
            ("ramp 0..x 5s", "'x' is not a rate"),
            ("step 2k to 20k", "'every' is missing; write 'step RATE every TIME to RATE', such as"),
            ("step 2k every 10s", "'to' is missing"),
            ("step 0 every 10s to 5k", "above 0"),
            (
                "hold 5k 1s, step 1k every 10s to 5k",
                "stage 2 'step 1k every 10s to 5k': the rate is already 5k",
            ),
            ("step 1 every 1s to 20k", "20000 steps of 1 to 20k are more than the 1000 that are left"),
            ("sine 5k..15k for 5m", "'period' is missing; write 'sine A..B period TIME for TIME', such as"),
            ("sine 5k..15k period 60s", "'for' is missing"),
            ("sine 15k..5k period 60s for 5m", "must be the lower one"),
            ("hold 1 300days, hold 1 300days", "longer than 365 days"),
            ("hold 0 10s, ramp 0..0 5s", "the stages send nothing; give one of them a rate"),
        ];
        for (text, expected) in cases {
            let problem = text.parse::<Stages>().expect_err(text);
            assert!(problem.contains(expected) && !problem.contains('\n'), "{text}: {problem}");
        }
    }
}
