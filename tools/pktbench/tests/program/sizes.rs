//! Runs with each kind of `--sizes`, and the errors for invalid sizes.

use std::fs;
use std::sync::mpsc;

use crate::common::{Answer, command, count, pktbench, ran, serve};

/// Runs two connections against the built-in server.
fn load(sizes: &str) -> serde_json::Value {
    let ran = pktbench(&format!("--sizes {sizes} --conns 2 --pipeline 4 --packets 2000 --json"));
    let document = ran.document();
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{sizes}: {document}");
    assert_eq!(count(&document, "integrity", "verified"), 2000, "{sizes}");
    assert_eq!(document["totals"]["bytes_sent"], document["totals"]["bytes_received"], "{sizes}");
    document
}

#[test]
fn every_measured_packet_is_counted_in_the_class_of_its_size() {
    // Packets that are read together: only one of them gives a latency.
    let document = pktbench("--sizes 0-2048 --pipeline 64 --conns 2 --packets 5000 --json").document();
    let sum = |field: &str| {
        let classes = document["sizes"].as_array().unwrap();
        classes.iter().map(|class| class[field].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(sum("count"), 5000, "{}", document["sizes"]);
    assert!((1..=5000).contains(&sum("samples")), "{}", document["sizes"]);
}

#[test]
fn packets_of_every_kind_of_sizes_come_back_and_the_document_names_the_sizes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sizes.csv");
    fs::write(&path, "len,time\n0,0\n1KiB,1\n").unwrap();
    let file = format!("file:{}", path.display());
    let cases = [
        ("512", "512", 512.0..=512.0),
        ("fixed:1KiB", "fixed:1024", 1024.0..=1024.0),
        ("0-2KiB", "0-2048", 950.0..=1100.0),
        ("list:0@1,1KiB@1", "list:0@1,1024@1", 450.0..=580.0),
        ("exp:512", "exp:512", 450.0..=580.0),
        (file.as_str(), file.as_str(), 512.0..=512.0),
    ];
    for (sizes, named, mean_len) in cases {
        let document = load(sizes);
        assert_eq!(document["config"]["sizes"], named);
        let mean = count(&document, "totals", "bytes_sent") as f64 / 2000.0;
        assert!(mean_len.contains(&mean), "{sizes}: the mean is {mean}");
    }
}

#[test]
fn a_server_sees_the_trace_in_the_order_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("sizes.csv"), "# made by hand\n1460\n52\n0\n300,x\n").unwrap();
    let (seen, lens) = mpsc::channel();
    let addr = serve(move || {
        let seen = seen.clone();
        move |_, frame| {
            let _ = seen.send(frame.len() - 4);
            Answer::Bytes(frame)
        }
    });
    let mut command = command(env!("CARGO_BIN_EXE_pktbench"));
    command.current_dir(dir.path()).args(["--connect", &addr.to_string(), "--sizes", "file:sizes.csv"]);
    let ran = ran(command.args(["--conns", "1", "--pipeline", "3", "--packets", "10"]));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{ran:?}");
    assert!(ran.stdout.contains(" file:sizes.csv, 10 packets in total"), "{}", ran.stdout);
    let lens: Vec<_> = lens.try_iter().collect();
    assert_eq!(lens, [1460, 52, 0, 300, 1460, 52, 0, 300, 1460, 52]);
}

#[test]
fn invalid_sizes_are_bad_usage_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sizes.csv");
    fs::write(&path, "len\n64\nmany\n").unwrap();
    let file = format!("file:{}", path.display());
    let missing = format!("{file}.gone");
    let cases = [
        ("gauss:5", "unknown kind of sizes 'gauss'; write 512, 0-2048, "),
        ("fixed:1-2", "write 1-2 without fixed:"),
        ("list:", "write list:64@9,1024@1"),
        ("list:64@0", "invalid weight '0'; write a whole number from 1, such as 64@9"),
        ("list:64@x", "invalid weight 'x'; write a whole number from 1, such as 64@9"),
        ("list:1@65536,2@1", "the maximum is 65536"),
        ("list:1@9,64MiB@1", "raise it with --max-payload 64MiB"),
        ("exp:0", "write exp:512, or 0 for empty packets"),
        ("exp:16MiB", "raise it with --max-payload "),
        ("file:", "write file:SIZES.csv"),
        (file.as_str(), "sizes.csv, line 3: 'many' is not a size"),
        (missing.as_str(), "sizes.csv.gone: No such file or directory"),
    ];
    for (sizes, expected) in cases {
        let ran = pktbench(&format!("--sizes {sizes}"));
        let line = ran.error_line();
        assert!(line.starts_with("error: ") && line.contains(expected), "{sizes}: {line}");
        assert!(line.ends_with("; see 'pktbench --help'"), "{sizes}: {line}");
        assert_eq!(ran.code, Some(2), "{sizes}");
    }
}
