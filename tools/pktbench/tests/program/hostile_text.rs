//! Text of others that would control a terminal, hide a part of a line or forge another one: names in files, and the names of
//! files. It is escaped wherever it is printed.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::common::result::result;
use crate::common::{Ran, command, ran};

/// Clears the screen, sets the title of the terminal, reverses and hides text, and forges a line. Then it is long.
const EVIL: &str =
    "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{202e}\u{2066}\u{200b}\u{feff}\r\nverdict     pass<script>\u{7f}";

/// Fields whose texts are names of the format. Others may be anything.
const FORMAT_NAMES: [&str; 12] = [
    "schema",
    "mode",
    "arrival",
    "verify",
    "verdict",
    "problems",
    "hdr_v2",
    "censored_hdr_v2",
    "finding",
    "metric",
    "saturated_by",
    "ended_by",
];

/// Replaces every text that may be anything.
fn make_evil(value: &mut Value) {
    match value {
        Value::String(text) => *text = EVIL.to_owned() + &"long".repeat(2000),
        Value::Array(values) => values.iter_mut().for_each(make_evil),
        Value::Object(fields) => {
            let others = fields.iter_mut().filter(|(name, _)| !FORMAT_NAMES.contains(&name.as_str()));
            others.for_each(|(_, value)| make_evil(value));
        }
        _ => {}
    }
}

/// A result in which every field has a text.
fn evil_result() -> Value {
    let mut result = result();
    let latency = result["latency_ns"].clone();
    result["errors"] = json!({
        "connect": 1, "reset": 0, "timeout": 0, "eof": 0, "truncated": 0, "checksum": 0, "protocol": 0, "io": 0,
        "first": "",
    });
    for name in ["replay", "payload", "stages"] {
        result["config"][name] = json!("");
    }
    result["config"]["source_addrs"] = json!([""]);
    result["stages"] = json!([{
        "name": "", "start_s": 0, "end_s": 1, "asked": 1, "sent": 1, "received": 1, "packets_per_s": 1,
        "offered_pct": 1, "errors": 1, "latency_ns": latency,
    }]);
    result["addresses"] = json!([{
        "address": "", "opened": 1, "failed": 1, "first_error": "", "sent": 1, "received": 1, "packets_per_s": 1,
        "latency_ns": latency,
    }]);
    let step = json!({"rate": 1.0, "packets_per_s": 1.0, "p50_ns": 1, "p99_ns": 1, "value": 1.0, "ok": false, "problem": ""});
    result["search"] = json!({"condition": "", "max_rate": 1.0, "steps": [step]});
    result["aborted"] = json!({"condition": "", "at_s": 1.0});
    result["baseline"] = json!({
        "base": "", "confidence_pct": 99.0, "metrics": [], "differs": [""], "saturated": [""], "verdict": "pass",
    });
    make_evil(&mut result);
    result["labels"] = json!({ EVIL: EVIL });
    result
}

/// Checks that an output has nothing but text and line ends, and no line that runs away.
#[track_caller]
fn assert_plain(what: &str, output: &str, max_line: usize) {
    let hidden = |symbol: char| {
        symbol != '\n' && symbol.is_control() || "\u{202e}\u{2066}\u{200b}\u{feff}".contains(symbol)
    };
    let found = output.find(hidden).map(|at| output[at..].chars().take(20).collect::<String>());
    assert_eq!(found, None, "{what}: {output}");
    assert!(!output.lines().any(|line| line.starts_with("verdict     pass<script>")), "{what}: {output}");
    let longest = output.lines().map(|line| line.chars().count()).max().unwrap_or_default();
    assert!(longest <= max_line, "{what}: a line of {longest} characters");
}

fn pktbench_in(dir: &Path, args: &[&str]) -> Ran {
    ran(command(env!("CARGO_BIN_EXE_pktbench")).current_dir(dir).args(args))
}

