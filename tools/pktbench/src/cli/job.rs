//! The job that the command line asks for: one variant per subcommand, with its checked options.

use std::path::PathBuf;

use clap_complete::Shell;

use crate::conform;
use crate::judge::gate::Gate;
use crate::judge::threshold::Condition;
use crate::merge::Sum;
use crate::plan::Plan;
use crate::report::output::Output;
use crate::result::comparison::Comparison;
use crate::result::document::Document;

pub(crate) enum Job {
    Run { plan: Box<Plan>, output: Output, gate: Gate },
    Search { plan: Box<Plan>, output: Output, condition: Condition },
    Html { document: Box<Document>, file: PathBuf },
    Conform(conform::TestPlan),
    Compare { comparison: Comparison, json: bool },
    Merge(Box<Sum>),
    Completions(Shell),
    Man(PathBuf),
}
