//! The loops that publish a generated market, a played capture, or a flood for measuring. Each adds trades and klines
//! to the truth before it sends their frames.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::capture::Capture;
use super::exchange_state::ExchangeState;
use super::faulty_link::OutgoingFrame;
use super::generator::{Event, EventKind, Listing, Market};
use super::lies::numbering::Numbering;
use super::venue::stream_name;
use super::{Flood, Generated, locked};
use crate::exchange::peer::{Peer, PeerEvent};
use crate::exchange::spec::Numbering as Numbered;
use crate::market::{Channel, Symbol, Timestamp, Trade};

/// How often the loops publish new events and let faults end that end by time.
const TICK: Duration = Duration::from_millis(5);
/// Most exchange time that one tick catches up, so that a pause of the machine does not become a flood.
const CATCH_UP_US: i64 = 1_000_000;
/// Longer pauses of a capture are shortened to this, so that files of different days play one after the other.
const PAUSE_MAX_US: i64 = 300_000_000;
/// Frames of a flood in one batch.
const FLOOD_BATCH: usize = 1_000;

/// Publishes until the market halts, at `trades_max`, or until `stop`.
pub async fn generated(exchange: Arc<ExchangeState>, options: Generated, trades_max: usize) {
    if options.opens_at_first_subscription {
        exchange.broadcaster.first_subscription.cancelled().await;
    }
    let now = exchange.time.market_now();
    let mut at = now.plus_micros(-(options.history.as_micros() as i64));
    let mut market = Market::new(options.seed, &options.listings, options.rate / options.time_scale, at);
    // "Some ids never existed" (EXCHANGES.md 5.4).
    if exchange.venue.spec().channels.iter().any(|channel| channel.numbering == Numbered::WithHoles) {
        market = market.with_holes();
    }
    let names = StreamNames::new(&options.listings);
    // Only the truth holds events before the opening: no client was connected.
    while at < now {
        at = at.plus_micros(CATCH_UP_US).min(now);
        record_truth(&exchange, &names, &market.advance(at));
    }
    exchange.opened.cancel();
    let mut delisted = BTreeSet::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = exchange.halt.cancelled() => return flush(&exchange),
            _ = ticks.tick() => {}
        }
        follow_listing(&exchange, &mut delisted, &names, &mut market, at);
        at = exchange.time.market_now().min(at.plus_micros((CATCH_UP_US as f64 * options.time_scale) as i64));
        let mut events = market.advance(at);
        events.retain(|event| !delisted.contains(&event.listing));
        record_truth(&exchange, &names, &events);
        events = with_aggregates(&exchange, &names, events);
        events.extend(change_numbering(&exchange, &options.listings, &mut market, at));
        exchange.send(names.frames(&exchange, &events));
        if exchange.trade_count() >= trades_max {
            tracing::warn!("the market halts: the simulator keeps {trades_max} trades at most");
            return flush(&exchange);
        }
    }
}

/// Plays a capture from the first subscription on, even if every client disconnects.
pub async fn capture(exchange: Arc<ExchangeState>, capture: Capture, speed: f64, trades_max: usize) {
    exchange.broadcaster.first_subscription.cancelled().await;
    exchange.opened.cancel();
    let opened = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut frames = capture.frames.into_iter().peekable();
    let mut played_us = 0;
    let mut before = frames.peek().map_or(Timestamp(0), |first| first.received_at);
    while frames.peek().is_some() {
        tokio::select! {
            () = exchange.halt.cancelled() => return flush(&exchange),
            _ = ticks.tick() => {}
        }
        let due_us = (opened.elapsed().as_micros() as f64 * speed) as i64;
        let mut sent = Vec::new();
        while let Some(recorded) = frames.peek() {
            let at_us = played_us + recorded.received_at.since(before).min(PAUSE_MAX_US);
            if at_us > due_us {
                break;
            }
            played_us = at_us;
            before = recorded.received_at;
            let Some(recorded) = frames.next() else { break };
            if let Some(at) = recorded.event_time {
                exchange.time.play(at);
            }
            if let Some(truth) = locked(&exchange.truths).get_mut(&recorded.frame.symbol) {
                if recorded.trade.is_some() {
                    truth.push(recorded.trade, exchange.aggregated, Instant::now());
                }
                if let Some(candle) = recorded.kline {
                    truth.push_kline(candle, Instant::now());
                }
            }
            if exchange.broadcaster.has_subscriber(&recorded.frame.stream) {
                sent.push(recorded.frame);
            }
        }
        exchange.send(sent);
        if exchange.trade_count() >= trades_max {
            tracing::warn!("playback ends: the simulator keeps {trades_max} trades at most");
            break;
        }
    }
    flush(&exchange);
}

