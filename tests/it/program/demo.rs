//! The demo, as the README's first command runs it.

use serde_json::Value;

use super::app::run;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demo_ends_complete() {
    let output = run(&["demo", "--for", "25s", "--format", "json"]).await;
    assert_eq!(output.code, Some(0), "{output:?}");
    let verdict: Value = serde_json::from_str(output.out.lines().last().unwrap()).unwrap();
    for key in
        ["published", "recorded", "missing", "duplicates", "gaps_found", "gaps_closed", "gaps_open", "dead_letters"]
    {
        assert!(verdict[key].is_u64(), "{key} in {verdict}");
    }
    assert!(verdict["gaps_found"].as_u64() >= Some(3), "{verdict}");
    assert!(verdict["published"].as_u64() > Some(0), "{verdict}");
    assert_eq!(verdict["recorded"], verdict["published"], "{verdict}");
    assert_eq!(verdict["gaps_closed"], verdict["gaps_found"], "{verdict}");
    for key in ["missing", "duplicates", "gaps_open", "dead_letters"] {
        assert_eq!(verdict[key], 0, "{key} in {verdict}");
    }
}
