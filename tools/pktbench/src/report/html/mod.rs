//! The result as an HTML page, or its charts as an SVG picture. One file that needs no other file and no network.
//!
//! ```text
//!   document --> charts --> chart: series between axes --> canvas: SVG in the colors of a light page
//!      |                                                      |
//!      |                              svg: unchanged <--------+-------> page: colors become CSS variables
//!      +--------------- fields, markup: tables -------------------------^
//! ```
//!
//! This module only displays: it measures and judges nothing. All text from the document is escaped.

mod page;

mod markup;

mod fields;

mod svg;

mod charts;

mod timeline;

mod chart;

mod scale;

mod canvas;

mod palette;

use std::path::Path;

use anyhow::{Context, ensure};

use crate::report::paths::is_same_file;
use crate::report::sink::Sink;
use crate::result::document::Document;

/// The HTML page, or the charts as one SVG picture if the name of `path` ends in `.svg`.
pub(crate) fn text(document: &Document, path: &Path) -> anyhow::Result<String> {
    match path.extension() {
        Some(extension) if extension == "svg" => {
            svg::svg(document).context("nothing to draw: the result has no samples")
        }
        _ => Ok(page::page(document)),
    }
}

/// Reads an earlier result and checks that its histograms can be drawn, and that `file` would not overwrite it.
pub(crate) fn read(result: &Path, file: &Path) -> anyhow::Result<Document> {
    ensure!(
        !is_same_file(result, file),
        "the page would overwrite the result {}; give another file",
        result.display()
    );
    let document = Document::read(result)?;
    let latencies = &document.latency_ns;
    for latency in [Some(&latencies.service), latencies.response.as_ref()].into_iter().flatten() {
        latency.all().with_context(|| format!("{}: a histogram (hdr_v2) is not valid", result.display()))?;
    }
    Ok(document)
}

/// Writes the page or picture of a result that [`read`] returned.
pub(crate) fn write(document: &Document, path: &Path) -> anyhow::Result<()> {
    let text = text(document, path)?;
    Sink::whole(path)?.all(&text)
}
