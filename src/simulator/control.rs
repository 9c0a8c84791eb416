//! The handle that injects faults and returns the truth, in the program and over HTTP.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::broadcaster::{EndMode, RawFrame, Subscriber};
use super::counters::Counters;
use super::exchange_state::ExchangeState;
use super::fault::{Fault, ScheduledFault, parse_schedule};
use super::lies::socket::SocketLie;
use super::locked;
use super::truth::{CorrectedKline, PublishedEpoch, Truth, TruthSummary};
use crate::exchange::peer::{Peer, PeerEvent};
use crate::market::{Channel, Interval, Kline, Side, Symbol, Timestamp, Trade};

/// Injects faults into the simulated exchange and returns what it published; cheap to clone.
#[derive(Clone, Debug)]
pub struct Control(Arc<ExchangeState>);

impl Control {
    pub(super) fn new(exchange: Arc<ExchangeState>) -> Self {
        Self(exchange)
    }

    /// Injects a fault now.
    pub fn inject(&self, fault: &Fault) {
        let exchange = &self.0;
        let now = Instant::now();
        tracing::info!(?fault, "the simulator injects {fault:?}");
        if locked(&exchange.link).inject(&self.with_absolute_tail(fault), now) {
            return;
        }
        match fault {
            Fault::Cut => self.end_connections(exchange.broadcaster.subscribers(), EndMode::Reset),
            Fault::CutOldest(count) => {
                let oldest = exchange.broadcaster.subscribers().into_iter().take(*count).collect();
                self.end_connections(oldest, EndMode::Reset);
            }
            Fault::Close => self.end_connections(exchange.broadcaster.subscribers(), EndMode::Close),
            Fault::Outage(time) => {
                exchange.outage.begin(now + *time);
                self.end_connections(exchange.broadcaster.subscribers(), EndMode::Reset);
            }
            Fault::Rest(status, time) => locked(&exchange.rest).refuse = Some((*status, now + *time)),
            Fault::RateLimit(time) => locked(&exchange.rest).limited_until = Some(now + *time),
            Fault::Ban(time) => locked(&exchange.budgets).ban_until(now + *time),
            Fault::Lag(lag) => locked(&exchange.rest).lag = *lag,
            Fault::Forget(symbol, id) => {
                if let Some(truth) = locked(&exchange.truths).get_mut(symbol) {
                    truth.serve_from(*id);
                }
            }
            Fault::Stall(time) => {
                let stalled = exchange.broadcaster.stall(now + *time);
                locked(&exchange.counters).connections_stalled += stalled;
            }
            Fault::Shutdown(after) => self.announce_shutdown(*after),
            Fault::Clock(jump_us, time) => exchange.time.jump(*jump_us, now + *time),
            Fault::Lie(lie, time) => {
                let next = lie.counted_symbol().map_or(0, |symbol| self.next_id(symbol.as_str()));
                locked(&exchange.rest).lies.begin(lie.resolved(next), now + *time, now);
            }
            Fault::Socket(lie) => self.begin_socket_lie(lie, now),
            Fault::Numbering(change) if exchange.is_generated => locked(&exchange.changes).push(change.clone()),
            Fault::Delist(symbol) => drop(locked(&exchange.delisted).insert(symbol.clone())),
            Fault::List(symbol) => drop(locked(&exchange.delisted).remove(symbol)),
            Fault::Numbering(_) => tracing::warn!("only a generated market can change its numbering"),
            // The link has taken the faults of frames above.
            _ => {}
        }
    }

    fn begin_socket_lie(&self, lie: &SocketLie, now: Instant) {
        let lies = || locked(&self.0.socket_lies);
        match lie {
            SocketLie::RefuseStream(symbol, channel, time) => {
                lies().refuse_stream(symbol.as_str(), *channel, now + *time);
            }
            SocketLie::Ack(lie, time) => lies().answer(*lie, now + *time),
            SocketLie::Upgrade(status, retry_after, time) => {
                lies().refuse_upgrades(*status, retry_after.clone(), now + *time);
            }
            SocketLie::Foreign(count) => self.flood_with_foreign_symbols(*count),
            // The link has taken the others.
            SocketLie::Poison(_) | SocketLie::Hole(..) | SocketLie::Mute(..) => {}
        }
    }

