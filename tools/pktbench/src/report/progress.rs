//! The bar on a terminal. It goes to standard error, and into a pipe nothing of it does.

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
        // Draws nothing where standard error is no terminal.
        let bar = ProgressBar::new(len);
        let style = ProgressStyle::with_template("{elapsed_precise} [{wide_bar}] {msg}");
        bar.set_style(style.expect("the template is a constant").progress_chars("=> "));
        Self { bar, amount: plan.amount }
    }

    /// Shows nothing yet, and counts from here on.
    pub(crate) fn wait(&self) {
        self.bar.reset_elapsed();
    }

    /// Shows how far the run is: `answers` packets have been answered in `elapsed`.
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
