//! Output formats and output files.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::Command;

use crate::common::{Answer, check_schema, command, count, pktbench, samples, serve};
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use serde_json::Value;

const LOAD: &str = "--conns 4 --warmup 0 --duration 500ms --interval 100ms";

/// Parses NDJSON: the lines before the last one, and the document in the last line.
fn parsed(lines: &str) -> (Vec<Value>, Value) {
    let mut events: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let result = events.pop().expect("a last line");
    assert_eq!(result["event"], "result");
    (events, result["result"].clone())
}

#[test]
fn ndjson_starts_with_the_configuration_and_ends_with_the_result() {
    let ran = pktbench(&format!("{LOAD} --format ndjson"));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    let (events, document) = parsed(&ran.stdout);
    check_schema(&document);
    assert_eq!(events[0]["event"], "start");
    assert_eq!(events[0]["config"], document["config"]);
    let start_ns = |name: &str| events[0][name].as_u64().unwrap();
    assert!(start_ns("unix_ns") > 0 && start_ns("unix_ns") == start_ns("window_start_unix_ns"), "no warm-up");
    let intervals = document["intervals"].as_array().unwrap();
    assert_eq!((intervals.len(), events.len()), (5, 1 + 5), "{document}");
    for (event, interval) in events[1..].iter().zip(intervals) {
        assert_eq!(event["event"], "interval");
        let mut event = event.clone();
        event.as_object_mut().unwrap().remove("event");
        assert_eq!(event, *interval);
        let end_ns = start_ns("window_start_unix_ns") as f64 + interval["t_s"].as_f64().unwrap() * 1e9;
        assert!((interval["unix_ns"].as_f64().unwrap() - end_ns).abs() < 1e6, "{interval}");
    }
    for name in ["received", "sent", "bytes_sent", "bytes_received"] {
        let sum = intervals.iter().map(|interval| interval[name].as_u64().unwrap()).sum::<u64>();
        assert_eq!(sum, count(&document, "totals", name), "{name}");
    }
}

#[test]
fn failed_connections_are_events_and_counts_of_their_interval() {
    // Every connection is closed after its third packet.
    let addr = serve(|| |number, frame| if number == 2 { Answer::Last(frame) } else { Answer::Bytes(frame) });
    let ran = pktbench(&format!("--connect {addr} --conns 5 --packets 75 --format ndjson"));
    let (events, document) = parsed(&ran.stdout);
    assert_eq!((ran.code, count(&document, "errors", "eof")), (Some(1), 15), "{document}");
    let errors: Vec<_> = events.iter().filter(|event| event["event"] == "error").collect();
    let intervals = document["intervals"].as_array().unwrap();
    let failed: u64 = intervals.iter().map(|interval| interval["errors"].as_u64().unwrap()).sum();
    assert_eq!(failed, 15, "{document}");
    // At most ten in an interval. On a slow machine the failures are spread over several.
    assert!(errors.len() >= 10 && errors.len() <= 10 * intervals.len(), "{errors:?}");
    let start_ns = events[0]["unix_ns"].as_u64().unwrap();
    for error in errors {
        let text = error["error"].as_str().unwrap();
        assert!(text.contains(": the server closed the connection (unanswered packets: "), "{text}");
        assert!(error["unix_ns"].as_u64().unwrap() >= start_ns, "{error}");
    }
}

#[test]
fn the_output_of_a_killed_run_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("killed.ndjson");
    let mut child = command(env!("CARGO_BIN_EXE_pktbench"))
        .args("--conns 2 --duration 1h --interval 100ms --format ndjson".split_whitespace())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut text = lines.take(4).map(|line| line.unwrap() + "\n").collect::<String>();
    child.kill().and_then(|()| child.wait()).unwrap();
    text.push_str("{\"event\":\"interval\",\"t_s\":0.4,\"rec");
    fs::write(&path, text).unwrap();
    let path = path.display();
    for command in
        [format!("compare {path} {path}"), format!("merge {path} {path}"), format!("html {path} x.html")]
    {
        let ran = pktbench(&command);
        let expected =
            "killed.ndjson is the output of a run that was ended before its result: 3 intervals up to 0.3 s";
        assert!(ran.error_line().contains(expected), "{ran:?}");
        assert_eq!(ran.code, Some(2));
    }
}