    /// Sends trades of invented symbols on every connection, at a pace that a reader can follow.
    fn flood_with_foreign_symbols(&self, count: u64) {
        let control = self.clone();
        tokio::spawn(async move {
            let stop = control.0.stop.clone();
            let flood = async {
                let mut sent = 0;
                while sent < count {
                    let numbers = sent..count.min(sent + FOREIGN_BATCH);
                    sent = numbers.end;
                    let at = control.0.time.now();
                    let frames: Vec<RawFrame> =
                        numbers.filter_map(|number| foreign_frame(control.0.venue.peer(), number, at)).collect();
                    locked(&control.0.counters).frames_foreign += frames.len() as u64;
                    control.0.broadcaster.deliver_raw(frames);
                    sleep(FOREIGN_PAUSE).await;
                }
            };
            stop.run_until_cancelled(flood).await;
        });
    }

    /// Sends these bytes as one frame to every connection that subscribed to the stream (`btcusdt@trade`), exactly as
    /// they are: as a text frame, or as a binary one when they are not UTF-8. Returns how many connections get it.
    pub fn inject_frame(&self, stream: &str, bytes: impl Into<Bytes>) -> usize {
        let reached = self.0.broadcaster.deliver_raw(vec![RawFrame::new(Some(Arc::from(stream)), bytes.into())]);
        locked(&self.0.counters).frames_injected += 1;
        reached
    }

    /// The id that the symbol's next trade has, as far as the truth knows: one above the last.
    pub fn next_id(&self, symbol: &str) -> i64 {
        let truths = locked(&self.0.truths);
        truths.get(symbol).and_then(|truth| truth.trades.last()).map_or(0, |trade| trade.id + 1)
    }

    /// Injects faults on a schedule; its times count from the opening of the market.
    pub fn schedule(&self, schedule: Vec<ScheduledFault>) {
        let control = self.clone();
        tokio::spawn(async move {
            let stop = control.0.stop.clone();
            let run = async {
                control.0.opened.cancelled().await;
                let opened = Instant::now();
                for scheduled in schedule {
                    sleep_until(opened + scheduled.after).await;
                    control.inject(&scheduled.fault);
                }
            };
            stop.run_until_cancelled(run).await;
        });
    }

    /// What the faults have done so far.
    pub fn counters(&self) -> Counters {
        Counters { connections_refused: self.0.outage.refused(), ..locked(&self.0.counters).clone() }
    }

    /// The number of open WebSocket connections.
    pub fn connections(&self) -> usize {
        self.0.broadcaster.subscribers().len()
    }

    /// The listed symbols.
    pub fn symbols(&self) -> &[Symbol] {
        &self.0.symbols
    }

    /// Every trade that the exchange still stands for, in the order of ids: all that was published, but for trades that a
    /// change of the numbering deleted or replaced. Empty for an unknown symbol.
    pub fn published(&self, symbol: &str) -> Vec<Trade> {
        locked(&self.0.truths).get(symbol).map(|truth| truth.trades.clone()).unwrap_or_default()
    }

    /// Every aggregate trade that the exchange still stands for, in the order of their numbers: each sums up neighbours of
    /// [`Self::published`]. Empty for an unknown symbol.
    pub fn published_agg_trades(&self, symbol: &str) -> Vec<Trade> {
        locked(&self.0.truths).get(symbol).map(|truth| truth.aggregates_from(i64::MIN)).unwrap_or_default()
    }

    /// Every epoch of a symbol with all its trades, the present one last: trades that were deleted or replaced are in the
    /// epoch in which they were published. Empty for an unknown symbol.
    pub fn published_epochs(&self, symbol: &str) -> Vec<PublishedEpoch> {
        locked(&self.0.truths).get(symbol).map(Truth::epochs).unwrap_or_default()
    }

    /// Both contents of every corrected kline, in the order of the corrections.
    pub fn corrected_klines(&self, symbol: &str) -> Vec<CorrectedKline> {
        locked(&self.0.truths).get(symbol).map(|truth| truth.corrected().to_vec()).unwrap_or_default()
    }

