//! Shell completions and manual pages, which a package installs with the program.

use std::fs;

use crate::common::pktbench;

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = pktbench(&format!("completions {shell}"));
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{shell}");
        assert!(ran.stdout.contains("max-payload"), "{shell}: {}", ran.stdout);
    }
    assert_eq!(pktbench("completions tcsh").code, Some(2));
}

#[test]
fn there_is_a_manual_page_for_the_program_and_each_subcommand() {
    let dir = tempfile::tempdir().unwrap();
    let pages = dir.path().join("share/man1");
    let ran = pktbench(&format!("man {}", pages.display()));
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (Some(0), "", ""));
    let page = |name: &str| fs::read_to_string(pages.join(name)).unwrap();
    assert!(page("pktbench.1").contains("\\fB\\-\\-max\\-payload\\fR"), "{}", page("pktbench.1"));
    assert!(page("pktbench-completions.1").contains("completions"));
    let ran = pktbench("man /dev/null/pages");
    assert!(ran.error_line().starts_with("error: cannot create /dev/null/pages: "), "{ran:?}");
    assert_eq!(ran.code, Some(1));
}
