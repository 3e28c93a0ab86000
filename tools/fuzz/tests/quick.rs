//! A few seconds of each target with every test run.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

use skep_fuzz::{TARGETS, run};

#[test]
fn broken_images_are_refused_without_a_trace() {
    // Device nodes and whiteouts need root.
    if std::fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) != 0) {
        eprintln!("skipped: needs root");
        return;
    }
    run("archive", 1, 100).unwrap();
    run("layer", 1, 100).unwrap();
}

#[test]
fn broken_documents_are_refused() {
    for target in ["manifest", "config", "text"] {
        run(target, 1, 5_000).unwrap();
    }
}

#[test]
fn a_target_that_is_not_there_is_named() {
    let text = run("nosuch", 1, 1).unwrap_err().to_string();
    assert!(TARGETS.iter().all(|target| text.contains(target)), "{text}");
}
