//! The load generator itself as a line of text: how busy it was, and if it was saturated, why and what to do.

use crate::result::document::{Document, LoadGenerator};
use crate::result::saturation::Reason;
use crate::result::units;

/// Threads that are less busy than this do not send late because there are too few of them.
const BUSY_PCT: f64 = 80.0;

pub(crate) fn text(document: &Document) -> String {
    let client = &document.load_generator;
    let mut text = format!("threads {:.0} % busy", client.cpu_pct);
    if let Some(lag_ns) = client.schedule_lag_p99_ns {
        text += &format!(", schedule lag p99 {}", units::time(lag_ns as f64));
    }
    if client.saturated {
        text += "; the load generator is saturated";
        let reasons: Vec<_> = client.saturated_by.iter().map(|reason| describe(*reason, document)).collect();
        if !reasons.is_empty() {
            text += &format!(": {}", reasons.join("; "));
        }
    }
    text
}

/// What was measured, and the advice that fits.
fn describe(reason: Reason, document: &Document) -> String {
    let client = &document.load_generator;
    let percent = |share: Option<f64>| format!("{:.0} %", share.unwrap_or_default());
    let time = |ns: Option<u64>| units::time(ns.unwrap_or_default() as f64);
    match reason {
        Reason::BusyThread => format!(
            "its busiest thread was busy for {} of the time ({})",
            percent(client.busiest_thread_pct),
            more_threads(document)
        ),
        Reason::ScheduleLag => {
            let advice = match client.busiest_thread_pct {
                _ if has_cause(client) => String::new(),
                Some(busiest) if busiest < BUSY_PCT => {
                    format!(
                        " although its busiest thread was only {busiest:.0} % busy (give it dedicated CPU cores)"
                    )
                }
                _ => format!(" ({})", more_threads(document)),
            };
            format!("it sent 1 % of the packets more than {} late{advice}", time(client.schedule_lag_p99_ns))
        }
        Reason::RunQueue => {
            // A throttled thread waits, too, and more cores would not help it.
            let advice = match client.saturated_by.contains(&Reason::Throttled) {
                true => "",
                false => " (give it dedicated CPU cores, without other programs)",
            };
            format!("a thread waited for a CPU for {} of its time{advice}", percent(client.run_queue_pct))
        }
        Reason::Steal => format!(
            "the hypervisor gave {} of the CPU time to other virtual machines (use a machine with dedicated CPU cores)",
            percent(client.steal_pct)
        ),
        Reason::Throttled => format!(
            "its cgroup was throttled for {} (raise the CPU limit of the container or service)",
            time(client.throttled_ns)
        ),
        Reason::ClockGap => format!(
            "it stood still for {} (it was stopped or got no CPU at all, or the machine was suspended: run it again)",
            time(client.clock_gap_ns)
        ),
    }
}

/// Whether another reason explains the schedule lag.
fn has_cause(client: &LoadGenerator) -> bool {
    client.saturated_by.iter().any(|reason| *reason != Reason::ScheduleLag)
}

fn more_threads(document: &Document) -> &'static str {
    match document.config.threads < document.host.cores {
        true => "raise --threads or use another machine",
        false => "all CPU cores have a thread: use another machine, or several with 'pktbench merge'",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::document::tests::document;

    fn saturated(saturated_by: &[Reason], client: &LoadGenerator) -> String {
        let mut document = document();
        (document.host.cores, document.config.threads) = (4, 1);
        document.load_generator =
            LoadGenerator { saturated: true, saturated_by: saturated_by.to_vec(), ..client.clone() };
        text(&document)
    }

    #[test]
    fn each_reason_has_its_value_and_its_advice() {
        let client = LoadGenerator {
            cpu_pct: 7.0,
            busiest_thread_pct: Some(97.4),
            run_queue_pct: Some(61.2),
            steal_pct: Some(12.0),
            throttled_ns: Some(1_200_000_000),
            clock_gap_ns: Some(1_500_000_000),
            ..LoadGenerator::default()
        };
        let cases = [
            (Reason::BusyThread, "busy for 97 % of the time (raise --threads or use another machine)"),
            (Reason::RunQueue, "waited for a CPU for 61 % of its time (give it dedicated CPU cores"),
            (Reason::Steal, "12 % of the CPU time to other virtual machines (use a machine with dedicated"),
            (Reason::Throttled, "throttled for 1.20 s (raise the CPU limit"),
            (Reason::ClockGap, "stood still for 1.50 s (it was stopped or got no CPU"),
        ];
        for (reason, expected) in cases {
            let text = saturated(&[reason], &client);
            assert!(text.starts_with("threads 7 % busy; the load generator is saturated: "));
            assert!(text.contains(expected), "{text}");
        }
        let both = saturated(&[Reason::RunQueue, Reason::ClockGap], &client);
        assert!(both.contains("61 %") && both.contains("1.50 s"), "{both}");
        let throttled = saturated(&[Reason::RunQueue, Reason::Throttled], &client);
        assert!(!throttled.contains("dedicated") && throttled.contains("raise the CPU limit"), "{throttled}");
    }

    #[test]
    fn the_advice_for_late_packets_depends_on_the_busiest_thread() {
        let late = |busiest_pct, more: &[Reason]| {
            let client = LoadGenerator {
                busiest_thread_pct: Some(busiest_pct),
                schedule_lag_p99_ns: Some(2_000_000),
                ..LoadGenerator::default()
            };
            saturated(&[&[Reason::ScheduleLag], more].concat(), &client)
        };
        assert!(
            late(20.0, &[]).contains("only 20 % busy (give it dedicated CPU cores)"),
            "{}",
            late(20.0, &[])
        );
        assert!(late(90.0, &[]).ends_with("more than 2.00 ms late (raise --threads or use another machine)"));
        assert!(!late(20.0, &[Reason::ClockGap]).contains("dedicated"), "the gap is the cause");
    }

    #[test]
    fn a_result_of_an_older_version_has_no_reasons() {
        let text = saturated(&[], &LoadGenerator::default());
        assert!(text.ends_with("; the load generator is saturated"), "{text}");
    }
}
