//! Which files a run writes, when, and which it leaves as they were; and standard output as a file.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::thread;

use crate::common::{command, pktbench, ran};
use serde_json::Value;

const RUN: &str = "--packets 40 --conns 2";

/// The options of all outputs, with files in this folder.
fn all_outputs(dir: &Path) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    format!(
        "-o {} --hdr-log {} --hgrm {} --html {}",
        file("r.json"),
        file("r.hlog"),
        file("r.hgrm"),
        file("r.html")
    )
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

#[test]
fn a_run_that_cannot_connect_leaves_all_files_as_they_were_and_creates_none() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // A port that was just in use, and is not given to another program at once.
    drop(listener);
    let dir = tempfile::tempdir().unwrap();
    let run = |format: &str| pktbench(&format!("{addr} {RUN} {format} {}", all_outputs(dir.path())));
    for format in ["", "--format ndjson", "--format csv", "--format text"] {
        let ran = run(format);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
        assert_eq!(names(dir.path()), [""; 0], "{format}");
    }
    let all = ["r.hgrm", "r.hlog", "r.html", "r.json"];
    all.iter().for_each(|name| fs::write(dir.path().join(name), "old").unwrap());
    for format in ["", "--format ndjson", "--format csv", "--format text"] {
        assert_eq!(run(format).code, Some(1));
        assert_eq!(names(dir.path()), all);
        assert!(
            all.iter().all(|name| fs::read_to_string(dir.path().join(name)).unwrap() == "old"),
            "{format}"
        );
    }
    assert_eq!(pktbench(&format!("{RUN} {}", all_outputs(dir.path()))).code, Some(0));
    assert_eq!(names(dir.path()), all);
    assert!(all.iter().all(|name| fs::read_to_string(dir.path().join(name)).unwrap().len() > 100));
}

#[test]
fn a_dash_is_standard_output() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &str| {
        let args = args.split_whitespace().map(str::to_owned);
        ran(command(env!("CARGO_BIN_EXE_pktbench")).args(args).args(["--packets", "40"]).current_dir(&dir))
    };
    for (args, start) in [
        ("-o -", "mode "),
        ("--json -o -", "{\"schema\""),
        ("-o /dev/stdout --json", "{\"schema\""),
        ("--html -", "<!DOCTYPE html>"),
        ("--hgrm -", "       Value"),
        ("--hdr-log -", "#[Logged with pktbench"),
        ("--html - -o result.json", "<!DOCTYPE html>"),
    ] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{args}");
        assert!(ran.stdout.starts_with(start), "{args}: {}", ran.stdout);
        assert!(!ran.stdout.contains("\nmode "), "{args}: the text report, too: {}", ran.stdout);
    }
    assert_eq!(names(dir.path()), ["result.json"]);
    let again =
        ran(command(env!("CARGO_BIN_EXE_pktbench")).args(["html", "result.json", "-"]).current_dir(&dir));
    assert!(again.stdout.starts_with("<!DOCTYPE html>"), "{again:?}");
    for args in ["--json --html -", "-o - --hgrm -", "--format text --html -", "--html - --hgrm -"] {
        let ran = run(args);
        assert!(ran.error_line().contains("only one output can go to standard output"), "{args}: {ran:?}");
        assert_eq!(ran.code, Some(2), "{args}");
    }
}

#[test]
fn no_output_overwrites_another_one_or_an_input() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let [a, also_a, base, sizes] = ["a", "./a", "base.json", "sizes.csv"].map(file);
    assert_eq!(pktbench(&format!("{RUN} -o {base}")).code, Some(0));
    let other = file("other.json");
    assert_eq!(pktbench(&format!("{RUN} --seed 2 -o {other}")).code, Some(0));
    fs::write(&sizes, "64\n").unwrap();
    let linked = file("linked.json");
    fs::hard_link(&base, &linked).unwrap();
    let before = fs::read_to_string(&base).unwrap();
    for (args, expected) in [
        (format!("-o {a} --html {also_a}"), "is given twice"),
        (format!("--baseline {base} -o {base}"), "would overwrite the file of --baseline"),
        (format!("--baseline {base} --hgrm {linked}"), "would overwrite the file of --baseline"),
        (format!("--sizes file:{sizes} --html {sizes}"), "would overwrite the file of --sizes"),
        (format!("merge {base} {other} -o {linked}"), "would overwrite the result"),
        (format!("html {base} {linked}"), "would overwrite the result"),
    ] {
        let ran = pktbench(&args);
        assert!(ran.error_line().contains(expected), "{args}: {ran:?}");
        assert_eq!(ran.code, Some(2), "{args}");
    }
    assert_eq!(fs::read_to_string(&base).unwrap(), before);
    assert_eq!(fs::read_to_string(&sizes).unwrap(), "64\n");
}

#[test]
fn a_named_pipe_gets_the_result() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    for format in ["json", "ndjson"] {
        let reader = thread::spawn({
            let pipe = pipe.clone();
            move || fs::read_to_string(pipe).unwrap()
        });
        let ran = pktbench(&format!("{RUN} --format {format} -o {}", pipe.display()));
        assert_eq!(ran.code, Some(0), "{ran:?}");
        let text = reader.join().unwrap();
        let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert!(last["schema"] == "pktbench/2" || last["event"] == "result", "{last}");
    }
    assert_eq!(names(dir.path()), ["pipe"]);
}

#[test]
fn a_run_ends_when_nobody_reads_its_lines_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("r.html");
    let mut child = command(env!("CARGO_BIN_EXE_pktbench"))
        .args("--conns 2 --warmup 0 --duration 1h --interval 100ms --format ndjson --html".split(' '))
        .arg(&file)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("{\"event\":\"start\""));
    assert!(lines.next().unwrap().unwrap().starts_with("{\"event\":\"interval\""));
    drop(lines);
    // Without the end it would run for an hour.
    let code = child.wait().unwrap().code();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((code, errors.as_str()), (Some(141), ""));
    assert!(fs::read_to_string(file).unwrap().contains("interrupted"), "the results so far are in the files");
}

#[test]
fn a_search_and_a_conform_test_end_when_nobody_reads_their_rows() {
    let (addr, _) = crate::common::start("127.0.0.1:0", pktconn::ServerConfig::new());
    for args in [format!("conform {addr}"), format!("{addr} --search-max p99<10s -c 2 --warmup 0 -d 0.2")] {
        let mut child = command(env!("CARGO_BIN_EXE_pktbench")).args(args.split(' ')).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]), "{args}");
    }
}
