//! The program as its users run it. One binary: each would be linked with all of the library again.

mod common;

mod usage;

mod manual;

mod runs;

mod targets;

mod sizes;

mod faults;

mod open_loop;

mod output;

mod html;

mod browser;

mod results;

mod tui;

mod conform;

mod interop;
