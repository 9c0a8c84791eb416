//! `simulate`: runs a simulated exchange on loopback, to record from and to break.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args as ClapArgs;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::demo::{spelled, venue};
use super::output::{Format, print_line};
use crate::market::{Channel, Interval, SpellingError};
use crate::simulator::catalog;
use crate::simulator::fault::duration;
use crate::simulator::{self, Generated, Listing, Options, Simulator, Source, Venue, parse_schedule};

/// Arguments of `simulate`.
#[derive(Clone, Debug, ClapArgs)]
#[command(after_long_help = catalog::help())]
pub struct Args {
    /// Exchange whose protocol is spoken
    #[arg(long, value_name = "NAME", default_value = "binance", value_parser = venue)]
    exchange: Venue,
    /// Address for WebSocket and REST; port 0 takes a free port
    #[arg(long, default_value = "127.0.0.1:9443")]
    listen: SocketAddr,
    /// Symbols of a generated market, the busiest first; `TUSDUSDT:quiet` trades every few minutes. Default: BTC, ETH and
    /// a quiet TUSD against USDT, as the exchange spells them
    #[arg(long, value_delimiter = ',', conflicts_with = "capture")]
    symbols: Vec<Listing>,
    /// Trades per second of a generated market
    #[arg(long, default_value_t = 100.0, value_parser = positive, conflicts_with = "capture")]
    rate: f64,
    /// The same seed makes the same market
    #[arg(long, default_value_t = 1, conflicts_with = "capture")]
    seed: u64,
    /// Speed of the exchange's clock, relative to the wall clock
    #[arg(long, default_value_t = 1.0, value_parser = positive, conflicts_with = "capture")]
    time_scale: f64,
    /// Exchange time before the start; only REST has its trades
    #[arg(long, default_value = "0s", value_parser = duration, conflicts_with = "capture")]
    history: Duration,
    /// Play these recorded files instead, beginning at the first subscription
    #[arg(long, num_args = 1.., value_name = "FILE")]
    capture: Vec<PathBuf>,
    /// Speed of the capture, relative to the recording
    #[arg(long, default_value_t = 1.0, value_parser = positive, requires = "capture")]
    speed: f64,
    /// Faults and lies with their times since the start, as listed below: `cut@10s,drop:BTCUSDT:40@15s`
    #[arg(long, default_value = "")]
    faults: String,
    /// Delay of REST's database
    #[arg(long, default_value = "0s", value_parser = duration)]
    lag: Duration,
    /// Stop after this time; default: at Ctrl-C
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    run_for: Option<Duration>,
}

/// Exit code for arguments that cannot be used (sysexits: EX_USAGE).
const EXIT_USAGE: i32 = 64;