/// Renders trades in advance and sends them as fast as the connections read.
pub async fn flood(exchange: Arc<ExchangeState>, options: Flood) {
    let listings = options.listings;
    let names = StreamNames::new(&listings);
    // A thousand trades a second of the market's own time, which does not depend on the wall clock.
    let mut at = exchange.time.now();
    let mut market = Market::new(options.seed, &listings, 1_000.0, at);
    let mut rendered: Vec<(Trade, OutgoingFrame)> = Vec::with_capacity(options.trades);
    while rendered.len() < options.trades && !exchange.stop.is_cancelled() {
        at = at.plus_micros(CATCH_UP_US);
        for event in market.advance(at) {
            if let EventKind::Trade(trade) = event.kind {
                rendered.extend(names.frame(exchange.venue.peer(), &event).map(|frame| (trade, frame)));
            }
        }
        tokio::task::yield_now().await;
    }
    rendered.truncate(options.trades);
    exchange.broadcaster.first_subscription.cancelled().await;
    exchange.opened.cancel();
    let mut rendered = rendered.into_iter();
    while !exchange.halt.is_cancelled() {
        let batch: Vec<(Trade, OutgoingFrame)> = rendered.by_ref().take(FLOOD_BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let now = Instant::now();
        {
            let mut truths = locked(&exchange.truths);
            for (trade, frame) in &batch {
                if let Some(truth) = truths.get_mut(&frame.symbol) {
                    truth.push([*trade], exchange.aggregated, now);
                }
            }
        }
        let frames = batch.into_iter().map(|(_, frame)| frame).collect();
        let passed = exchange.pass(frames);
        tokio::select! {
            () = exchange.halt.cancelled() => {}
            () = exchange.broadcaster.deliver_at_readers_pace(passed) => {}
        }
    }
    flush(&exchange);
}

/// Ends publishing, and sends the frames that a fault still holds back.
fn flush(exchange: &Arc<ExchangeState>) {
    exchange.finished.cancel();
    let exchange = exchange.clone();
    tokio::spawn(async move {
        let until = Instant::now() + Duration::from_secs(2);
        let ticks = async {
            while Instant::now() < until {
                exchange.send(Vec::new());
                sleep_until(Instant::now() + TICK * 20).await;
            }
        };
        exchange.stop.run_until_cancelled(ticks).await;
    });
}

/// Takes which symbols are delisted now; the ids of one that is listed again continue where they ended.
fn follow_listing(
    exchange: &ExchangeState,
    delisted: &mut BTreeSet<usize>,
    names: &StreamNames,
    market: &mut Market,
    at: Timestamp,
) {
    let now: BTreeSet<usize> = {
        let symbols = locked(&exchange.delisted);
        (0..names.symbols.len()).filter(|listing| symbols.contains(&names.symbols[*listing])).collect()
    };
    for &listing in delisted.difference(&now) {
        let truths = locked(&exchange.truths);
        if let Some(last) = truths.get(&names.symbols[listing]).and_then(|truth| truth.trades.last()) {
            market.restart(listing, last.id + 1, at, &truths[&names.symbols[listing]].trades);
        }
    }
    *delisted = now;
}

/// Makes the requested changes of the numbering, and returns the klines to send once more.
fn change_numbering(exchange: &ExchangeState, listings: &[Listing], market: &mut Market, at: Timestamp) -> Vec<Event> {
    let changes = std::mem::take(&mut *locked(&exchange.changes));
    let mut events = Vec::new();
    for change in changes {
        for (listing, listed) in listings.iter().enumerate().filter(|(_, listed)| change.concerns(listed)) {
            let mut truths = locked(&exchange.truths);
            let Some(truth) = truths.get_mut(&listed.symbol) else { continue };
            let next_id = truth.trades.last().map_or(1, |trade| trade.id + 1);
            let (first, kept, reason) = match &change {
                Numbering::Renumber(_, first) => (*first, 0, "renumbered"),
                Numbering::Rollback(_, count) => {
                    let kept = truth.trades.len().saturating_sub(usize::try_from(*count).unwrap_or(usize::MAX));
                    (truth.trades.get(kept).map_or(next_id, |trade| trade.id), kept, "rolled back")
                }
                Numbering::Wipe(_) => {
                    truth.wipe_klines(at);
                    (1, 0, "wiped")
                }
                Numbering::Correct(_, interval) => {
                    match truth.correct(*interval) {
                        Some(candle) => {
                            events.push(Event { at, listing, kind: EventKind::Kline(candle) });
                            locked(&exchange.counters).klines_corrected += 1;
                        }
                        None => locked(&exchange.changes).push(change.clone()),
                    }
                    continue;
                }
            };
            truth.begin_epoch(kept, reason);
            market.restart(listing, first, at, &truth.trades);
            locked(&exchange.counters).epochs_begun += 1;
        }
    }
    events
}

fn record_truth(exchange: &ExchangeState, names: &StreamNames, events: &[Event]) {
    let now = Instant::now();
    let mut truths = locked(&exchange.truths);
    for (listing, symbol) in names.symbols.iter().enumerate() {
        let Some(truth) = truths.get_mut(symbol) else { continue };
        let own = events.iter().filter(|event| event.listing == listing);
        let mut trades = own
            .clone()
            .filter_map(|event| if let EventKind::Trade(trade) = event.kind { Some(trade) } else { None })
            .peekable();
        if trades.peek().is_some() {
            truth.push(trades, exchange.aggregated, now);
        }
        for event in own {
            if let EventKind::Kline(candle) = event.kind {
                truth.push_kline(candle, now);
            }
        }
    }
}

/// The same events, each new aggregate behind its last trade, for symbols whose aggregates someone reads. The events are of
/// whole milliseconds, and the truth has them: every aggregate is complete.
fn with_aggregates(exchange: &ExchangeState, names: &StreamNames, events: Vec<Event>) -> Vec<Event> {
    let mut by_last_trade: HashMap<(usize, i64), Trade> = HashMap::new();
    for (listing, symbol) in names.symbols.iter().enumerate() {
        let first = events.iter().filter(|event| event.listing == listing).find_map(|event| match event.kind {
            EventKind::Trade(trade) => Some(trade.id),
            _ => None,
        });
        let Some(first) = first else { continue };
        if exchange.broadcaster.has_subscriber(names.of(listing, Channel::AggTrade))
            && let Some(truth) = locked(&exchange.truths).get(symbol)
        {
            let aggregates = truth.aggregates_from(first).into_iter();
            by_last_trade.extend(aggregates.filter_map(|trade| Some(((listing, trade.trade_ids?.1), trade))));
        }
    }
    if by_last_trade.is_empty() {
        return events;
    }
    let mut out = Vec::with_capacity(events.len() + by_last_trade.len());
    for event in events {
        out.push(event);
        if let EventKind::Trade(trade) = event.kind
            && let Some(aggregate) = by_last_trade.remove(&(event.listing, trade.id))
        {
            out.push(Event { kind: EventKind::AggTrade(aggregate), ..event });
        }
    }
    out
}

/// The symbols and the names of their streams, rendered once.
struct StreamNames {
    symbols: Vec<Symbol>,
    streams: Vec<Vec<(Channel, Arc<str>)>>,
}

impl StreamNames {
    fn new(listings: &[Listing]) -> Self {
        let streams = |listing: &Listing| {
            let name = |channel: Channel| Arc::from(stream_name(listing.symbol.as_str(), channel));
            Channel::ALL.map(|channel| (channel, name(channel))).to_vec()
        };
        Self {
            symbols: listings.iter().map(|listing| listing.symbol.clone()).collect(),
            streams: listings.iter().map(streams).collect(),
        }
    }

    fn stream(&self, event: &Event) -> &Arc<str> {
        let channel = match event.kind {
            EventKind::Trade(_) => Channel::Trade,
            EventKind::AggTrade(_) => Channel::AggTrade,
            EventKind::Kline(candle) => Channel::Kline(candle.kline.interval),
            EventKind::Book(_) => Channel::BookTicker,
        };
        self.of(event.listing, channel)
    }

    fn of(&self, listing: usize, channel: Channel) -> &Arc<str> {
        let streams = &self.streams[listing];
        &streams.iter().find(|(known, _)| *known == channel).expect("Channel::ALL holds every channel").1
    }

    /// The venue's frame of an event; `None` for a channel that it does not send.
    fn frame(&self, peer: &dyn Peer, event: &Event) -> Option<OutgoingFrame> {
        let (stream, symbol) = (self.stream(event), &self.symbols[event.listing]);
        let (name, at) = (symbol.as_str(), event.at);
        let (text, trade) = match &event.kind {
            EventKind::Trade(trade) => {
                (peer.frame(name, PeerEvent::Trades(std::slice::from_ref(trade)), at), Some((*trade, at)))
            }
            EventKind::AggTrade(trade) => (peer.frame(name, PeerEvent::AggTrade(trade), at), Some((*trade, at))),
            EventKind::Kline(candle) => {
                (peer.kline_frame(name, &candle.kline, (candle.taker_base, candle.taker_quote), at), None)
            }
            EventKind::Book(book) => (peer.frame(name, PeerEvent::Book(book), at), None),
        };
        let text = Utf8Bytes::from(text?);
        Some(OutgoingFrame { stream: stream.clone(), symbol: symbol.clone(), trade, text, is_changed: false })
    }

    /// The frames of streams with a subscriber; a jump of the clock changes their event times.
    fn frames(&self, exchange: &ExchangeState, events: &[Event]) -> Vec<OutgoingFrame> {
        let jump_us = exchange.time.jump_us();
        events
            .iter()
            .filter(|event| exchange.broadcaster.has_subscriber(self.stream(event)))
            .filter_map(|event| {
                let event = Event { at: event.at.plus_micros(jump_us), ..*event };
                self.frame(exchange.venue.peer(), &event)
            })
            .collect()
    }
}