#[test]
fn text_of_a_file_is_escaped_in_every_output() {
    let dir = tempfile::tempdir().unwrap();
    let (evil, mut good) = (evil_result(), evil_result());
    let write = |name: &str, value: &Value| fs::write(dir.path().join(name), value.to_string()).unwrap();
    write("evil.json", &evil);
    good["config"]["sizes"] = json!("8");
    good["seed"] = json!(7);
    write("other.json", &good);
    good["config"]["sizes"] = evil["config"]["sizes"].clone();
    good["totals"]["sent"] = json!(9);
    write("twin.json", &good);
    let run = |args: &[&str]| pktbench_in(dir.path(), args);

    let sum = run(&["merge", "evil.json", "twin.json"]);
    assert!(sum.stdout.contains("\nserver      \\u{1b}[2J"), "{}", sum.stdout);
    for (what, ran, max_line) in [
        ("merge", sum, 4100),
        ("merge --format json", run(&["merge", "evil.json", "twin.json", "--format", "json"]), usize::MAX),
        ("merge of other loads", run(&["merge", "evil.json", "other.json"]), 4100),
        ("compare", run(&["compare", "--force", "evil.json", "other.json"]), 4100),
        ("compare --json", run(&["compare", "--force", "--json", "evil.json", "other.json"]), usize::MAX),
        ("compare without force", run(&["compare", "evil.json", "other.json"]), 4100),
        ("html", run(&["html", "evil.json", "-"]), usize::MAX),
    ] {
        assert!(!ran.stdout.is_empty() || !ran.stderr.is_empty(), "{what}");
        assert!(what != "html" || !ran.stdout.contains("<script"), "{}", ran.stdout);
        assert_plain(what, &ran.stdout, max_line);
        assert_plain(what, &ran.stderr, 4100);
    }
    // The JSON is the same as before.
    let json = run(&["merge", "evil.json", "twin.json", "--format", "json"]).stdout;
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(document["config"]["header"], evil["config"]["header"]);
}

#[test]
fn values_that_are_no_names_of_the_format_are_escaped_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    for pointer in ["/schema", "/verdict", "/config/mode", "/integrity/lost"] {
        let mut evil = result();
        *evil.pointer_mut(pointer).unwrap() = json!(EVIL.to_owned() + &"long".repeat(9999));
        fs::write(dir.path().join("evil.json"), evil.to_string()).unwrap();
        let ran = pktbench_in(dir.path(), &["html", "evil.json", "x.html"]);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert_plain(pointer, ran.error_line(), 4100);
    }
    let sizes = format!("8\n{}\n", EVIL.replace(['\r', '\n'], ""));
    fs::write(dir.path().join("sizes.csv"), sizes).unwrap();
    let ran = pktbench_in(dir.path(), &["--sizes", "file:sizes.csv"]);
    assert_plain("sizes", ran.error_line(), 4100);
}

#[test]
fn names_of_files_and_hosts_are_escaped_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    // macOS allows only UTF-8 in names.
    let last: &[u8] = if cfg!(target_os = "linux") { b"\x9b" } else { "\u{9b}".as_bytes() };
    let name = [b"a\x1b[31m\xe2\x80\xae\n", last, b".json"].concat();
    let name = std::ffi::OsStr::from_bytes(&name);
    fs::write(dir.path().join(name), "{}").unwrap();
    for args in [
        ["html", "x.html"],
        ["merge", "x.json"],
        ["compare", "x.json"],
        ["--payload", ""],
        ["--baseline", ""],
    ] {
        let mut command = command(env!("CARGO_BIN_EXE_pktbench"));
        let ran = ran(command.current_dir(dir.path()).arg(args[0]).arg(name).args(&args[1..]));
        assert_eq!(ran.code, Some(2), "{args:?}: {ran:?}");
        assert_plain(args[0], &ran.stderr, 4100);
    }
    let ran = pktbench_in(dir.path(), &["--connect", "a\u{202e}b.invalid:1", "--packets", "1"]);
    assert_plain("host", &(ran.stdout + &ran.stderr), 4100);
}
