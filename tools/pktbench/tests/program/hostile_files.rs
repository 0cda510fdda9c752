//! Files that claim more than they have, or that are made to take memory and time. Each is read by the real program within
//! 64 MiB: the shell sets the limit, so that a larger allocation ends the program.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use serde_json::{Value, json};

use crate::common::result::closed_loop;
use crate::common::{Ran, bounded, command};

/// Where the parts of a large file go.
const HERE: &str = "@@";

/// The size of a large file.
const LEN: usize = 1 << 20;

/// The counts of a histogram with all values of a run, one sample each.
static DENSE: [u8; 33_792] = [2; 33_792];

/// A folder with the result of a run, and files that were made from it.
struct Files {
    dir: tempfile::TempDir,
    result: Value,
}

impl Files {
    fn new() -> Self {
        let files = Self { dir: tempfile::tempdir().unwrap(), result: closed_loop() };
        files.write("good.json", files.result.to_string());
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    /// The result after a change.
    fn changed(&self, change: impl FnOnce(&mut Value)) -> String {
        let mut result = self.result.clone();
        change(&mut result);
        result.to_string()
    }

    /// The result with `count` parts in the list at `pointer`, or as many as 1 MiB holds.
    fn filled(&self, pointer: &str, part: &str, count: Option<usize>) -> String {
        let text = self.changed(|result| *result.pointer_mut(pointer).unwrap() = json!(HERE));
        let count = count.unwrap_or((LEN - text.len()) / (part.len() + 1));
        text.replace(&format!("\"{HERE}\""), &format!("[{}]", vec![part; count].join(",")))
    }

    fn with_histogram(&self, histogram: &str) -> String {
        self.changed(|result| result["latency_ns"]["service"]["hdr_v2"] = json!(histogram))
    }

    /// Runs every subcommand that reads a result. Each reads the file within the limits, or refuses it in one line.
    #[track_caller]
    fn read(&self, what: &str, text: &str) -> [Ran; 3] {
        assert!(text.len() <= 2 * LEN, "{what}: {} bytes", text.len());
        let file = self.write("hostile.json", text);
        let (good, page) = (self.path("good.json"), self.path("page.html"));
        let [file, good, page] = [&file, &good, &page].map(|path| path.to_str().unwrap());
        let runs = [
            bounded(&["html", file, page]),
            bounded(&["merge", file, good]),
            bounded(&["compare", "--force", file, good]),
        ];
        for ran in &runs {
            // Too few intervals, or others than in the good result, are no error of the file.
            let is_refused = ran.code == Some(2) && ran.stdout.is_empty() && ran.stderr.lines().count() == 1;
            assert!(matches!(ran.code, Some(0 | 1 | 97 | 98)) || is_refused, "{what}: {ran:?}");
            assert!(ran.stderr.chars().count() < 5000, "{what}: {} bytes", ran.stderr.len());
            assert!(!ran.stderr.contains("panicked"), "{what}: {ran:?}");
        }
        runs
    }

    /// The same for a file that every subcommand refuses with this text.
    #[track_caller]
    fn refused(&self, what: &str, text: &str, expected: &str) {
        for ran in self.read(what, text) {
            assert_eq!(ran.code, Some(2), "{what}: {ran:?}");
            assert!(ran.stderr.contains(expected), "{what}: {ran:?}");
        }
    }
}

/// A histogram that claims these lengths.
fn histogram(
    outer_claim: Option<u32>,
    inner_claim: Option<u32>,
    digits: u32,
    high: u64,
    counts: &[u8],
) -> String {
    let claimed = inner_claim.unwrap_or(counts.len() as u32);
    let words = [0x1c84_9313, claimed, 0, digits].map(u32::to_be_bytes).concat();
    let bounds = [1_u64.to_be_bytes(), high.to_be_bytes(), 1_f64.to_be_bytes()].concat();
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&[&words[..], &bounds, counts].concat()).unwrap();
    let compressed = encoder.finish().unwrap();
    let claimed = outer_claim.unwrap_or(compressed.len() as u32);
    STANDARD
        .encode([&[0x1c_849314_u32.to_be_bytes(), claimed.to_be_bytes()].concat()[..], &compressed].concat())
}

const HOUR: u64 = 3_600_000_000_000;

