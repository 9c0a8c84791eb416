//! The loops that publish: a generated market, a capture that is played, or a flood for measuring.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::capture::Capture;
use super::generator::{Event, Listing, Market, What};
use super::venue::Venue;
use super::wire::WireFrame;
use super::{Flood, Generated, locked, render};
use crate::market::{Channel, Symbol, Timestamp, Trade};

/// How often a generated market publishes what happened meanwhile, and faults that end by time are looked at.
const TURN: Duration = Duration::from_millis(5);
/// The most exchange time that one turn makes up for, so that a pause of the machine is no flood.
const CATCH_UP_US: i64 = 1_000_000;
/// Pauses of a capture longer than this are cut to it: files of different days play one after the other.
const PAUSE_MAX_US: i64 = 300_000_000;
/// Frames of a flood that are queued at once.
const FLOOD_BATCH: usize = 1_000;

/// Publishes until the market is halted, its trades are as many as may be kept, or everything stops.
pub async fn generated(venue: Arc<Venue>, options: Generated, trades_max: usize) {
    if options.opens_at_first_subscription {
        venue.hub.first_subscription.cancelled().await;
    }
    let now = venue.time.now();
    let mut at = now.plus_micros(-(options.history.as_micros() as i64));
    let mut market = Market::new(options.seed, &options.listings, options.rate / options.time_scale, at);
    let names = Names::new(&options.listings);
    // What happened before the opening is on the tape only: nobody was connected.
    while at < now {
        at = at.plus_micros(CATCH_UP_US).min(now);
        record(&venue, &names, &market.advance(at));
    }
    venue.opened.cancel();
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = venue.halt.cancelled() => return flush(&venue),
            _ = turns.tick() => {}
        }
        at = venue.time.now().min(at.plus_micros((CATCH_UP_US as f64 * options.time_scale) as i64));
        let events = market.advance(at);
        record(&venue, &names, &events);
        venue.send(names.frames(&venue, &events));
        if venue.trade_count() >= trades_max {
            tracing::warn!("the market halts: {trades_max} trades are as many as the simulator keeps");
            return flush(&venue);
        }
    }
}

/// Plays a capture from the first subscription on, whether or not anyone stays connected.
pub async fn capture(venue: Arc<Venue>, capture: Capture, speed: f64, trades_max: usize) {
    venue.hub.first_subscription.cancelled().await;
    venue.opened.cancel();
    let opened = Instant::now();
    let mut turns = interval(TURN);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut frames = capture.frames.into_iter().peekable();
    let mut played_us = 0;
    let mut before = frames.peek().map_or(Timestamp(0), |first| first.received_at);
    while frames.peek().is_some() {
        tokio::select! {
            () = venue.halt.cancelled() => return flush(&venue),
            _ = turns.tick() => {}
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
                venue.time.play(at);
            }
            if let Some(tape) = locked(&venue.tapes).get_mut(&recorded.frame.symbol) {
                if recorded.trade.is_some() {
                    tape.push(recorded.trade, venue.aggregated, Instant::now());
                }
                if let Some(candle) = recorded.kline {
                    tape.push_kline(candle, Instant::now());
                }
            }
            if venue.hub.wanted(&recorded.frame.stream) {
                sent.push(recorded.frame);
            }
        }
        venue.send(sent);
        if venue.trade_count() >= trades_max {
            tracing::warn!("playback ends: {trades_max} trades are as many as the simulator keeps");
            break;
        }
    }
    flush(&venue);
}

