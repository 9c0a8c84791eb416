//! What a dialect decodes as lines of text, for fixtures.

use tapekeeper::exchange::{
    Answer, AnswerError, DecodeError, Dialect, Event, MarketEvent, RefusedRow, Route, SubscriptionAnswer,
};
use tapekeeper::market::{Kline, Timestamp, Trade};

/// The route of a frame, its events, and its error.
pub fn frame(dialect: &dyn Dialect, payload: &[u8]) -> Vec<String> {
    let mut lines = vec![route(dialect, payload)];
    let decoded = dialect.decode(payload, &mut |market| lines.push(event(&market)));
    lines.extend(decoded.err().map(|failed| error(&failed)));
    lines
}

pub fn error(failed: &DecodeError) -> String {
    format!("error {failed}")
}

fn route(dialect: &dyn Dialect, payload: &[u8]) -> String {
    match dialect.route(payload) {
        Route::Stream(name) => {
            let channel = dialect.channel(&name).map_or("not recorded", |channel| channel.as_str());
            format!("stream {name} ({channel})")
        }
        Route::Answer(SubscriptionAnswer { id, streams, error }) => {
            let id = id.map_or("none".to_owned(), |id| id.to_string());
            let outcome = error.map_or("accepted".to_owned(), |error| format!("refused: {error}"));
            format!("answer id={id} streams=[{}] {outcome}", streams.join(" "))
        }
        Route::Heartbeat => "heartbeat".to_owned(),
        Route::Shutdown => "shutdown".to_owned(),
        Route::Other => "other".to_owned(),
    }
}

fn event(market: &MarketEvent<'_>) -> String {
    let sent = market.event_time.map_or("none".to_owned(), |at| at.micros().to_string());
    let content = match &market.event {
        Event::Trade(content) => trade(content),
        Event::Kline(content) => kline(content),
        Event::Book(book) => format!(
            "book id={} bid={} x {} ask={} x {}",
            book.update_id, book.bid, book.bid_quantity, book.ask, book.ask_quantity
        ),
    };
    format!("{} {content} sent={sent}", market.symbol)
}

fn trade(trade: &Trade) -> String {
    let Trade { id, ts, price, quantity, side, trade_ids } = trade;
    match trade_ids {
        None => format!("trade id={id} at={} {side} {quantity} x {price}", ts.micros()),
        Some((first, last)) => {
            format!("agg_trade id={id} of={first}..{last} at={} {side} {quantity} x {price}", ts.micros())
        }
    }
}

fn kline(kline: &Kline) -> String {
    format!(
        "kline {} from={} to={} o={} h={} l={} c={} v={} q={} trades={} ids={}..{} {}",
        kline.interval,
        kline.open_time.micros(),
        kline.close_time.micros(),
        kline.open,
        kline.high,
        kline.low,
        kline.close,
        kline.volume,
        kline.quote_volume,
        kline.trade_count,
        kline.first_trade_id,
        kline.last_trade_id,
        if kline.closed { "closed" } else { "open" }
    )
}

fn refused(row: &RefusedRow) -> String {
    let position = row.position.map_or("none".to_owned(), |at| at.to_string());
    format!("refused {position}: {}", row.reason)
}

/// The rows of an answer.
pub fn answer(answer: &Answer) -> Vec<String> {
    match answer {
        Answer::Trades(page) => page.rows.iter().map(trade).chain(page.refused.iter().map(refused)).collect(),
        Answer::Klines(page) => page.rows.iter().map(kline).chain(page.refused.iter().map(refused)).collect(),
        Answer::Newest(None) | Answer::TradeAt(None) => vec!["none".to_owned()],
        Answer::Newest(Some((id, Timestamp(at)))) => vec![format!("newest id={id} at={at}")],
        Answer::TradeAt(Some(id)) => vec![format!("first id={id}")],
        Answer::Time(at) => vec![format!("time {}", at.micros())],
        Answer::Listing(info) => {
            let listed = info.symbols.iter().map(|(symbol, entry)| format!("{symbol} {entry:?}"));
            let weight = info.weight_per_minute.map(|weight| format!("weight {weight}"));
            let unreadable = info.unreadable.iter().map(|why| format!("unreadable {why}"));
            weight.into_iter().chain(listed).chain(unreadable).collect()
        }
    }
}

pub fn refusal(refusal: &AnswerError) -> String {
    format!("{:?} {}: {}", refusal.kind, refusal.code, refusal.msg)
}