/// Latencies with this histogram.
fn latencies(histogram: &str) -> Value {
    json!({
        "service": {
            "count": 33_792, "min": 1, "mean": 1.0, "stddev": 1.0, "max": 1, "percentiles": [], "hdr_v2": histogram,
        },
        "response": null,
    })
}

#[test]
fn a_histogram_that_claims_too_much_is_refused() {
    let files = Files::new();
    let zeros = vec![0; 200 << 20];
    for (what, histogram, expected) in [
        ("claims 4 GiB", histogram(None, Some(u32::MAX), 3, HOUR, b""), "claims 4294967295 bytes"),
        ("claims 4 GiB compressed", histogram(Some(u32::MAX), None, 3, HOUR, b""), "claims 4294967295 bytes"),
        (
            "a bomb of zeros",
            histogram(None, None, 3, HOUR, &zeros),
            "longer than 270376 bytes when it is inflated",
        ),
        ("5 digits", histogram(None, None, 5, 1 << 62, b""), "5 significant digits; the limit is 3"),
        (
            "a high value",
            histogram(None, None, 3, 1 << 62, b""),
            "its highest value is 4611686018427387904 ns",
        ),
        ("huge text", "A".repeat(LEN), "it has 1048576 characters"),
    ] {
        let text = files.with_histogram(&histogram);
        let [html, merge, compare] = files.read(what, &text);
        for ran in [html, merge] {
            assert_eq!(ran.code, Some(2), "{what}: {ran:?}");
            assert!(ran.stderr.contains(expected), "{what}: {ran:?}");
        }
        // It needs no histogram.
        assert_eq!(compare.code, Some(1), "{what}: {compare:?}");
    }
}

#[test]
fn values_of_other_shapes_and_deep_nesting_take_little_memory() {
    let files = Files::new();
    let result = files.result.to_string();
    let with_field = |value: &str| format!("{},\"x\":{value}}}", result.strip_suffix('}').unwrap());
    let objects = format!("[{}]", vec!["{\"\":0}"; 140_000].join(","));
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let old = include_str!("result-1.json").trim_end();
    let old = format!("{},\"x\":{objects}}}", old.strip_suffix('}').unwrap());
    // Unknown fields are ignored, so that older versions can read newer results.
    for (what, text) in
        [("objects", with_field(&objects)), ("objects, version 1", old), ("nested", with_field(&deep))]
    {
        assert_eq!(files.read(what, &text)[0].code, Some(0), "{what}");
    }
    files.refused("deep arrays", &deep, "is not a result of 'pktbench --json'");
    files.refused("deep objects", &"{\"schema\":".repeat(100_000), "is not a result of 'pktbench --json'");
    let event = format!("{{\"event\":\"result\",\"result\":{{\"schema\":\"pktbench/2\",\"x\":{objects}}}}}");
    files.refused("an event", &event, "does not match the schema");
    files.refused(
        "events",
        &"{\"event\":\"interval\",\"t_s\":1}\n".repeat(36_000),
        "36000 intervals up to 1.0 s",
    );
}

#[test]
fn long_lists_take_little_memory_and_time() {
    let files = Files::new();
    let dense = histogram(None, None, 3, HOUR, &DENSE);
    let stage = json!({
        "name": "a", "start_s": 0, "end_s": 1, "asked": 1, "sent": 1, "received": 1, "packets_per_s": 1,
        "offered_pct": 1, "errors": 1, "latency_ns": latencies(&dense),
    });
    let mut with_stages = files.result.clone();
    with_stages["stages"] = json!([]);
    let addresses = (0..2000).map(|index| {
        json!({
            "address": format!("a{index}"), "opened": 1, "failed": 1, "first_error": null, "sent": 1, "received": 1,
            "packets_per_s": 1, "latency_ns": latencies(&dense),
        })
    });
    let addresses: Vec<_> = addresses.collect();
    let with_addresses = |count| files.changed(|result| result["addresses"] = json!(addresses[..count]));
    let with_stages = Files { result: with_stages, ..Files::new() };
    let interval = r#"{"t_s":1,"received":1,"p50_ns":1,"p99_ns":1,"p999_ns":1,"max_ns":1}"#;
    let percentiles = "/latency_ns/service/percentiles";
    for (what, text) in [
        ("intervals", files.filled("/intervals", interval, None)),
        ("numbers", files.filled("/intervals", "0", None)),
        ("problems", files.filled("/problems", "\"pass\"", None)),
        ("percentiles", files.filled(percentiles, "[1,null]", Some(100))),
        ("stages", with_stages.filled("/stages", &stage.to_string(), Some(100))),
        ("addresses", with_addresses(100)),
    ] {
        files.read(what, &text);
    }
    let many = files.changed(|result| {
        (result["stages"], result["addresses"]) =
            (json!(vec![stage.clone(); 1000]), json!(addresses[..1000]));
    });
    files.refused("dense histograms", &many, "too many for its length");
    for (what, text) in [
        ("percentiles", files.filled(percentiles, "[1,null]", None)),
        ("stages", with_stages.filled("/stages", &stage.to_string(), None)),
        ("addresses", with_addresses(2000)),
        ("source addresses", files.filled("/config/source_addrs", "\"\"", None)),
    ] {
        files.refused(what, &text, &format!(" {what}; the limit is "));
    }
    let labels = (0..80_000).map(|index| (format!("{index:x}"), json!("")));
    let labels = files.changed(|result| result["labels"] = Value::Object(labels.collect()));
    files.refused("labels", &labels, "has 80000 labels; the limit is 1000");
}

