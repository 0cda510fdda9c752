//! Writes the result at the end of a run, in the format and to the files of the command line, and gives the exit code.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use pktconn_tools::printable::{print_error, print_warning};

use crate::report::hgrm;
use crate::report::html;
use crate::report::metrics::{Metrics, MetricsOptions};
use crate::report::paths::{is_same_file, is_stdout};
use crate::report::sink::Sink;
use crate::report::text;
use crate::result::document::Document;
use crate::result::json;
use crate::result::verdict::{OUTPUT_CLOSED, Verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A text report for people, at the end of the run.
    Text,
    /// One JSON document, at the end of the run.
    Json,
    /// A line of JSON per interval during the run, and the document at the end.
    Ndjson,
    /// A row per interval, during the run.
    Csv,
}

impl Format {
    /// Whether lines are written while the run goes on.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Ndjson | Self::Csv)
    }

    /// The format that the extension of a file name asks for.
    pub(crate) fn of_file(path: &Path) -> Self {
        match path.extension().and_then(OsStr::to_str) {
            Some("json") => Self::Json,
            Some("ndjson") => Self::Ndjson,
            Some("csv") => Self::Csv,
            _ => Self::Text,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) format: Format,
    /// `None` for standard output.
    pub(crate) path: Option<PathBuf>,
    /// Whether an option asks for the result on standard output: `--output -`, or a format without a file. Otherwise
    /// another output may have standard output.
    pub(crate) is_stdout_asked: bool,
    pub(crate) hdr_log: Option<PathBuf>,
    pub(crate) hgrm: Option<PathBuf>,
    /// An HTML page, or an SVG picture if the name ends in `.svg`.
    pub(crate) html: Option<PathBuf>,
    pub(crate) metrics: Option<MetricsOptions>,
}

impl Output {
    /// An error if two outputs go to the same file or both to standard output, or if an output would overwrite one of
    /// the `inputs`, which are options and their files.
    pub(crate) fn check(&self, inputs: &[(&str, &Path)]) -> Result<(), String> {
        if self.others().into_iter().flatten().filter(|path| is_stdout(path)).count()
            + usize::from(self.path.is_none() && self.is_stdout_asked)
            > 1
        {
            return Err("only one output can go to standard output; write the others to files".to_owned());
        }
        let outputs: Vec<_> = self.outputs().filter(|(_, path)| !is_stdout(path)).collect();
        for (index, (option, path)) in outputs.iter().enumerate() {
            let name = path.display();
            if outputs[..index].iter().any(|(_, earlier)| is_same_file(earlier, path)) {
                return Err(format!("{name} is given twice; use a different file for each output"));
            }
            if let Some((input, _)) = inputs.iter().find(|(_, file)| is_same_file(file, path)) {
                return Err(format!("{option} {name} would overwrite the file of {input}; use another file"));
            }
        }
        Ok(())
    }

    /// The files of `--hdr-log`, `--hgrm` and `--html`.
    fn others(&self) -> [Option<&Path>; 3] {
        [&self.hdr_log, &self.hgrm, &self.html].map(Option::as_deref)
    }

    fn outputs(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let [hdr_log, hgrm, html] = self.others();
        [("--output", self.path.as_deref()), ("--hdr-log", hdr_log), ("--hgrm", hgrm), ("--html", html)]
            .into_iter()
            .filter_map(|(option, path)| Some((option, path?)))
    }

    /// Whether another output than the result has standard output.
    fn is_stdout_taken(&self) -> bool {
        self.others().into_iter().flatten().any(is_stdout)
    }

    /// Whether lines are written while the run goes on.
    pub(crate) fn is_live(&self) -> bool {
        self.format.is_live() || self.hdr_log.is_some()
    }

    /// Whether standard output gets text for people.
    pub(crate) fn prints_text(&self) -> bool {
        !self.is_stdout_taken() && (self.format == Format::Text || self.path.is_some())
    }

