//! What one symbol's record does to its streams: rows, latest values, held items, holes. No I/O, no clock.

use std::collections::HashMap;

use crate::cache::Update;
use crate::gap::Observation;
use crate::history::{KlineRow, TradeRow};
use crate::log::Partition;
use crate::market::{Book, Channel, Exchange, Interval, Kline, Stream, Symbol, Timestamp, Trade};
use crate::writer::{Rows, Source};

use super::board::Standing;
use super::line::{FoundHole, Line};
use super::sorter::EXPECT_GRACE_US;

/// Most items held behind the holes of one stream: some seconds of a busy market. A longer burst is a gap.
const HELD_MAX: usize = 8_192;

/// One symbol's streams.
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) symbol: Symbol,
    /// Where its frames come from; all of a symbol's are in one partition.
    pub(super) partition: Option<Partition>,
    pub(super) trade: Option<Line<Trade>>,
    pub(super) klines: HashMap<Interval, Line<Kline>>,
    pub(super) book: Option<(Book, Standing)>,
}

/// One symbol's record being sorted.
pub(super) struct Desk<'a> {
    pub(super) exchange: Exchange,
    pub(super) symbol: &'a Symbol,
    pub(super) watermarks: &'a HashMap<Stream, i64>,
    pub(super) rows: &'a mut Rows,
    pub(super) update: &'a mut Update,
}

impl Desk<'_> {
    /// Returns whether something of the symbol is held.
    pub(super) fn trade(&mut self, lines: &mut Lines, trade: Trade, source: Source, connection: i64) -> bool {
        let line = trade_line(lines, self.exchange, self.symbol, self.watermarks);
        line.note(trade.ts, source.received_at, connection);
        match line.tracker.observe(trade.id) {
            Observation::InOrder => {
                line.tracker.advance(trade.id);
                line.reached = Some(trade.ts);
                self.push_trade(trade, source);
                while let Some((trade, source)) = line.tracker.release() {
                    line.reached = Some(trade.ts);
                    self.push_trade(trade, source);
                }
            }
            Observation::Behind => {
                line.standing.behind += 1;
                self.push_trade(trade, source);
            }
            Observation::Ahead => {
                let (offset, at) = (source.offset, source.received_at);
                line.tracker.hold(trade.id, (trade, source), false, offset, at);
            }
        }
        line.tracker.is_holding()
    }

    pub(super) fn kline(&mut self, lines: &mut Lines, kline: Kline, source: Source, connection: i64) -> bool {
        // f..L are the first and last trade id, n = L - f + 1 (measured on 109 of 109): a closed kline
        // says which trades exist. Only where trades are recorded: nobody asked for them otherwise.
        if kline.closed
            && kline.last_trade_id >= 0
            && let Some(trades) = &mut lines.trade
        {
            trades.expect(kline.last_trade_id, source.received_at.plus_micros(EXPECT_GRACE_US), "kline");
        }
        let line = kline_line(lines, self.exchange, self.symbol, kline.interval, self.watermarks);
        line.note(kline.open_time, source.received_at, connection);
        let position = kline.open_time.micros();
        match line.tracker.observe(position) {
            Observation::InOrder => {
                if kline.closed {
                    line.tracker.advance(position);
                } else {
                    line.tracker.begin_at(position);
                }
                self.push_kline(kline, source);
                while let Some((kline, source)) = line.tracker.release() {
                    self.push_kline(kline, source);
                }
            }
            Observation::Behind => {
                line.standing.behind += 1;
                self.push_kline(kline, source);
            }
            Observation::Ahead => {
                let (offset, at) = (source.offset, source.received_at);
                line.tracker.hold(position, (kline, source), !kline.closed, offset, at);
            }
        }
        line.tracker.is_holding()
    }

    pub(super) fn book(&mut self, lines: &mut Lines, book: Book, at: Timestamp, connection: i64) -> bool {
        let (latest, standing) = lines.book.get_or_insert_with(|| (book, Standing::default()));
        standing.frames += 1;
        standing.last_received = Some(at.micros());
        standing.connection = Some(connection);
        if standing.frames == 1 || book.update_id > latest.update_id {
            *latest = book;
            // One entry a symbol: a busy book would otherwise grow the update by thousands a second.
            match self
                .update
                .books
                .iter_mut()
                .find(|(exchange, symbol, _)| *exchange == self.exchange && symbol == self.symbol)
            {
                Some(entry) => entry.2 = book,
                None => self.update.books.push((self.exchange, self.symbol.clone(), book)),
            }
        }
        false
    }

    /// Declares holes whose grace is over and uses what is held no longer; returns whether something is still held.
    pub(super) fn expire(&mut self, lines: &mut Lines, deadline: Timestamp, holes: &mut Vec<FoundHole>) -> bool {
        let mut holding = false;
        if let Some(line) = &mut lines.trade {
            let mut found: Option<FoundHole> = None;
            loop {
                // Also without a hole of its own: an expectation may have declared what was missing before it.
                while let Some((trade, source)) = line.tracker.release() {
                    if let Some(found) = &mut found {
                        found.to_ts.get_or_insert(trade.ts);
                    }
                    (line.reached, line.changed) = (Some(trade.ts), true);
                    self.push_trade(trade, source);
                }
                holes.extend(found.take());
                let Some(hole) = line.tracker.expire(deadline, HELD_MAX) else { break };
                found = Some(line.found(hole, stream(self.exchange, self.symbol, Channel::Trade)));
                line.changed = true;
            }
            holding |= line.tracker.is_holding();
        }
        for (&interval, line) in &mut lines.klines {
            loop {
                while let Some((kline, source)) = line.tracker.release() {
                    line.changed = true;
                    self.push_kline(kline, source);
                }
                let Some(hole) = line.tracker.expire(deadline, HELD_MAX) else { break };
                let mut found = line.found(hole, stream(self.exchange, self.symbol, Channel::Kline(interval)));
                line.changed = true;
                found.from_ts = Some(Timestamp(hole.range.first));
                found.to_ts = Some(Timestamp(hole.next));
                holes.push(found);
            }
            holding |= line.tracker.is_holding();
        }
        holding
    }

    fn push_trade(&mut self, trade: Trade, source: Source) {
        self.rows.batch.trades.push(TradeRow {
            exchange: self.exchange,
            symbol: self.symbol.clone(),
            trade,
            received_at: source.received_at,
            is_backfilled: false,
        });
        self.rows.trade_sources.push(source);
    }

    fn push_kline(&mut self, kline: Kline, source: Source) {
        if kline.closed {
            let row = KlineRow { exchange: self.exchange, symbol: self.symbol.clone(), kline, is_backfilled: false };
            self.rows.batch.klines.push(row);
            self.rows.kline_sources.push(source);
            return;
        }
        let same = |entry: &&mut (Exchange, Symbol, Kline)| {
            entry.0 == self.exchange && entry.1 == *self.symbol && entry.2.interval == kline.interval
        };
        match self.update.klines.iter_mut().find(same) {
            Some(entry) => entry.2 = kline,
            None => self.update.klines.push((self.exchange, self.symbol.clone(), kline)),
        }
    }
}