#[test]
fn a_text_of_stages_cannot_claim_more_than_1000() {
    let files = Files::new();
    let intervals = (1..40).map(|second| {
        json!({
            "t_s": second, "received": 1, "p50_ns": 1, "p99_ns": 1, "p999_ns": 1, "max_ns": 1,
        })
    });
    let intervals: Vec<_> = intervals.collect();
    // More stages than the limit, and then a stage of 100 million steps.
    let stages = "hold 1 1s,".repeat(1001) + "step 0.001 every 1s to 100000";
    let text = files.changed(|result| {
        result["intervals"] = json!(intervals);
        result["config"]["mode"] = json!("open");
        result["config"]["rate"] = json!(1.0);
        result["config"]["stages"] = json!(stages);
    });
    assert_eq!(files.read("stages", &text)[0].code, Some(0));
}

#[test]
fn enormous_numbers_and_texts_are_read_or_refused() {
    let files = Files::new();
    let result = files.result.to_string();
    let seconds = |value: &str| result.replace("\"seconds\":", &format!("\"seconds\":{value},\"x\":"));
    for (value, expected) in [
        ("NaN", "is not a result of 'pktbench --json'"),
        ("1e999", "number out of range"),
        (&"9".repeat(1_000_000), "number out of range"),
    ] {
        files.refused(&value[..3], &seconds(value), expected);
    }
    for value in ["1e308", "-1e308", "0.0000000000000000001"] {
        files.read(value, &seconds(value));
    }
    let long = "x".repeat(LEN);
    files.refused(
        "verdict",
        &files.changed(|result| result["verdict"] = json!(long)),
        "unknown variant `xxx",
    );
    files.refused("schema", &files.changed(|result| result["schema"] = json!(long)), "has the schema \"xxx");
    files.read("server", &files.changed(|result| result["config"]["server"] = json!(long)));
    files.refused("spaces", &" ".repeat(LEN), "does not begin with '{'");
    files.refused("lines", &"\n".repeat(LEN), "does not begin with '{'");
}