    /// Every closed kline that was published, oldest first, with its last content.
    pub fn published_klines(&self, symbol: &str, interval: Interval) -> Vec<Kline> {
        let truths = locked(&self.0.truths);
        let closed = truths.get(symbol).map(|truth| truth.closed(interval)).unwrap_or_default();
        closed.iter().map(|candle| candle.kline).collect()
    }

    /// First and last id and the number of trades of each symbol.
    pub fn summary(&self) -> Vec<TruthSummary> {
        let truths = locked(&self.0.truths);
        self.0.symbols.iter().filter_map(|symbol| truths.get(symbol).map(|truth| truth.summary(symbol))).collect()
    }

    /// The exchange's own time, as it tells its clients.
    pub fn exchange_time(&self) -> Timestamp {
        self.0.time.now()
    }

    /// Halts the market: it publishes nothing more, connections and REST stay up. [`Self::finished`] is cancelled when
    /// the truth holds the last trade.
    pub fn stop_publishing(&self) {
        self.0.halt.cancel();
    }

    /// Cancelled when nothing more will be published: the capture has ended, or the market has halted.
    pub fn finished(&self) -> CancellationToken {
        self.0.finished.clone()
    }

    /// Cancelled when the market opens.
    pub fn opened(&self) -> CancellationToken {
        self.0.opened.clone()
    }

    fn end_connections(&self, subscribers: Vec<Arc<Subscriber>>, how: EndMode) {
        let mut ended = 0;
        for subscriber in subscribers.iter().filter(|subscriber| !subscriber.ended.is_cancelled()) {
            subscriber.end(how);
            ended += 1;
        }
        locked(&self.0.counters).connections_cut += ended;
    }

    fn announce_shutdown(&self, after: Duration) {
        let announcement = self.0.venue.peer().shutdown(self.0.time.now());
        let subscribers = self.0.broadcaster.announce_shutdown(announcement);
        locked(&self.0.counters).shutdowns += 1;
        let control = self.clone();
        tokio::spawn(async move {
            let stop = control.0.stop.clone();
            if stop.run_until_cancelled(sleep(after)).await.is_some() {
                control.end_connections(subscribers, EndMode::Close);
            }
        });
    }

    /// Converts a negative tail, which counts from the end of the capture, to an id; without a capture nothing is lost.
    fn with_absolute_tail(&self, fault: &Fault) -> Fault {
        match fault {
            Fault::LoseTail(symbol, from) if *from < 0 => {
                let end = self.0.capture_ends.get(symbol).copied().unwrap_or(i64::MAX - 1);
                Fault::LoseTail(symbol.clone(), end + 1 + from)
            }
            _ => fault.clone(),
        }
    }
}

/// Frames of invented symbols in one batch, and the pause behind it: 20,000 a second.
const FOREIGN_BATCH: u64 = 1_000;
const FOREIGN_PAUSE: Duration = Duration::from_millis(50);

/// A trade of a symbol that does not exist.
fn foreign_frame(peer: &dyn Peer, number: u64, at: Timestamp) -> Option<RawFrame> {
    let trade = Trade { id: 7, ts: at, price: Decimal::ONE, quantity: Decimal::ONE, side: Side::Buy, trade_ids: None };
    let text = peer.frame(&format!("X{number:06}USDT"), PeerEvent::Trades(&[trade]), at)?;
    Some(RawFrame::new(None, Bytes::from(text)))
}

/// The routes under `/simulator`.
pub(super) fn routes() -> Router<Arc<ExchangeState>> {
    Router::new()
        .route("/simulator/faults", get(read_counters).post(inject))
        .route("/simulator/frames", post(inject_frame))
        .route("/simulator/published", get(published))
}

async fn read_counters(State(exchange): State<Arc<ExchangeState>>) -> Response {
    axum::Json(Control(exchange).counters()).into_response()
}

/// `{"faults": "cut,drop:40@5s"}`; times count from now, when the market is open.
#[derive(Deserialize)]
struct InjectRequest {
    faults: String,
}