impl Lines {
    pub(super) fn new(symbol: Symbol) -> Self {
        Self { symbol, partition: None, trade: None, klines: HashMap::new(), book: None }
    }

    /// Partition and lowest offset of what is held of each stream.
    pub(super) fn held(&self) -> impl Iterator<Item = (i32, i64)> + '_ {
        let trade = self
            .trade
            .iter()
            .filter_map(|line| Some((line.tracker.first_held()?.1.partition, line.tracker.held_offset()?)));
        let klines = self
            .klines
            .values()
            .filter_map(|line| Some((line.tracker.first_held()?.1.partition, line.tracker.held_offset()?)));
        trade.chain(klines)
    }

    pub(super) fn drain_changed(&mut self, exchange: Exchange, standings: &mut Vec<(Stream, Standing)>) {
        let symbol = &self.symbol;
        if let Some(line) = &mut self.trade
            && std::mem::take(&mut line.changed)
        {
            line.standing.next = line.tracker.next();
            standings.push((stream(exchange, symbol, Channel::Trade), line.standing));
        }
        for (&interval, line) in &mut self.klines {
            if std::mem::take(&mut line.changed) {
                line.standing.next = line.tracker.next();
                standings.push((stream(exchange, symbol, Channel::Kline(interval)), line.standing));
            }
        }
        if let Some((_, standing)) = &self.book {
            standings.push((stream(exchange, symbol, Channel::BookTicker), *standing));
        }
    }
}

pub(super) fn stream(exchange: Exchange, symbol: &Symbol, channel: Channel) -> Stream {
    Stream::new(exchange, symbol.clone(), channel)
}

pub(super) fn trade_line<'a>(
    lines: &'a mut Lines,
    exchange: Exchange,
    symbol: &Symbol,
    watermarks: &HashMap<Stream, i64>,
) -> &'a mut Line<Trade> {
    lines.trade.get_or_insert_with(|| Line::new(Channel::Trade, exchange, symbol, watermarks))
}

pub(super) fn kline_line<'a>(
    lines: &'a mut Lines,
    exchange: Exchange,
    symbol: &Symbol,
    interval: Interval,
    watermarks: &HashMap<Stream, i64>,
) -> &'a mut Line<Kline> {
    lines.klines.entry(interval).or_insert_with(|| Line::new(Channel::Kline(interval), exchange, symbol, watermarks))
}
