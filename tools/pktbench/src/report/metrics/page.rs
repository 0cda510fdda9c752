//! The figures of a run, and their text in the format of Prometheus.

use std::fmt::{self, Display, Write};

use super::buckets::Buckets;
use crate::record::recording::Recording;
use crate::report::status::RunStatus;
use crate::result::document::{Config, Mode, Tool};

#[derive(Clone, Debug)]
pub(super) struct Figures {
    mode: Mode,
    rate: Option<f64>,
    /// With ramp and warm-up.
    sent: u64,
    received: u64,
    open: u64,
    failed: u64,
    /// Of complete intervals, without ramp and warm-up.
    bytes_sent: u64,
    bytes_received: u64,
    service: Buckets,
    /// Only in an open loop.
    response: Option<Buckets>,
}

impl Figures {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            mode: config.mode,
            rate: config.rate,
            sent: 0,
            received: 0,
            open: 0,
            failed: 0,
            bytes_sent: 0,
            bytes_received: 0,
            service: Buckets::default(),
            response: (config.mode == Mode::Open).then(Buckets::default),
        }
    }

    pub(super) fn show(&mut self, status: &RunStatus<'_>) {
        match status {
            RunStatus::Connecting(open) => self.open = *open as u64,
            RunStatus::Running(running) => {
                (self.sent, self.received) = (running.sent, running.answers);
                (self.open, self.failed) = (running.open, running.failed);
            }
        }
    }

    pub(super) fn add(&mut self, recording: &Recording) {
        self.bytes_sent += recording.traffic.sent_bytes;
        self.bytes_received += recording.traffic.received_bytes;
        self.service.add(&recording.service);
        if let (Some(response), Some(recorded)) = (&mut self.response, &recording.response) {
            response.add(recorded);
        }
    }

    pub(super) fn page(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> fmt::Result {
        let mode = if self.mode == Mode::Open { "open" } else { "closed" };
        let info = format!("pktbench_info{{version=\"{}\",mode=\"{mode}\"}}", Tool::this_program().version);
        head(text, "pktbench_info", "gauge", "Version of pktbench, and whether the loop is open or closed.")?;
        writeln!(text, "{info} 1")?;
        let outstanding = self.sent.saturating_sub(self.received);
        metric(
            text,
            "pktbench_packets_sent_total",
            "counter",
            "Packets sent, ramp and warm-up included.",
            self.sent,
        )?;
        metric(
            text,
            "pktbench_packets_received_total",
            "counter",
            "Answers received, ramp and warm-up included.",
            self.received,
        )?;
        metric(
            text,
            "pktbench_sent_bytes_total",
            "counter",
            "Payload bytes sent in the complete intervals of the window.",
            self.bytes_sent,
        )?;
        metric(
            text,
            "pktbench_received_bytes_total",
            "counter",
            "Payload bytes received in the complete intervals of the window.",
            self.bytes_received,
        )?;
        metric(
            text,
            "pktbench_connections_failed_total",
            "counter",
            "Connections that failed, up to the last complete interval.",
            self.failed,
        )?;
        metric(text, "pktbench_connections_open", "gauge", "Connections that are open.", self.open)?;
        metric(
            text,
            "pktbench_packets_outstanding",
            "gauge",
            "Packets that were sent and are not answered.",
            outstanding,
        )?;
        if let Some(rate) = self.rate {
            metric(
                text,
                "pktbench_target_packets_per_second",
                "gauge",
                "The --rate of an open loop, over all connections.",
                rate,
            )?;
        }
        let service = "From sending a packet to its answer, in the complete intervals of the window.";
        head(text, "pktbench_service_time_seconds", "histogram", service)?;
        self.service.write(text, "pktbench_service_time_seconds")?;
        if let Some(buckets) = &self.response {
            let response = "From the time at which a packet was due to its answer.";
            head(text, "pktbench_response_time_seconds", "histogram", response)?;
            buckets.write(text, "pktbench_response_time_seconds")?;
        }
        Ok(())
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}")
}

fn metric(text: &mut String, name: &str, kind: &str, help: &str, value: impl Display) -> fmt::Result {
    head(text, name, kind, help)?;
    writeln!(text, "{name} {value}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::tests::plan;
    use crate::plan::{Pace, Plan};
    use crate::report::status::Running;
    use crate::result::config::config;
    use crate::traffic::arrivals::Arrival;

    fn has(figures: &Figures, line: &str) -> bool {
        figures.page().lines().any(|found| found == line)
    }

    #[test]
    fn the_page_has_the_progress_and_the_complete_intervals() {
        let mut figures = Figures::new(&config(&plan(), None));
        figures.show(&RunStatus::Connecting(3));
        assert!(has(&figures, "pktbench_connections_open 3"), "{}", figures.page());
        let elapsed = Duration::from_secs(1);
        let running = Running { elapsed, sent: 100, answers: 90, open: 9, intervals: &[], failed: 1 };
        figures.show(&RunStatus::Running(running));
        let mut recording = Recording::new(false);
        recording.record(20_000, 20_000, 90);
        (recording.traffic.sent_bytes, recording.traffic.received_bytes) = (1000, 900);
        figures.add(&recording);
        let version = env!("CARGO_PKG_VERSION");
        for line in [
            &format!("pktbench_info{{version=\"{version}\",mode=\"closed\"}} 1"),
            "pktbench_packets_sent_total 100",
            "pktbench_packets_received_total 90",
            "pktbench_packets_outstanding 10",
            "pktbench_sent_bytes_total 1000",
            "pktbench_received_bytes_total 900",
            "pktbench_connections_failed_total 1",
            "pktbench_connections_open 9",
            "pktbench_service_time_seconds_bucket{le=\"0.00001\"} 0",
            "pktbench_service_time_seconds_bucket{le=\"0.000025\"} 90",
            "pktbench_service_time_seconds_count 90",
        ] {
            assert!(has(&figures, line), "{line} in {}", figures.page());
        }
        assert!(!figures.page().contains("response") && !figures.page().contains("target"));
    }

    #[test]
    fn an_open_loop_has_its_rate_and_response_times() {
        let pace = Pace::Open { rate: 5000.0, arrival: Arrival::Poisson, max_outstanding: 9 };
        let mut figures = Figures::new(&config(&Plan { pace, ..plan() }, None));
        let mut recording = Recording::new(true);
        recording.record(20_000, 40_000, 7);
        figures.add(&recording);
        for line in [
            "pktbench_target_packets_per_second 5000",
            "pktbench_service_time_seconds_bucket{le=\"0.000025\"} 7",
            "pktbench_response_time_seconds_bucket{le=\"0.000025\"} 0",
            "pktbench_response_time_seconds_count 7",
        ] {
            assert!(has(&figures, line), "{line} in {}", figures.page());
        }
    }
}
