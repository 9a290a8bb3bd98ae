//! Command lines that end without a server.

use crate::process::run;

#[tokio::test]
async fn the_version_is_printed_in_etcds_four_lines() {
    let ended = run(&["--version"], &[]).await;
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.stdout.lines().next(), Some("etcd Version: 3.7.1"));
    assert_eq!(ended.stdout.lines().count(), 4);
    assert_eq!(ended.stderr, "");
}

#[tokio::test]
async fn help_is_an_answer_and_syntax_errors_are_not() {
    let help = run(&["--help"], &[]).await;
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("--initial-cluster-token"));
    for arguments in [
        &["--bogus"][..],
        &["--snapshot-count=x"],
        &["--name"],
        &["---name=x"],
    ] {
        let ended = run(arguments, &[]).await;
        assert_eq!(ended.code, Some(2), "{arguments:?}");
        assert!(ended.stderr.contains("Usage:"), "{arguments:?}");
        assert_eq!(ended.stdout, "");
    }
}

#[tokio::test]
async fn refused_settings_are_a_fatal_line_of_json() {
    for (arguments, environment, words) in [
        (&["stray"][..], &[][..], "\"stray\" is not a valid flag"),
        (&["--force-new-cluster"], &[], "--force-new-cluster"),
        (&["--corrupt-check-time=1h"], &[], "--corrupt-check-time"),
        (
            &["--heartbeat-interval=0"],
            &[],
            "--heartbeat-interval must be >0 (set to 0ms)",
        ),
        (
            &[],
            &[("ETCD_SNAPSHOT_COUNT", "x")],
            "invalid value \"x\" for ETCD_SNAPSHOT_COUNT: parse error",
        ),
    ] {
        let ended = run(arguments, environment).await;
        assert_eq!(ended.code, Some(1), "{arguments:?}");
        let line: serde_json::Value = serde_json::from_str(ended.stderr.trim()).expect("one line of JSON");
        assert_eq!(line["level"], "fatal");
        assert!(line["error"].as_str().expect("a text").contains(words), "{line}");
    }
}

#[tokio::test]
async fn a_variable_beside_its_flag_is_named() {
    let ended = run(&["--name=x"], &[("ETCD_NAME", "x")]).await;
    assert_eq!(ended.code, Some(1));
    let line: serde_json::Value = serde_json::from_str(ended.stderr.trim()).expect("one line of JSON");
    assert_eq!(line["environment-variable"], "ETCD_NAME");
    let message = line["msg"].as_str().expect("a text");
    assert!(
        message
            .starts_with("conflicting environment variable is shadowed by corresponding command-line flag")
    );
}

/// The variable that switches a planted bug on is named in a program that has them, and in no other.
#[test]
fn only_a_build_that_asked_for_planted_bugs_has_them() {
    const SWITCH: &str = "KELSON_MUTANT";
    let program = std::fs::read(env!("CARGO_BIN_EXE_kelson")).expect("to be read");
    let has_switch = String::from_utf8_lossy(&program).contains(SWITCH);
    assert_eq!(has_switch, cfg!(feature = "mutants"));
}