/// Renders a market beforehand and sends it as fast as the connections read.
pub async fn flood(venue: Arc<Venue>, options: Flood) {
    let listings = options.listings;
    let names = Names::new(&listings);
    // A thousand trades a second of the market's own time: the wall has no say here.
    let mut at = venue.time.now();
    let mut market = Market::new(options.seed, &listings, 1_000.0, at);
    let mut rendered: Vec<(Trade, WireFrame)> = Vec::with_capacity(options.trades);
    while rendered.len() < options.trades && !venue.stop.is_cancelled() {
        at = at.plus_micros(CATCH_UP_US);
        for event in market.advance(at) {
            if let What::Trade(trade) = event.what {
                rendered.push((trade, names.frame(&event)));
            }
        }
        tokio::task::yield_now().await;
    }
    rendered.truncate(options.trades);
    venue.hub.first_subscription.cancelled().await;
    venue.opened.cancel();
    let mut rendered = rendered.into_iter();
    while !venue.halt.is_cancelled() {
        let batch: Vec<(Trade, WireFrame)> = rendered.by_ref().take(FLOOD_BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let now = Instant::now();
        {
            let mut tapes = locked(&venue.tapes);
            for (trade, frame) in &batch {
                if let Some(tape) = tapes.get_mut(&frame.symbol) {
                    tape.push([*trade], venue.aggregated, now);
                }
            }
        }
        let frames = batch.into_iter().map(|(_, frame)| frame).collect();
        let passed = {
            let mut counters = locked(&venue.counters);
            locked(&venue.wire).pass(frames, now, &mut counters)
        };
        tokio::select! {
            () = venue.halt.cancelled() => {}
            () = venue.hub.pour(passed) => {}
        }
    }
    flush(&venue);
}

/// Frames that a fault holds back are still due when the market is over.
fn flush(venue: &Arc<Venue>) {
    venue.over.cancel();
    let venue = venue.clone();
    tokio::spawn(async move {
        let until = Instant::now() + Duration::from_secs(2);
        let turns = async {
            while Instant::now() < until {
                venue.send(Vec::new());
                sleep_until(Instant::now() + TURN * 20).await;
            }
        };
        venue.stop.run_until_cancelled(turns).await;
    });
}

fn record(venue: &Venue, names: &Names, events: &[Event]) {
    let now = Instant::now();
    let mut tapes = locked(&venue.tapes);
    for (listing, symbol) in names.symbols.iter().enumerate() {
        let Some(tape) = tapes.get_mut(symbol) else { continue };
        let own = events.iter().filter(|event| event.listing == listing);
        let mut trades = own
            .clone()
            .filter_map(|event| if let What::Trade(trade) = event.what { Some(trade) } else { None })
            .peekable();
        if trades.peek().is_some() {
            tape.push(trades, venue.aggregated, now);
        }
        for event in own {
            if let What::Kline(candle) = event.what {
                tape.push_kline(candle, now);
            }
        }
    }
}

/// The symbols and the names of their streams, made once.
struct Names {
    symbols: Vec<Symbol>,
    streams: Vec<Vec<(Channel, Arc<str>)>>,
}

impl Names {
    fn new(listings: &[Listing]) -> Self {
        let streams = |listing: &Listing| {
            let name = |channel: Channel| Arc::from(render::stream_name(listing.symbol.as_str(), channel));
            Channel::ALL.map(|channel| (channel, name(channel))).to_vec()
        };
        Self {
            symbols: listings.iter().map(|listing| listing.symbol.clone()).collect(),
            streams: listings.iter().map(streams).collect(),
        }
    }

    fn stream(&self, event: &Event) -> &Arc<str> {
        let channel = match event.what {
            What::Trade(_) => Channel::Trade,
            What::Kline(candle) => Channel::Kline(candle.kline.interval),
            What::Book(_) => Channel::BookTicker,
        };
        let streams = &self.streams[event.listing];
        &streams.iter().find(|(known, _)| *known == channel).expect("Channel::ALL holds every channel").1
    }

    fn frame(&self, event: &Event) -> WireFrame {
        let (stream, symbol) = (self.stream(event), &self.symbols[event.listing]);
        let (text, data_start) = render::combined(stream, symbol.as_str(), event);
        let trade_id = if let What::Trade(trade) = event.what { Some(trade.id) } else { None };
        WireFrame { stream: stream.clone(), symbol: symbol.clone(), trade_id, text: Utf8Bytes::from(text), data_start }
    }

    /// Frames of the streams that someone wants.
    fn frames(&self, venue: &Venue, events: &[Event]) -> Vec<WireFrame> {
        events.iter().filter(|event| venue.hub.wanted(self.stream(event))).map(|event| self.frame(event)).collect()
    }
}
