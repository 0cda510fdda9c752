//! Passes the compiler release to the program `instructions`: its figures are only valid for that release.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo sets RUSTC");
    let output = Command::new(rustc).arg("--version").output().expect("the compiler runs");
    let version = String::from_utf8(output.stdout).expect("the version is text");
    // Such as "rustc 1.95.0 (59807616e 2026-04-14)".
    let release = version.split_whitespace().nth(1).expect("the version has a release");
    println!("cargo:rustc-env=RUSTC_RELEASE={release}");
}