/// Runs the exchange until `stop`, or for the time of `--for`; returns the exit code.
pub async fn run(args: Args, format: Format, stop: CancellationToken) -> anyhow::Result<i32> {
    let faults = match parse_schedule(&args.faults) {
        Ok(faults) => faults,
        Err(message) => {
            eprintln!("--faults: {message}");
            return Ok(EXIT_USAGE);
        }
    };
    let listings = match listings(&args) {
        Ok(listings) => listings,
        Err(message) => {
            eprintln!("--symbols: {message}");
            return Ok(EXIT_USAGE);
        }
    };
    let source = match args.capture.is_empty() {
        false => Source::Capture { paths: args.capture.clone(), speed: args.speed },
        true => Source::Generated(Generated {
            listings,
            seed: args.seed,
            rate: args.rate,
            time_scale: args.time_scale,
            history: args.history,
            opens_at_first_subscription: false,
        }),
    };
    let mut options = Options::at(args.exchange.clone(), source);
    options.listen = args.listen;
    options.faults = faults;
    options.limits.lag = args.lag;
    let simulator = simulator::start(options, stop.clone()).await?;
    print_start(&simulator, &args, format);
    let end = async {
        match args.run_for {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    stop.run_until_cancelled(end).await;
    print_end(&simulator, format);
    simulator.stop().await;
    Ok(0)
}

/// The symbols of a market, and which of them are quiet.
const MARKET: [(&str, bool); 3] = [("BTC-USDT", false), ("ETH-USDT", false), ("TUSD-USDT", true)];

/// The requested symbols, as the exchange spells them; without any those of [`MARKET`].
fn listings(args: &Args) -> Result<Vec<Listing>, String> {
    let exchange = args.exchange.exchange();
    let dialect = crate::exchange::catalog::dialect(exchange);
    for Listing { symbol, .. } in &args.symbols {
        match dialect.as_ref().map(|dialect| dialect.symbol(symbol.as_str())) {
            Some(Err(SpellingError::Respell(meant))) => return Err(format!("{exchange} spells `{symbol}` as {meant}")),
            Some(Err(_)) => {
                let example = args.exchange.spec().example;
                return Err(format!("`{symbol}` is not a symbol as {exchange} spells it, such as {example}"));
            }
            Some(Ok(_)) | None => {}
        }
    }
    if !args.symbols.is_empty() {
        return Ok(args.symbols.clone());
    }
    Ok(MARKET.iter().map(|(name, quiet)| Listing { symbol: spelled(exchange, name), quiet: *quiet }).collect())
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() && number > 0.0 => Ok(number),
        _ => Err(format!("`{text}` is not a number above zero")),
    }
}

fn print_start(simulator: &Simulator, args: &Args, format: Format) {
    let symbols: Vec<&str> = simulator.control.symbols().iter().map(|symbol| symbol.as_str()).collect();
    let (ws_url, rest_url) = (simulator.ws_url(), simulator.rest_url());
    if format == Format::Json {
        print_line!(
            "{}",
            json!({
                "event": "started",
                "exchange": args.exchange.exchange().as_str(),
                "ws_url": ws_url,
                "rest_url": rest_url,
                "symbols": symbols,
                "seed": args.seed,
            })
        );
        return;
    }
    let spec = args.exchange.spec();
    match args.capture.as_slice() {
        [] => print_line!("simulated exchange: {}, {} trades/s from seed {}", spec.title, args.rate, args.seed),
        files => print_line!(
            "simulated exchange: {} capture file(s) at speed {}, from the first subscription",
            files.len(),
            args.speed
        ),
    }
    for socket in spec.sockets {
        print_line!("  WebSocket  {ws_url}{}", socket.path);
    }
    print_line!("  REST       {rest_url}");
    print_line!("  truth      {rest_url}/simulator/published");
    print_line!("  break it   curl -d '{{\"faults\":\"cut,drop:40@5s\"}}' {rest_url}/simulator/faults");
    let channels = spec.trades_channel().into_iter().chain([Channel::Kline(Interval::M1)]);
    let channels: Vec<String> =
        channels.filter(|channel| spec.channel(*channel).is_some()).map(|channel| channel.to_string()).collect();
    print_line!("\nrecord it with:\n\n[[feed]]\nexchange = \"{}\"\nsymbols = {symbols:?}", spec.exchange);
    print_line!("channels = {channels:?}\nws_url = \"{ws_url}\"\nrest_url = \"{rest_url}\"\n");
}

fn print_end(simulator: &Simulator, format: Format) {
    let (symbols, faults) = (simulator.control.summary(), simulator.control.counters());
    if format == Format::Json {
        print_line!("{}", json!({"event": "ended", "symbols": symbols, "faults": faults}));
        return;
    }
    for published in symbols {
        let klines = published.klines_1m;
        print_line!(
            "{}: {} trades, ids {} to {}, {klines} closed 1m klines",
            published.symbol,
            published.count,
            published.first,
            published.last
        );
    }
    print_line!("faults: {}", json!(faults));
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(arguments: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("simulate").chain(arguments.split_whitespace());
        Command::try_parse_from(words).map(|command| command.args)
    }

    #[test]
    fn the_arguments_are_valid() {
        Command::command().debug_assert();
        let args = parsed("--capture a.gz b.gz --speed 20 --faults cut@10s").unwrap();
        assert_eq!((args.capture.len(), args.speed), (2, 20.0));
        let names: Vec<String> =
            listings(&parsed("").unwrap()).unwrap().iter().map(|listing| listing.symbol.to_string()).collect();
        assert_eq!(names, ["BTCUSDT", "ETHUSDT", "TUSDUSDT"]);
        for exchange in ["binance", "binance_usdm"] {
            let args = parsed(&format!("--exchange {exchange}")).unwrap();
            assert_eq!(
                (args.exchange.exchange().as_str(), listings(&args).unwrap()[0].symbol.as_str()),
                (exchange, "BTCUSDT")
            );
        }
        for wrong in
            ["--exchange nowhere", "--rate 0", "--symbols b@c", "--speed 2", "--capture a --seed 3", "--for 60"]
        {
            assert!(parsed(wrong).is_err(), "{wrong} was accepted");
        }
    }

    #[test]
    fn symbols_are_spelled_as_the_exchange_does() {
        let check = |arguments: &str| listings(&parsed(arguments).unwrap());
        assert!(
            check("--symbols BTCUSDT,币安人生USDT:quiet").is_ok()
                && check("--exchange kraken --symbols BTC/USD").is_ok()
        );
        assert_eq!(check("--symbols btcusdt"), Err("binance spells `btcusdt` as BTCUSDT".to_owned()));
        let word = check("--exchange kraken --symbols BTCUSD").unwrap_err();
        assert_eq!(word, "`BTCUSD` is not a symbol as kraken spells it, such as BTC/USD");
        assert_eq!(check("--exchange kraken --symbols btc_usd"), Err("kraken spells `btc_usd` as BTC/USD".to_owned()));
    }

    #[tokio::test]
    async fn it_stops_after_the_given_time() {
        let args = parsed("--listen 127.0.0.1:0 --for 100ms --faults cut@10ms").unwrap();
        assert_eq!(run(args, Format::Human, CancellationToken::new()).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_unknown_fault_is_a_usage_error() {
        let args = parsed("--listen 127.0.0.1:0 --faults explode").unwrap();
        assert_eq!(run(args, Format::Human, CancellationToken::new()).await.unwrap(), EXIT_USAGE);
    }
}
