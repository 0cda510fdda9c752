//! The charts of a result as one SVG picture for a manual or a ticket: two charts in a row, on a white background.

use super::chart::{Chart, HEIGHT, WIDTH, view_box};
use super::charts::charts;
use super::markup::escape;
use crate::report::verdict;
use crate::result::document::Document;
use crate::result::verdict::Verdict;

const MARGIN: f64 = 16.0;

/// Height of the title and the note above a chart.
const TITLE: f64 = 40.0;

/// Height of the line with the verdict.
const VERDICT: f64 = 24.0;

/// `None` if there is no chart to draw.
pub(super) fn svg(document: &Document) -> Option<String> {
    let charts = charts(document);
    let columns = charts.len().min(2);
    let rows = charts.len().div_ceil(2);
    let width = MARGIN + columns as f64 * (WIDTH + MARGIN);
    let verdict = verdict_line(document);
    let top = MARGIN + if verdict.is_empty() { 0.0 } else { VERDICT };
    let height = top + rows as f64 * (TITLE + HEIGHT + MARGIN);
    let placed = charts.iter().enumerate().map(|(index, chart)| {
        let (column, row) = (index % 2, index / 2);
        let x = MARGIN + column as f64 * (WIDTH + MARGIN);
        placed(chart, x, top + row as f64 * (TITLE + HEIGHT + MARGIN))
    });
    (columns > 0).then(|| {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\">\n\
             <title>pktbench charts</title>\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#FFFFFF\"/>\n{verdict}{}</svg>\n",
            placed.collect::<String>()
        )
    })
}

/// A picture without its page must not hide that the run did not plainly pass.
fn verdict_line(document: &Document) -> String {
    if document.verdict == Verdict::Pass {
        return String::new();
    }
    let (y, verdict) = (MARGIN + 12.0, escape(&verdict::text(document)));
    format!("<text x=\"{MARGIN}\" y=\"{y}\" font-size=\"13\" fill=\"#8A4B00\">verdict: {verdict}</text>\n")
}

fn placed(chart: &Chart, x: f64, y: f64) -> String {
    let Chart { id: _, title, note, content } = chart;
    let (title_y, note_y, chart_y) = (y + 14.0, y + 32.0, y + TITLE);
    format!(
        "<text x=\"{x}\" y=\"{title_y}\" font-size=\"15\" font-weight=\"bold\" fill=\"#1F2328\">{}</text>\n\
         <text x=\"{x}\" y=\"{note_y}\" font-size=\"12\" fill=\"#5B6470\">{}</text>\n\
         <svg x=\"{x}\" y=\"{chart_y}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"{}\" \
         overflow=\"visible\">\n{content}\n</svg>\n",
        escape(title),
        escape(note),
        view_box()
    )
}
