//! Opens the HTML report in a real browser.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::common::result::result;
use crate::common::{command, pktbench};
use tempfile::TempDir;

/// A page in `target/tmp`, where it can be viewed after the test, and a browser with a fresh profile.
struct Browser {
    page: PathBuf,
    profile: TempDir,
}

impl Browser {
    fn with_page(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (result_file, page) = (dir.join(format!("{name}.json")), dir.join(format!("{name}.html")));
        fs::write(&result_file, result().to_string()).unwrap();
        let drawn = pktbench(&format!("html {} {}", result_file.display(), page.display()));
        assert_eq!(drawn.code, Some(0), "{drawn:?}");
        Self { page, profile: tempfile::tempdir().unwrap() }
    }

    /// Runs the browser, and checks that it reports no problem of the page.
    #[track_caller]
    fn run(&self, args: &[&str]) -> Output {
        let profile = format!("--user-data-dir={}", self.profile.path().display());
        let quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile];
        let logging = ["--enable-logging=stderr", "--v=0", "--timeout=30000"];
        let mut browser = command("chromium");
        browser.args(quiet).args(logging).args(args).arg(format!("file://{}", self.page.display()));
        let output = browser.output().expect("chromium can be run");
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        // The browser logs errors of styles, scripts and requests with this word.
        assert!(!log.contains("CONSOLE"), "{log}");
        output
    }

    /// Takes a screenshot. Returns its colors with their number of pixels, the most frequent first.
    #[track_caller]
    fn colors(&self, name: &str, scheme: &str, size: (u32, u32)) -> Vec<(Rgb, usize)> {
        let file = self.page.with_file_name(format!("{name}.png"));
        let _ = fs::remove_file(&file);
        let screenshot = format!("--screenshot={}", file.display());
        let window = format!("--window-size={},{}", size.0, size.1);
        self.run(&[&screenshot, &window, "--hide-scrollbars", scheme]);
        colors(&file, size)
    }
}

type Rgb = [u8; 3];

fn colors(file: &Path, size: (u32, u32)) -> Vec<(Rgb, usize)> {
    let mut png = png::Decoder::new(BufReader::new(File::open(file).unwrap())).read_info().unwrap();
    let mut bytes = vec![0; png.output_buffer_size().unwrap()];
    let info = png.next_frame(&mut bytes).unwrap();
    assert_eq!((info.width, info.height), size);
    assert_eq!(info.bit_depth, png::BitDepth::Eight);
    let mut counts = HashMap::new();
    for pixel in bytes.chunks_exact(info.color_type.samples()) {
        *counts.entry([pixel[0], pixel[1], pixel[2]]).or_insert(0) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| Reverse(*count));
    counts
}

const LIGHT: &str = "--blink-settings=preferredColorScheme=1";
const DARK: &str = "--blink-settings=preferredColorScheme=0";

#[test]
#[ignore = "needs chromium: cargo test -p pktbench -- --include-ignored"]
fn chromium_shows_all_charts_without_an_error() {
    let browser = Browser::with_page("shown");
    let dom = String::from_utf8(browser.run(&["--dump-dom"]).stdout).unwrap();
    assert_eq!(dom.matches("<svg ").count(), 4, "{dom}");
    assert_eq!(dom.matches("<figcaption>").count(), 4, "{dom}");
    // The parser had nothing to repair: the end of the page is still at the end.
    assert!(dom.trim_end().ends_with("</footer>\n</main>\n\n\n</body></html>"), "{dom}");
}

#[test]
#[ignore = "needs chromium: cargo test -p pktbench -- --include-ignored"]
fn chromium_shows_the_page_in_light_and_dark_on_wide_and_narrow_screens() {
    let browser = Browser::with_page("seen");
    for (scheme, scheme_name, ground, line) in [
        (LIGHT, "light", [0xff, 0xff, 0xff], [0x24, 0x6b, 0xd6]),
        (DARK, "dark", [0x18, 0x1c, 0x22], [0x6a, 0xa5, 0xf8]),
    ] {
        for (size, width_name) in [((1280, 2200), "wide"), ((420, 4200), "narrow")] {
            let name = format!("{scheme_name}-{width_name}");
            let colors = browser.colors(&name, scheme, size);
            // Cards cover most of the page. The lines of the charts have the colors of the scheme.
            assert_eq!(colors[0].0, ground, "{name}");
            assert!(colors.iter().any(|(color, count)| *color == line && *count > 50), "{name}");
        }
    }
}
