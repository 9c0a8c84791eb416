//! The table of venues in docs/exchanges.md says what the specs say.

use super::*;
use crate::exchange::catalog;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/exchanges.md");
const BEGIN: &str = "writes this table -->\n";
const END: &str = "<!-- end of venues -->";

fn table() -> String {
    let mut text = "| exchange | channel | numbering | refill | reach | on subscribe | closes | note |\n".to_owned();
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for dialect in catalog::dialects() {
        let spec = dialect.spec();
        for channel in spec.channels {
            let words = channel.words();
            let cells = [
                spec.title,
                channel.kind.as_str(),
                channel.numbering.as_str(),
                &channel.refill.words(),
                &words.reach,
                &words.on_subscribe,
                words.closes,
                words.note,
            ];
            text.push_str(&format!("| {} |\n", cells.join(" | ").trim_end()));
        }
    }
    text
}

#[test]
fn the_documents_table_is_the_specs() {
    let document = std::fs::read_to_string(PATH).unwrap();
    let (before, rest) = document.split_once(BEGIN).expect("the beginning of the table");
    let (written, after) = rest.split_once(END).expect("the end of the table");
    if std::env::var_os("TAPEKEEPER_BLESS").is_some() {
        std::fs::write(PATH, format!("{before}{BEGIN}{}{END}{after}", table())).unwrap();
        return;
    }
    assert_eq!(
        written,
        table(),
        "docs/exchanges.md: TAPEKEEPER_BLESS=1 cargo test --lib exchange::spec writes the table"
    );
}

#[test]
fn every_spec_is_consistent() {
    for dialect in catalog::dialects() {
        let spec = dialect.spec();
        assert!(dialect.symbol(spec.example).is_ok(), "{} does not accept its own example", spec.exchange);
        assert!(spec.channels.iter().all(|channel| channel.socket < spec.sockets.len()), "{}", spec.exchange);
        assert!(!spec.rest.buckets.is_empty() && spec.rest.trades_page > 0, "{}", spec.exchange);
        for bucket in spec.rest.buckets {
            match *bucket {
                Bucket::Leaky { per_second, burst } => assert!(per_second > 0 && burst > 0, "{}", spec.exchange),
                Bucket::Window { weight, per } => assert!(weight > 0 && !per.is_zero(), "{}", spec.exchange),
            }
        }
    }
}
