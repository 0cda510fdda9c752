//! The progress bar on standard error. It draws nothing if standard error is not a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::plan::{Amount, Plan};
use crate::result::units;

pub(crate) struct Bar {
    bar: ProgressBar,
    amount: Amount,
}

impl Bar {
    pub(crate) fn new(plan: &Plan) -> Self {
        let len = match plan.amount {
            Amount::Time(duration) => (plan.ramp + plan.warmup + duration).as_millis() as u64,
            Amount::Packets(packets) => packets,
        };
        let bar = ProgressBar::new(len);
        let style = ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {msg}");
        bar.set_style(style.expect("the template is a constant").progress_chars("=> "));
        Self { bar, amount: plan.amount }
    }

    /// Shows nothing yet. The elapsed time is counted from the last call.
    pub(crate) fn restart_clock(&self) {
        self.bar.reset_elapsed();
    }

    /// Shows the progress: `answers` packets were answered within `elapsed`.
    pub(crate) fn show(&self, elapsed: Duration, answers: u64) {
        if self.bar.is_hidden() {
            return;
        }
        self.bar.set_position(match self.amount {
            Amount::Time(_) => elapsed.as_millis() as u64,
            Amount::Packets(_) => answers,
        });
        let rate = answers as f64 / elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        self.bar.set_message(format!("{} packets/s", units::count(rate as u64)));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
