//! The HTML page, from top to bottom: verdict, key metrics, charts, tables.

use std::time::{Duration, UNIX_EPOCH};

use super::chart::{Chart, view_box};
use super::charts::{charts, range};
use super::fields::fields;
use super::markup::{escape, list, section, table};
use super::palette::as_variables;
use crate::judge::threshold;
use crate::report::comparison;
use crate::report::stages;
use crate::report::text;
use crate::report::verdict;
use crate::result::comparison::Comparison;
use crate::result::connections::{AddressResult, Connections};
use crate::result::document::{Document, Mode, Search, SizeClass, StageResult, Threshold};
use crate::result::latency::{Bounded, Latency};
use crate::result::units;
use crate::result::verdict::Verdict;

/// Colors and layout. It refers to nothing outside the page.
const STYLE: &str = include_str!("style.css");

pub(crate) fn page(document: &Document) -> String {
    let title = format!("pktbench: {}", document.config.server);
    let parts = [
        header(document),
        tiles(document),
        chart_section(&charts(document)),
        tables(document),
        footer(document),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n{}</main>\n</body>\n</html>\n",
        escape(&title),
        parts.concat()
    )
}

fn header(document: &Document) -> String {
    let verdict = verdict::text(document);
    let (verdict, explanation) = verdict.split_once(": ").unwrap_or((&verdict, ""));
    let badge = match document.verdict {
        Verdict::Pass => "good",
        Verdict::PassSaturated | Verdict::Interrupted | Verdict::Saturated => "fair",
        _ => "bad",
    };
    let mode = text::mode(&document.config);
    let (mode, meaning) = mode.split_once(": ").unwrap_or((&mode, ""));
    let caution = if document.config.mode == Mode::Closed { " caution" } else { "" };
    format!(
        "<header>\n<p class=\"above\">pktbench, {}</p>\n<h1>{}</h1>\n\
         <p class=\"verdict\"><strong class=\"badge {badge}\">{}</strong> {}</p>\n\
         <p class=\"mode{caution}\"><strong>{}</strong> {}</p>\n</header>\n",
        escape(&started(document)),
        escape(&document.config.server),
        escape(verdict),
        escape(explanation),
        escape(mode),
        escape(meaning),
    )
}

fn started(document: &Document) -> String {
    let since = UNIX_EPOCH + Duration::from_nanos(document.window.start_unix_ns);
    humantime::format_rfc3339_seconds(since).to_string()
}

fn tiles(document: &Document) -> String {
    let Document { totals, window, latency_ns, errors, integrity, .. } = document;
    let latency = latency_ns.primary();
    let kind = latency_ns.primary_name();
    let received_per_s = window.per_second(totals.bytes_received);
    let (failed, violations) = (errors.count(), integrity.violations());
    let rate = units::rate(totals.packets_per_s);
    let tiles = [
        tile("packets/s", &rate, &format!("{} payload", units::bytes_per_s(received_per_s)), ""),
        tile("p50", &percentile(latency, 50.0), kind, ""),
        tile("p99", &percentile(latency, 99.0), kind, ""),
        tile("p99.9", &percentile(latency, 99.9), kind, ""),
        tile("max", &bounded(latency.max_bounded()), kind, ""),
        tile(
            "errors",
            &units::count(failed),
            &format!("{} faulty packets", units::count(violations)),
            if failed > 0 || violations > 0 { " alarm" } else { "" },
        ),
    ];
    format!("<section class=\"tiles\" aria-label=\"key metrics\">\n{}</section>\n", tiles.concat())
}

fn tile(name: &str, value: &str, below: &str, class: &str) -> String {
    let (name, value, below) = (escape(name), escape(value), escape(below));
    format!(
        "<div class=\"tile{class}\"><span class=\"name\">{name}</span> <strong>{value}</strong> \
         <span class=\"below\">{below}</span></div>\n"
    )
}

/// From the histogram if the document does not list this percentile.
fn percentile(latency: &Latency, percent: f64) -> String {
    bounded(latency.listed_bounded(percent).or_else(|| latency.percentile(percent)))
}

/// p50 and p99, from the histogram if the document does not list them.
fn p50_and_p99(latency: &Latency) -> [String; 2] {
    const PERCENTS: [f64; 2] = [50.0, 99.0];
    let listed = PERCENTS.map(|percent| latency.listed_bounded(percent));
    let all_listed = listed.iter().all(Option::is_some);
    (if all_listed { listed } else { latency.percentiles(PERCENTS) }).map(bounded)
}

