//! `--hdr-log`: the histograms of all intervals, in version 1.3 of HdrHistogram's log format.
//!
//! ```text
//!   #[StartTime: 1795714781.390 (seconds since epoch), ...]
//!   Tag=service,0.000,1.000,12.345,HISTFAAA...      start and length in s, maximum in ms, histogram in ns
//! ```

use std::time::{SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::record::recording::Recording;
use crate::report::sink::Sink;
use crate::result::hdr_v2::encode;

pub(crate) fn begin(sink: &mut Sink, since: SystemTime) {
    let unix_s = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    sink.line(concat!("#[Logged with pktbench ", env!("CARGO_PKG_VERSION"), "]"));
    sink.line("#[Histogram log format version 1.3]");
    let date = humantime::format_rfc3339_seconds(since);
    sink.line(&format!("#[StartTime: {unix_s:.3} (seconds since epoch), {date}]"));
    sink.line("\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"");
}

pub(crate) fn add(sink: &mut Sink, from_s: f64, to_s: f64, recording: &Recording) {
    let mut line = |tag: &str, histogram: &Histogram<u64>| {
        let (len_s, max_ms) = (to_s - from_s, histogram.max() as f64 / 1e6);
        let histogram = encode(histogram);
        sink.line(&format!("Tag={tag},{from_s:.3},{len_s:.3},{max_ms:.3},{histogram}"));
    };
    line("service", &recording.service);
    if let Some(response) = &recording.response {
        line("response", response);
    }
}