#[test]
fn devices_and_pipes_are_refused_or_read_up_to_their_end() {
    let files = Files::new();
    for device in ["/dev/zero", "/dev/null"] {
        for args in
            [vec!["html", device, "x.html"], vec!["merge", device, device], vec!["compare", device, device]]
        {
            let ran = bounded(&args);
            assert_eq!(ran.code, Some(2), "{ran:?}");
            assert!(ran.stderr.contains(device), "{ran:?}");
        }
    }
    let pipe = files.path("pipe");
    assert!(command("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = {
        let (pipe, result) = (pipe.clone(), files.result.to_string());
        std::thread::spawn(move || fs::write(pipe, result))
    };
    let page = files.path("page.html");
    let ran = bounded(&["html", pipe.to_str().unwrap(), page.to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    writer.join().unwrap().unwrap();
}

/// Runs a short load that reads `file` with `option`.
#[track_caller]
fn load_with(option: &str, file: &Path) -> Ran {
    let path = file.to_str().unwrap();
    let args: Vec<_> = option.split(' ').map(|word| word.replace("FILE", path)).collect();
    bounded(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn captures_that_claim_long_packets_or_use_many_flows_are_bounded() {
    let files = Files::new();
    let word = |value: u32| value.to_le_bytes();
    let header = [0xa1b2_3c4d, 0x0004_0002, 0, 0, 262_144, 101].map(word).concat();
    let claims = |len: u32| [&header[..], &[0, 0, len, len].map(word).concat(), &[7; 100]].concat();
    let replay = "--replay FILE --tcp-port 14572";
    for (what, bytes) in [
        ("4 GiB", claims(u32::MAX)),
        ("2 GiB", claims(1 << 31)),
        ("1 MiB of zeros", [&header[..], &vec![0; LEN]].concat()),
        ("no header", vec![0; LEN]),
        ("pcapng", [&[0x0a0d_0d0a, u32::MAX, 0x1a2b_3c4d].map(word).concat()[..], &vec![0; LEN]].concat()),
    ] {
        let ran = load_with(replay, &files.write("hostile.pcap", bytes));
        assert_eq!(ran.code, Some(2), "{what}: {ran:?}");
        assert!(ran.error_line().contains("--replay"), "{what}: {ran:?}");
    }
    let interfaces = {
        let section = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 28].map(word).concat();
        let interface = [1, 20, 101, 0, 20].map(word).concat();
        [section, interface.repeat(LEN / 20)].concat()
    };
    let ran = load_with(replay, &files.write("hostile.pcap", interfaces));
    assert_eq!(ran.code, Some(2), "{ran:?}");
    // 20,000 connections of one packet each, all with a gap before their data.
    let mut flows = header.clone();
    for client in 0..20_000_u32 {
        let [high, low] = (client as u16).to_be_bytes();
        let ip = [0x45, 0, 0, 41, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, (client >> 16) as u8, 1, 10, 0, 0, 2];
        let tcp = [high, low, 0x38, 0xec, 0, 0, 0, 9, 0, 0, 0, 0, 5 << 4, 16, 255, 255, 0, 0, 0, 0, 7];
        flows.extend([0, client, 41, 41].map(word).concat());
        flows.extend([&ip[..], &tcp].concat());
    }
    let ran = load_with(&format!("{replay} --connect 127.0.0.1:1"), &files.write("hostile.pcap", flows));
    assert!(matches!(ran.code, Some(1 | 2)), "{ran:?}");
}

#[test]
fn files_of_payloads_sizes_and_certificates_are_bounded() {
    let files = Files::new();
    let binary = files.write("zeros", vec![0; LEN]);
    let lines = files.write("lines.ndjson", "a\n".repeat(LEN / 2));
    let digits = files.write("digits", "9".repeat(LEN));
    let pem = files.write("ca.pem", format!("-----BEGIN CERTIFICATE-----\n{}\n", "A".repeat(LEN)));
    let short = "--packets 10 --conns 1 --max-payload 2MiB --json";
    for (option, file, codes) in [
        ("--payload file:FILE", &binary, [0, 0]),
        ("--payload file:FILE", &lines, [0, 0]),
        ("--sizes file:FILE", &binary, [2, 2]),
        ("--sizes file:FILE", &digits, [2, 2]),
        ("--connect 127.0.0.1:1 --tls --tls-ca FILE", &pem, [1, 2]),
        ("--connect 127.0.0.1:1 --tls --tls-ca FILE", &binary, [1, 2]),
        ("--connect 127.0.0.1:1 --tls --tls-cert FILE --tls-key FILE", &pem, [1, 2]),
        ("--baseline FILE", &digits, [2, 2]),
    ] {
        let ran = load_with(&format!("{option} {short}"), file);
        assert!(ran.code.is_some_and(|code| codes.contains(&code)), "{option}: {ran:?}");
        assert!(ran.stderr.len() < 5000, "{option}: {} bytes", ran.stderr.len());
    }
}

#[test]
fn endless_files_end_in_an_error() {
    let zero = Path::new("/dev/zero");
    for option in [
        "--sizes file:FILE",
        "--replay FILE --tcp-port 1",
        "--connect 127.0.0.1:1 --tls --tls-ca FILE",
        "--connect 127.0.0.1:1 --tls --tls-cert FILE --tls-key FILE",
        "--connect 127.0.0.1:1 --tls --tls-insecure --tls-cert FILE --tls-key FILE",
    ] {
        let ran = load_with(&format!("{option} --json"), zero);
        assert!(matches!(ran.code, Some(1 | 2)), "{option}: {ran:?}");
    }
}