fn bounded(value: Option<Bounded>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn time(ns: Option<f64>) -> String {
    ns.map_or_else(|| "-".to_owned(), units::time)
}

fn whole_time(ns: Option<u64>) -> String {
    time(ns.map(|ns| ns as f64))
}

fn chart_section(charts: &[Chart]) -> String {
    if charts.is_empty() {
        return String::new();
    }
    let figures: String = charts.iter().map(chart).collect();
    format!("<section class=\"charts\" aria-label=\"charts\">\n{figures}</section>\n")
}

fn chart(chart: &Chart) -> String {
    let Chart { id, title, note, content } = chart;
    let (title, note, view_box) = (escape(title), escape(note), view_box());
    format!(
        "<figure class=\"card\" id=\"{id}\">\n<figcaption><h2>{title}</h2><p>{note}</p></figcaption>\n\
         <svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{view_box}\" role=\"img\" \
         aria-labelledby=\"{id}-title\">\n<title id=\"{id}-title\">{title}. {note}</title>\n{}\n</svg>\n</figure>\n",
        as_variables(content)
    )
}

fn tables(document: &Document) -> String {
    let Document { totals, window, thresholds, sizes, integrity, errors, load_generator, config, .. } =
        document;
    let mut parts = Vec::new();
    if let Some(search) = &document.search {
        parts.push(section(
            "search",
            &format!("Highest rate at which {} holds", search.condition),
            &steps(search),
        ));
    }
    if !thresholds.is_empty() {
        parts.push(section("thresholds", "Thresholds", &conditions(thresholds)));
    }
    if let Some(comparison) = &document.baseline {
        parts.push(section(
            "baseline",
            &format!("Compared with {}", comparison.base),
            &differences(comparison),
        ));
    }
    if !document.stages.is_empty() {
        parts.push(section("stages", "Stages", &stage_table(&document.stages)));
    }
    parts.push(section("totals", "Packets and bytes", &list(&fields(totals))));
    parts.push(section("percentiles", "Latency", &latencies(document)));
    if !sizes.is_empty() {
        parts.push(section("by-size", "Latency by size", &classes(sizes)));
    }
    parts.push(section("integrity", "Integrity (packets)", &list(&fields(integrity))));
    parts.push(section("errors", "Failed connections", &list(&fields(errors))));
    if let Some(offered) = &document.offered {
        parts.push(section("offered", "Offered load", &list(&fields(offered))));
    }
    if let Some(connections) = &document.connections {
        parts.push(section("connections", "Connections", &opened(connections)));
    }
    if !document.addresses.is_empty() {
        parts.push(section("addresses", "Addresses", &addresses(&document.addresses)));
    }
    parts.push(section("load-generator", "Load generator", &list(&fields(load_generator))));
    parts.push(section("window", "Measured time", &list(&fields(window))));
    parts.push(section("config", "Configuration", &list(&fields(config))));
    format!("<div class=\"tables\">\n{}</div>\n", parts.concat())
}

fn opened(connections: &Connections) -> String {
    let Connections { opened, replaced, retired, down_pct, missed, connect_ns, handshake_ns } = connections;
    let counts = [
        ("opened", Some(*opened)),
        ("replaced", Some(*replaced)),
        ("closed by plan", Some(*retired)),
        ("missed", *missed),
    ];
    let counts = counts.into_iter().filter_map(|(name, count)| Some((name.to_owned(), units::count(count?))));
    let times = [("connect", Some(connect_ns)), ("TLS handshake", handshake_ns.as_ref())];
    let times = times.into_iter().filter_map(|(name, times)| Some((name, times.filter(|it| it.count > 0)?)));
    let times = times.flat_map(|(name, times)| {
        let [p50, p99] = p50_and_p99(times);
        [(format!("{name} p50"), p50), (format!("{name} p99"), p99)]
    });
    let down = down_pct.map(|down_pct| ("time without a connection".to_owned(), units::percent(down_pct)));
    list(&counts.chain(down).chain(times).collect::<Vec<_>>())
}

fn addresses(addresses: &[AddressResult]) -> String {
    let rows = addresses.iter().map(|result| {
        let [p50, p99] = p50_and_p99(result.latency_ns.primary());
        vec![
            result.address.clone(),
            units::count(result.opened),
            units::count(result.failed),
            units::rate(result.packets_per_s),
            p50,
            p99,
        ]
    });
    table(&["", "connections", "failed", "packets/s", "p50", "p99"], &rows.collect::<Vec<_>>())
}

fn conditions(thresholds: &[Threshold]) -> String {
    let rows = thresholds.iter().map(|threshold| {
        let holds = if threshold.ok { "✓ holds" } else { "✗ does not hold" };
        let few = if threshold.has_few_samples { ", few samples" } else { "" };
        vec![threshold.expr.clone(), threshold::measured(threshold), format!("{holds}{few}")]
    });
    table(&["condition", "measured", ""], &rows.collect::<Vec<_>>())
}

fn steps(search: &Search) -> String {
    let rows = search.steps.iter().map(|step| {
        let holds = step.problem.as_ref().map_or("✓ holds".to_owned(), |problem| format!("✗ {problem}"));
        vec![
            units::rate(step.rate),
            units::rate(step.packets_per_s),
            whole_time(step.p50_ns),
            whole_time(step.p99_ns),
            holds,
        ]
    });
    table(&["packets/s", "received/s", "p50", "p99", ""], &rows.collect::<Vec<_>>())
}

fn stage_table(stages: &[StageResult]) -> String {
    let rows = stages.iter().map(|stage| {
        let offered = stage.offered_pct.map_or_else(|| "-".to_owned(), |pct| format!("{pct:.1} %"));
        let others = [offered, units::count(stage.errors)];
        [stage.name.clone()].into_iter().chain(stages::cells(stage)).chain(others).collect()
    });
    let columns: Vec<_> =
        ["stage"].into_iter().chain(stages::COLUMNS).chain(["offered", "failed connections"]).collect();
    table(&columns, &rows.collect::<Vec<Vec<String>>>())
}

fn differences(comparison: &Comparison) -> String {
    let rows = comparison.metrics.iter().map(|metric| {
        let cells = comparison::cells(metric);
        cells.to_vec()
    });
    table(&["", "base", "new", "change", "99 % confidence", ""], &rows.collect::<Vec<_>>())
}

fn latencies(document: &Document) -> String {
    let columns = [
        ("service", Some(&document.latency_ns.service)),
        ("response", document.latency_ns.response.as_ref()),
    ];
    let columns: Vec<_> = columns.into_iter().filter_map(|(name, latency)| Some((name, latency?))).collect();
    let row = |name: String, of: &dyn Fn(&Latency) -> String| {
        [name].into_iter().chain(columns.iter().map(|(_, latency)| of(latency))).collect()
    };
    let mut rows: Vec<Vec<String>> = vec![
        row("answered packets".to_owned(), &|latency| units::count(latency.count)),
        row("unanswered packets".to_owned(), &|latency| units::count(latency.censored)),
        row("min".to_owned(), &|latency| whole_time(latency.min)),
        row("mean".to_owned(), &|latency| bounded(latency.mean_bounded())),
        row("standard deviation".to_owned(), &|latency| time(latency.stddev)),
    ];
    for (percent, _) in &document.latency_ns.service.percentiles {
        rows.push(row(format!("p{percent}"), &|latency| percentile(latency, *percent)));
    }
    rows.push(row("max".to_owned(), &|latency| bounded(latency.max_bounded())));
    let names: Vec<_> = [""].into_iter().chain(columns.iter().map(|(name, _)| *name)).collect();
    let few = columns.iter().any(|(_, latency)| latency.lists_few_samples());
    let note =
        if few { format!("<p class=\"note\">{}</p>\n", escape(text::FEW_SAMPLES)) } else { String::new() };
    table(&names, &rows) + &note
}

fn classes(sizes: &[SizeClass]) -> String {
    let rows = sizes.iter().map(|class| {
        let size = range(class.from_bytes, class.to_bytes);
        // A document without `samples` has their number in `count`.
        let (packets, samples) = match class.samples {
            Some(samples) => (units::count(class.count), samples),
            None => ("-".to_owned(), class.count),
        };
        let time = |percent, ns: Option<u64>| {
            let value = ns.map(|ns| Bounded::measured(ns as f64));
            bounded(value.map(|value| value.among(percent, samples)))
        };
        vec![size, packets, units::count(samples), time(50.0, class.p50_ns), time(99.0, class.p99_ns)]
    });
    table(&["payload bytes", "packets", "samples", "p50", "p99"], &rows.collect::<Vec<_>>())
}

fn footer(document: &Document) -> String {
    let Document { tool, host, labels, .. } = document;
    let labels = labels.iter().map(|(name, value)| {
        let (name, value) = (escape(name), escape(value));
        format!("<span class=\"label\">{name} = {value}</span> ")
    });
    let made = format!(
        "{} {} on {}, {} {}, {}",
        tool.name,
        tool.version,
        host.name,
        host.os,
        host.arch,
        units::plural(host.cores, "core"),
    );
    format!("<footer>\n<p>{}</p>\n<p>{}</p>\n</footer>\n", labels.collect::<String>(), escape(&made))
}
