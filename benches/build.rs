//! Tells the program `instructions` which compiler built it: its figures hold for that one alone.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo names the compiler");
    let output = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    let version = String::from_utf8(output.stdout).expect("the version is text");
    // "rustc 1.95.0 (59807616e 2026-04-14)"
    let release = version.split_whitespace().nth(1).expect("the release comes second");
    println!("cargo:rustc-env=RUSTC_RELEASE={release}");
}
