//! `backfill`: requests older trades from the service, prints the estimated time and, with `--wait`, waits for them.

use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use crate::exit::{Failure, NO, TEMPORARY};

use super::client::Client;
use super::output::{Format, print_document, print_line};
use super::progress_bar;

/// Time between two requests for the gaps with `--wait`.
const POLL_EVERY: Duration = Duration::from_secs(1);
/// Longest wait. The service fetches the rest after it, too.
const WAIT_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Arguments of `backfill`.
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// The exchange
    #[arg(long, default_value = "binance")]
    exchange: String,
    /// The symbol, as the exchange spells it
    #[arg(long)]
    symbol: String,
    /// `trade` or `agg_trade`; without it, the one that is recorded
    #[arg(long)]
    channel: Option<String>,
    /// First trade id or time
    #[arg(long)]
    from: String,
    /// Last trade id, or the time before which trades are wanted
    #[arg(long)]
    to: String,
    /// Wait until every gap of the range is closed or in doubt, with a progress bar; exit 1 when trades are still missing
    #[arg(long)]
    wait: bool,
}

pub(super) async fn run(args: Args, client: &Client, format: Format) -> Result<u8, Failure> {
    let value = |text: &str| text.parse::<i64>().map_or_else(|_| json!(text), |id| json!(id));
    let body = json!({
        "exchange": args.exchange, "symbol": args.symbol, "channel": args.channel,
        "from": value(&args.from), "to": value(&args.to),
    });
    let response = client.post("/api/v1/admin/backfill", Some(&body)).await?;
    print_document(&response, format, || {
        let more = if response["more"] == true {
            "; there are more gaps: repeat the command when these are filled"
        } else {
            ""
        };
        format!(
            "{}..{}: {} trades missing, {} gaps opened, {} asked for again, about {} within the exchange's request weight, see `tapekeeper gaps --open`{more}",
            response["first"],
            response["last"],
            response["missing"],
            response["gaps_opened"],
            response["gaps_asked_again"],
            in_words(response["estimate_s"].as_i64().unwrap_or_default())
        )
    });
    if !args.wait {
        return Ok(0);
    }
    wait(&args, &response, client, format).await
}

/// Waits until every gap of the range is closed or in doubt. Exits with 1 when trades are still missing.
async fn wait(args: &Args, response: &Value, client: &Client, format: Format) -> Result<u8, Failure> {
    let (first, last) = (response["first"].as_i64().unwrap_or_default(), response["last"].as_i64().unwrap_or_default());
    let total = response["missing"].as_u64().unwrap_or_default();
    let bar = progress_bar::bar(format, total, "trades");
    bar.set_message(args.symbol.clone());
    let until = tokio::time::Instant::now() + WAIT_MAX;
    while tokio::time::Instant::now() < until {
        let gaps = client.query("/api/v1/gaps", &[("state", Some("all")), ("symbol", Some(&args.symbol))]).await?;
        let inside = |gap: &&Value| {
            let (low, high) = (gap["first_missing"].as_i64(), gap["last_missing"].as_i64());
            gap["channel"] == response["channel"]
                && low.is_some_and(|low| low <= last)
                && high.is_some_and(|high| high >= first)
        };
        let mut left = 0;
        let mut all_came = true;
        for gap in gaps.as_array().into_iter().flatten().filter(inside) {
            match gap["state"].as_str().unwrap_or_default() {
                "open" | "filling" => {
                    left += gap["missing"].as_u64().unwrap_or_default() - gap["filled"].as_u64().unwrap_or_default();
                }
                // The recorder asks again for hours; nobody waits that long at a prompt.
                "unconfirmed" | "unrecoverable" | "refused" => all_came = false,
                _ => {}
            }
        }
        bar.set_position(total.saturating_sub(left));
        if left == 0 {
            bar.finish_and_clear();
            if format == Format::Human {
                let not_all = "NOT complete: `tapekeeper gaps` shows why";
                print_line!("{}", if all_came { "complete: history holds the whole range" } else { not_all });
            }
            return Ok(if all_came { 0 } else { NO });
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
    Err(Failure::new(
        TEMPORARY,
        anyhow::anyhow!("the range is not complete after {} days", WAIT_MAX.as_secs() / 86_400),
    ))
}

/// `less than a minute`, `12 min`, `3 h 20 min`.
fn in_words(seconds: i64) -> String {
    match seconds / 60 {
        0 => "less than a minute".to_owned(),
        minutes @ 1..60 => format!("{minutes} min"),
        minutes => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_printed_in_words() {
        let output = [0, 59, 60, 3_599, 3_600, 90_000].map(in_words);
        assert_eq!(output, ["less than a minute", "less than a minute", "1 min", "59 min", "1 h 0 min", "25 h 0 min"]);
    }
}