#[test]
fn csv_has_a_header_and_a_row_per_interval() {
    let ran = pktbench(&format!("{LOAD} --rate 1k --format csv"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let rows: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split(',').collect()).collect();
    let latencies = ["p50_ns", "p99_ns", "p999_ns", "max_ns"];
    let appended = ["unix_ns", "sent", "bytes_sent", "bytes_received", "errors"];
    assert_eq!(rows[0], [&["t_s", "received"][..], &latencies, &appended].concat());
    assert_eq!(rows.len(), 6, "{rows:?}");
    for row in &rows[1..] {
        let cells: Vec<_> = row.iter().map(|cell| cell.parse::<f64>()).collect();
        // On a busy machine an interval may pass without an answer: it has no latencies.
        let expected = if cells[1] == Ok(0.0) { 7 } else { 11 };
        assert_eq!(cells.iter().flatten().count(), expected, "{rows:?}");
    }
}

#[test]
fn a_file_gets_the_result_and_standard_output_the_text() {
    let dir = tempfile::tempdir().unwrap();
    for (format, name) in
        [("json", "result.json"), ("ndjson", "result.ndjson"), ("csv", "r.csv"), ("text", "r")]
    {
        let path = dir.path().join(name);
        // The extension `.json` selects the format without --format.
        let as_format = if name == "result.json" { String::new() } else { format!("--format {format}") };
        let ran = pktbench(&format!("{LOAD} --label build=7 {as_format} -o {}", path.display()));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
        assert!(ran.stdout.starts_with("mode        closed loop"), "{}", ran.stdout);
        let text = fs::read_to_string(&path).unwrap();
        match format {
            "json" => assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["labels"]["build"], "7"),
            "ndjson" => check_schema(&parsed(&text).1),
            "csv" => assert!(text.starts_with("t_s,")),
            _ => assert_eq!(text, ran.stdout),
        }
    }
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_before_the_run() {
    for option in ["-o", "--hdr-log", "--hgrm", "--html"] {
        let ran = pktbench(&format!("--duration 1h {option} /nowhere/file"));
        assert!(ran.error_line().starts_with("error: cannot write to /nowhere/file: "), "{ran:?}");
        assert_eq!(ran.code, Some(1));
    }
}

#[test]
fn a_full_disk_is_reported_after_the_result() {
    let full = PathBuf::from("/dev/full");
    if !full.exists() {
        // macOS does not have it.
        return;
    }
    for option in ["-o", "--hdr-log", "--hgrm", "--html"] {
        let ran = pktbench(&format!("{LOAD} {option} /dev/full"));
        assert!(ran.stdout.contains("\nverdict     pass"), "{ran:?}");
        assert!(ran.stderr.starts_with("error: cannot write to /dev/full: "), "{ran:?}");
        assert_eq!((ran.code, ran.stderr.lines().count()), (Some(1), 1));
    }
}

/// The sum of all histograms of a tag in the log.
fn summed(log: &[u8], tag: &str) -> Histogram<u64> {
    let mut sum = Histogram::new(3).unwrap();
    for entry in IntervalLogIterator::new(log) {
        let LogEntry::Interval(interval) = entry.unwrap() else { continue };
        if interval.tag().unwrap().as_str() == tag {
            let bytes = base64::Engine::decode(
                &base64::engine::general_purpose::STANDARD,
                interval.encoded_histogram(),
            );
            let histogram: Histogram<u64> =
                Deserializer::new().deserialize(&mut &bytes.unwrap()[..]).unwrap();
            sum += histogram;
        }
    }
    sum
}

#[test]
fn the_histogram_log_has_the_same_samples_as_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let [log, table] = ["run.hlog", "run.hgrm"].map(|name| dir.path().join(name));
    let files = format!("--hdr-log {} --hgrm {}", log.display(), table.display());
    let document = pktbench(&format!("{LOAD} --rate 2k --threads 2 --json {files}")).document();
    let log = fs::read(log).unwrap();
    for tag in ["service", "response"] {
        let sum = summed(&log, tag);
        assert_eq!(sum.len(), samples(&document));
        assert_eq!(Some(sum.max()), document["latency_ns"][tag]["max"].as_u64());
    }
    let table = fs::read_to_string(table).unwrap();
    let (last, total) = (format!("1.000000000000 {:10}\n", samples(&document)), samples(&document));
    assert!(table.contains(&last) && table.contains(&format!("Total count    = {total:12}]")), "{table}");
}

#[test]
#[ignore = "needs python3 with hdrhistogram (pip install hdrhistogram): cargo test -p pktbench -- --include-ignored"]
fn the_python_library_reads_the_same_percentiles_from_all_histograms() {
    let dir = tempfile::tempdir().unwrap();
    let [log, table, result] = ["run.hlog", "run.hgrm", "result.json"].map(|name| dir.path().join(name));
    let files = format!("--hdr-log {} --hgrm {} -o {}", log.display(), table.display(), result.display());
    let load = "--conns 4 --rate 1k --packets 4000 --interval 500ms";
    let ran = pktbench(&format!("{load} --format json {files}"));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_histograms.py");
    let read = Command::new("python3").arg(script).args([log, table, result]).output().unwrap();
    let errors = String::from_utf8_lossy(&read.stderr);
    assert!(read.status.success(), "{errors}");
}

#[test]
fn an_existing_file_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("result.json");
    File::create(&path).and_then(|mut file| std::io::Write::write_all(&mut file, &[b'x'; 100_000])).unwrap();
    assert_eq!(pktbench(&format!("{LOAD} --format json -o {}", path.display())).code, Some(0));
    check_schema(&serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap());
}