async fn inject(State(exchange): State<Arc<ExchangeState>>, body: String) -> Response {
    let request = serde_json::from_str::<InjectRequest>(&body).map_err(|error| error.to_string());
    match request.and_then(|request| parse_schedule(&request.faults)) {
        Ok(schedule) => {
            let control = Control(exchange);
            let (now, later): (Vec<_>, Vec<_>) = schedule.into_iter().partition(|scheduled| scheduled.after.is_zero());
            now.iter().for_each(|scheduled| control.inject(&scheduled.fault));
            if !later.is_empty() {
                control.schedule(later);
            }
            (StatusCode::ACCEPTED, axum::Json(control.counters())).into_response()
        }
        Err(message) => {
            let body = json!({"error": {"code": "bad_fault", "message": message}});
            (StatusCode::BAD_REQUEST, axum::Json(body)).into_response()
        }
    }
}

/// Sends the body as one frame of `?stream=btcusdt@trade`.
async fn inject_frame(
    State(exchange): State<Arc<ExchangeState>>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> Response {
    match query.get("stream") {
        Some(stream) => {
            let connections = Control(exchange).inject_frame(stream, body);
            (StatusCode::ACCEPTED, axum::Json(json!({"connections": connections}))).into_response()
        }
        None => (StatusCode::BAD_REQUEST, "`stream` is missing").into_response(),
    }
}

/// Returns a summary of all symbols; with `symbol` its trades, with `epoch=0` too those of one epoch, with
/// `channel=agg_trade` its aggregate trades, and with `klines=1m` its closed klines, as JSON lines.
async fn published(
    State(exchange): State<Arc<ExchangeState>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let control = Control(exchange);
    let Some(symbol) = query.get("symbol") else {
        let finished = control.0.finished.is_cancelled();
        return axum::Json(json!({"symbols": control.summary(), "over": finished})).into_response();
    };
    let mut lines = String::new();
    match query.get("klines").map(|interval| interval.parse::<Interval>()) {
        None => {
            let trades = match query.get("epoch").map(|epoch| epoch.parse::<usize>()) {
                None if query.get("channel").is_some_and(|name| name == Channel::AggTrade.as_str()) => {
                    control.published_agg_trades(symbol)
                }
                None => control.published(symbol),
                Some(Ok(epoch)) => control
                    .published_epochs(symbol)
                    .into_iter()
                    .nth(epoch)
                    .map(|epoch| epoch.trades)
                    .unwrap_or_default(),
                Some(Err(_)) => return (StatusCode::BAD_REQUEST, "the epoch is a number").into_response(),
            };
            trades.iter().for_each(|trade| lines.push_str(&trade_line(trade)));
        }
        Some(Ok(interval)) => {
            control.published_klines(symbol, interval).iter().for_each(|kline| lines.push_str(&kline_line(kline)));
        }
        Some(Err(())) => return (StatusCode::BAD_REQUEST, "unknown interval").into_response(),
    }
    ([("content-type", "application/x-ndjson")], lines).into_response()
}

fn trade_line(trade: &Trade) -> String {
    let of = match trade.trade_ids {
        Some((first, last)) => format!(",\"first_trade_id\":{first},\"last_trade_id\":{last}"),
        None => String::new(),
    };
    format!(
        "{{\"trade_id\":{},\"ts\":{},\"price\":\"{}\",\"quantity\":\"{}\",\"side\":\"{}\"{of}}}\n",
        trade.id,
        trade.ts.micros(),
        trade.price,
        trade.quantity,
        trade.side
    )
}

fn kline_line(kline: &Kline) -> String {
    let value = json!({
        "interval": kline.interval.as_str(),
        "open_time": kline.open_time.micros(),
        "close_time": kline.close_time.micros(),
        "open": kline.open.to_string(),
        "high": kline.high.to_string(),
        "low": kline.low.to_string(),
        "close": kline.close.to_string(),
        "volume": kline.volume.to_string(),
        "quote_volume": kline.quote_volume.to_string(),
        "trade_count": kline.trade_count,
        "first_trade_id": kline.first_trade_id,
        "last_trade_id": kline.last_trade_id,
    });
    format!("{value}\n")
}
