//! The HTML report, and its charts as an SVG picture.

use std::fs;
use std::path::PathBuf;

use crate::common::result::{closed_loop, result};
use crate::common::{Ran, command, pktbench, ran};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Runs `pktbench html` for a result. Returns the output, the path of the written file, and the directory that holds
/// it.
fn draw(result: &str, name: &str) -> (Ran, PathBuf, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("result.json"), dir.path().join(name));
    fs::write(&from, result).unwrap();
    (ran(command(env!("CARGO_BIN_EXE_pktbench")).arg("html").args([&from, &to])), to, dir)
}

#[track_caller]
fn drawn(result: &Value, name: &str) -> String {
    let (ran, file, _dir) = draw(&result.to_string(), name);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
    fs::read_to_string(file).unwrap()
}

/// Checks that the text is well-formed XML: all elements are closed in the right order.
#[track_caller]
fn assert_well_formed(text: &str) {
    let mut open = Vec::new();
    let mut parts = text.split('<');
    assert_eq!(parts.next(), Some(""));
    for part in parts {
        let (tag, text) = part.split_once('>').unwrap_or_else(|| panic!("a tag does not end: {part}"));
        assert!(!text.contains('>'), "{part}");
        let name = tag.split([' ', '/']).find(|word| !word.is_empty()).unwrap_or_default();
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "{part}");
        } else if !tag.starts_with('!') && !tag.ends_with('/') {
            open.push(name);
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{part}");
        for entity in text.split('&').skip(1) {
            assert!(
                ["lt;", "gt;", "amp;", "quot;", "apos;", "#39;"]
                    .iter()
                    .any(|known| entity.starts_with(known))
            );
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

fn charts(page: &str) -> Vec<&str> {
    let figures = page.split("<figure class=\"card\" id=\"").skip(1);
    figures.map(|figure| figure.split('"').next().unwrap_or_default()).collect()
}

#[test]
fn a_page_has_all_charts_and_is_well_formed() {
    let page = drawn(&result(), "page.html");
    assert_well_formed(&page);
    assert_eq!(charts(&page), ["spectrum", "throughput", "latency", "sizes"]);
    assert_eq!(page.matches("<svg ").count(), 4);
    for expected in [
        "threshold</strong> at least one condition does not hold",
        ">p99.99<",
        "✗ does not hold",
        "212 ms",
        "39.1 MiB/s<",
        "61 %",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
}

#[test]
fn a_page_needs_no_network() {
    let page = drawn(&result(), "page.html").replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
    for reference in ["://", "url(", "@import", "<script", "<link", "<img", " src=", " href=", "\"//"] {
        assert!(!page.contains(reference), "{reference}");
    }
}

#[test]
fn charts_use_css_variables_for_their_colors() {
    let page = drawn(&result(), "page.html");
    let (_, figures) = page.split_once("<section class=\"charts\"").unwrap();
    let (figures, _) = figures.split_once("</section>").unwrap();
    assert!(!figures.contains("\"#") && figures.contains("stroke=\"var(--blue)\""), "{figures}");
}

#[test]
fn text_of_a_result_never_becomes_markup() {
    let evil = "<script>alert(\"1\")</script>&'";
    let mut result = result();
    result["labels"] = json!({ evil: evil });
    for name in ["server", "sizes", "header"] {
        result["config"][name] = json!(evil);
    }
    for name in ["name", "os", "arch"] {
        result["host"][name] = json!(evil);
    }
    result["tool"] = json!({"name": evil, "version": evil});
    result["errors"]["first"] = json!(evil);
    result["thresholds"][0]["expr"] = json!(evil);
    let page = drawn(&result, "page.html");
    assert_well_formed(&page);
    assert!(!page.contains("<script"), "{page}");
    // Two for the label, two for the server (title and heading), and one for each of the others.
    assert_eq!(page.matches("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;").count(), 14);
}

#[test]
fn the_page_says_that_a_closed_loop_hides_stalls() {
    let page = drawn(&closed_loop(), "page.html");
    assert!(page.contains(
        "<p class=\"mode caution\"><strong>closed loop</strong> a connection sends its next packet"
    ));
    assert!(page.contains("high percentiles hide stalls"), "{page}");
    assert!(!drawn(&result(), "page.html").contains("hide stalls"));
}

#[test]
fn there_is_no_chart_for_what_was_not_measured() {
    let mut result = result();
    result["latency_ns"]["response"] = Value::Null;
    result["sizes"] = json!([]);
    result["intervals"] = json!([{
        "t_s": 0.2, "received": 9, "p50_ns": null, "p99_ns": null, "p999_ns": null, "max_ns": null
    }]);
    assert_eq!(charts(&drawn(&result, "page.html")), ["spectrum"]);
    result.as_object_mut().unwrap().remove("sizes");
    assert_eq!(charts(&drawn(&result, "page.html")), ["spectrum"]);
}

#[test]
fn a_run_without_a_sample_has_a_page_without_charts_and_no_picture() {
    // A port that was just released: nothing listens on it.
    let addr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = pktbench(&format!("--connect {addr} --timeout 1s --json"));
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let text = drawn(&ran.document(), "page.html");
    assert_well_formed(&text);
    assert!(text.contains("badge bad\">failed<") && !text.contains("<svg"), "{text}");
    let (ran, _, _dir) = draw(&ran.stdout, "picture.svg");
    assert_eq!(ran.error_line(), "error: nothing to draw: the result has no samples");
    assert_eq!(ran.code, Some(1));
}

#[test]
fn a_run_writes_the_same_page_as_the_html_command() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("page.html");
    let ran = pktbench(&format!("--conns 4 --packets 400 --json --html {}", page.display()));
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(fs::read_to_string(page).unwrap(), drawn(&ran.document(), "page.html"));
}

#[test]
fn a_picture_has_the_charts_on_a_light_background() {
    let picture = drawn(&result(), "picture.svg");
    assert_well_formed(&picture);
    assert_eq!(picture.matches("<svg ").count(), 1 + 4);
    assert!(!picture.contains("var(") && picture.len() < 150_000, "{}", picture.len());
}

#[test]
fn an_invalid_result_is_a_one_line_error() {
    let mut other = result();
    other["schema"] = "pktbench/3".into();
    let mut no_histogram = result();
    no_histogram["latency_ns"]["service"]["hdr_v2"] = json!("HISTFAAAA");
    let cases = [
        ("{".to_owned(), "is not a result of 'pktbench --json'"),
        ("[1]".to_owned(), "is not a result of 'pktbench --json'"),
        (r#"{"schema":"pktbench/1"}"#.to_owned(), "does not match the schema \"pktbench/1\""),
        (
            other.to_string(),
            "has the schema \"pktbench/3\"; this version of pktbench reads \"pktbench/2\" and \"pktbench/1\"",
        ),
        (no_histogram.to_string(), "a histogram (hdr_v2) is not valid"),
    ];
    for (text, expected) in cases {
        let (ran, _, _dir) = draw(&text, "page.html");
        assert!(ran.error_line().contains(expected), "{ran:?}");
        assert_eq!(ran.code, Some(2));
    }
    let missing = pktbench("html /nowhere/result.json page.html");
    assert!(missing.error_line().starts_with("error: cannot read /nowhere/result.json: "), "{missing:?}");
}

#[test]
fn absurd_numbers_do_not_break_the_page() {
    for number in [json!(0), json!(u64::MAX)] {
        let mut result = result();
        for group in ["integrity", "errors"] {
            for (_, value) in
                result[group].as_object_mut().unwrap().iter_mut().filter(|(_, value)| value.is_u64())
            {
                *value = number.clone();
            }
        }
        for interval in result["intervals"].as_array_mut().unwrap() {
            interval["p99_ns"] = number.clone();
            interval["received"] = number.clone();
        }
        result["intervals"][29]["t_s"] = json!(1.7e308);
        result["sizes"][0]["p50_ns"] = number.clone();
        result["window"]["start_unix_ns"] = number.clone();
        result["window"]["seconds"] = json!(0.0);
        let page = drawn(&result, "page.html");
        assert_well_formed(&page);
        assert!(!page.contains("NaN") && !page.contains("inf"), "{page}");
    }
}