    /// Checks all files and opens the address of the metrics, so that what cannot be used is an error before the run.
    pub(crate) fn open(self) -> anyhow::Result<Sinks> {
        Ok(Sinks {
            // Opened before the files: a port in use is an error that leaves them alone.
            metrics: self.metrics.as_ref().map(Metrics::serve).transpose()?,
            format: self.format,
            prints_report: self.path.is_some() && !self.is_stdout_taken(),
            reader_left: false,
            result: match &self.path {
                Some(path) if self.format.is_live() => Sink::live(path)?,
                Some(path) => Sink::whole(path)?,
                None if self.is_stdout_taken() => Sink::nowhere(),
                None => Sink::stdout(),
            },
            hdr_log: self.hdr_log.as_deref().map(Sink::live).transpose()?,
            hgrm: self.hgrm.as_deref().map(Sink::whole).transpose()?,
            html: self.html.map(|path| Sink::whole(&path).map(|sink| (path, sink))).transpose()?,
        })
    }
}

/// Text to standard output at the end of the run, and no files.
impl Default for Output {
    fn default() -> Self {
        Self {
            format: Format::Text,
            path: None,
            is_stdout_asked: false,
            hdr_log: None,
            hgrm: None,
            html: None,
            metrics: None,
        }
    }
}

/// The open destinations of an [`Output`].
pub(crate) struct Sinks {
    pub(crate) format: Format,
    /// Whether standard output gets the text report in addition to the result in a file.
    prints_report: bool,
    /// Whether the run was ended because nobody reads standard output any more.
    pub(crate) reader_left: bool,
    pub(crate) result: Sink,
    pub(crate) hdr_log: Option<Sink>,
    hgrm: Option<Sink>,
    html: Option<(PathBuf, Sink)>,
    pub(crate) metrics: Option<Metrics>,
}

impl Sinks {
    /// Writes the result and returns the exit code. A failed write counts as [`Verdict::Failed`], unless the verdict of
    /// the document is worse.
    pub(crate) fn exit(self, document: &Document) -> ExitCode {
        let reader_left = self.reader_left;
        let ended = self.end(document).map_or_else(
            |error| {
                print_error(format_args!("{error:#}"));
                Verdict::Failed
            },
            |()| Verdict::Pass,
        );
        match document.verdict.worse(ended) {
            Verdict::Interrupted if reader_left => ExitCode::from(OUTPUT_CLOSED),
            verdict => ExitCode::from(verdict.exit_code()),
        }
    }

    /// Whether lines go to standard output during the run, and their reader has gone away.
    pub(crate) fn have_no_reader(&self) -> bool {
        self.format.is_live() && self.result.has_no_reader()
            || self.hdr_log.as_ref().is_some_and(Sink::has_no_reader)
    }

    /// Writes everything even if a part fails, and returns the first failure.
    fn end(mut self, document: &Document) -> anyhow::Result<()> {
        if !has_run(document) {
            // The files stay as they were.
            (self.hdr_log, self.hgrm, self.html, self.prints_report) = (None, None, None, false);
            if !self.result.is_stdout() {
                return Ok(());
            }
        }
        match self.format {
            Format::Json => self.result.line(&json::to_line(document)),
            Format::Ndjson => {
                self.result
                    .line(&json::to_line(&serde_json::json!({ "event": "result", "result": document })));
            }
            // The rows were written during the run.
            Format::Csv => {}
            Format::Text => print_to(&mut self.result, document),
        }
        let mut ends = vec![self.result.end()];
        if self.prints_report {
            let mut stdout = Sink::stdout();
            print_to(&mut stdout, document);
            ends.push(stdout.end());
        }
        if let Some(sink) = self.hgrm {
            let histogram = document.latency_ns.primary().all();
            ends.push(histogram.and_then(|histogram| sink.all(&hgrm::table(&histogram))));
        }
        if let Some((path, sink)) = self.html {
            match html::text(document, &path) {
                Ok(text) => ends.push(sink.all(&text)),
                Err(problem) => print_warning(format_args!("{}: {problem}", path.display())),
            }
        }
        ends.extend(self.hdr_log.map(Sink::end));
        ends.into_iter().collect()
    }
}

/// Whether packets were sent. A run whose connections cannot be made sends none.
fn has_run(document: &Document) -> bool {
    let Document { totals, window, .. } = document;
    window.seconds > 0.0 || totals.sent > 0 || totals.warmup_sent > 0
}

/// Writes the text for people.
fn print_to(sink: &mut Sink, document: &Document) {
    // If no connection could be opened nothing was measured; the error on standard error is enough.
    if document.errors.connect == 0 || has_run(document) {
        sink.line(&text::text(document));
    }
}
