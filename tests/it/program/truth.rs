//! Compares history, read as another program reads it, with what the exchange published.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rust_decimal::Decimal;
use tapekeeper::market::{Exchange, Interval, Kline, Trade};
use tapekeeper::simulator::Simulator;
use tokio::time::Instant;

use super::app::TestApp;

/// A trade as sent or as stored: id, time in microseconds, price, quantity, side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TradeTruth {
    pub id: i64,
    pub ts: i64,
    pub price: Decimal,
    pub quantity: Decimal,
    pub side: String,
}

impl From<&Trade> for TradeTruth {
    fn from(trade: &Trade) -> Self {
        let (price, quantity) = (trade.price, trade.quantity);
        Self { id: trade.id, ts: trade.ts.micros(), price, quantity, side: trade.side.as_str().to_owned() }
    }
}

/// `history.db`, read only, as any other program would open it.
pub struct HistoryFile {
    connection: Connection,
    /// The exchange whose rows it reads; `None` for a history of one exchange.
    exchange: Option<Exchange>,
}

impl HistoryFile {
    pub fn open(app: &TestApp) -> Self {
        Self::open_in(&app.data_dir)
    }

    pub fn open_in(data_dir: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(data_dir.join("history.db"), flags).unwrap();
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
        Self { connection, exchange: None }
    }

    /// The rows of one exchange only: two may spell a symbol alike.
    pub fn of(self, exchange: Exchange) -> Self {
        Self { exchange: Some(exchange), ..self }
    }

    /// One number.
    pub fn number(&self, sql: &str) -> i64 {
        self.connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// One text of every row.
    pub fn strings(&self, sql: &str) -> Vec<String> {
        let mut select = self.connection.prepare(sql).unwrap();
        let rows = select.query_map([], |row| row.get(0)).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Payload and reason of every dead letter.
    pub fn dead_letters(&self) -> Vec<(Vec<u8>, String)> {
        let mut select = self
            .connection
            .prepare("SELECT payload, reason FROM dead_letters ORDER BY log_partition, log_offset")
            .unwrap();
        let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.map(Result::unwrap).collect()
    }

    /// Every trade of a symbol, ordered by id; decimals must be plain, without exponent or trailing zeros.
    pub fn trades(&self, symbol: &str) -> Vec<TradeTruth> {
        let exchange = self.of_exchange();
        let sql = format!(
            "SELECT trade_id, ts, price, quantity, side FROM trades
                   WHERE symbol = ?1{exchange} ORDER BY trade_id"
        );
        let mut select = self.connection.prepare(&sql).unwrap();
        select.query_map([symbol], trade_truth).unwrap().map(Result::unwrap).collect()
    }

    /// Every aggregate trade of a symbol, ordered by its number, with the ids of its first and last trade.
    pub fn agg_trades(&self, symbol: &str) -> Vec<(TradeTruth, (i64, i64))> {
        let exchange = self.of_exchange();
        let sql = format!(
            "SELECT agg_id, ts, price, quantity, side, first_trade_id, last_trade_id FROM agg_trades
                   WHERE symbol = ?1{exchange} ORDER BY agg_id"
        );
        let mut select = self.connection.prepare(&sql).unwrap();
        let rows = select.query_map([symbol], |row| Ok((trade_truth(row)?, (row.get(5)?, row.get(6)?))));
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// Every trade of one epoch.
    pub fn trades_of_epoch(&self, symbol: &str, epoch: i64) -> Vec<TradeTruth> {
        let sql = "SELECT trade_id, ts, price, quantity, side FROM trades
                   WHERE symbol = ?1 AND epoch = ?2 ORDER BY trade_id";
        let mut select = self.connection.prepare(sql).unwrap();
        select.query_map(rusqlite::params![symbol, epoch], trade_truth).unwrap().map(Result::unwrap).collect()
    }

    /// Every one-minute kline of a symbol, ordered by time, with its values as text.
    pub fn klines(&self, symbol: &str) -> Vec<(i64, String)> {
        let exchange = self.of_exchange();
        let sql = format!(
            "SELECT open_time, close_time, open, high, low, close, volume, quote_volume, trade_count,
                   first_trade_id, last_trade_id FROM klines
                   WHERE symbol = ?1{exchange} AND interval = '1m' ORDER BY open_time"
        );
        let mut select = self.connection.prepare(&sql).unwrap();
        let rows = select.query_map([symbol], |row| {
            let mut text = format!("{}", row.get::<_, i64>(1)?);
            for column in 2..8 {
                text.push_str(&format!(" {}", plain(&row.get::<_, String>(column)?)));
            }
            for column in 8..11 {
                text.push_str(&format!(" {}", row.get::<_, i64>(column)?));
            }
            Ok((row.get(0)?, text))
        });
        rows.unwrap().map(Result::unwrap).collect()
    }

    /// The condition on the exchange; empty without one.
    fn of_exchange(&self) -> String {
        self.exchange.map_or_else(String::new, |exchange| format!(" AND exchange = '{exchange}'"))
    }

    /// The number of open gaps, of all channels.
    pub fn open_gaps(&self) -> i64 {
        self.number("SELECT count(*) FROM gaps WHERE closed_at IS NULL")
    }

    /// Every gap row as text, for messages.
    pub fn gaps(&self) -> Vec<String> {
        self.strings(
            "SELECT exchange || ':' || symbol || ' ' || channel || ' ' || first_missing || '..' || last_missing || ' ' || state || ' '
             || reason || ' ' || evidence FROM gaps ORDER BY gap_id",
        )
    }
}

fn trade_truth(row: &rusqlite::Row<'_>) -> rusqlite::Result<TradeTruth> {
    let (price, quantity): (String, String) = (row.get(2)?, row.get(3)?);
    let (price, quantity) = (plain(&price), plain(&quantity));
    Ok(TradeTruth { id: row.get(0)?, ts: row.get(1)?, price, quantity, side: row.get(4)? })
}

fn plain(text: &str) -> Decimal {
    let decimal = Decimal::from_str_exact(text).unwrap();
    assert_eq!(decimal.normalize().to_string(), text, "a decimal is stored plainly");
    decimal
}

fn kline_text(kline: &Kline) -> (i64, String) {
    let decimals = [kline.open, kline.high, kline.low, kline.close, kline.volume, kline.quote_volume];
    let decimals: Vec<String> = decimals.iter().map(|decimal| decimal.normalize().to_string()).collect();
    let text = format!(
        "{} {} {} {} {}",
        kline.close_time.micros(),
        decimals.join(" "),
        kline.trade_count,
        kline.first_trade_id,
        kline.last_trade_id
    );
    (kline.open_time.micros(), text)
}

/// Fails with the first difference: both must have the same trades in the same order.
pub fn assert_same(symbol: &str, stored: &[TradeTruth], published: &[TradeTruth]) {
    for (stored, published) in stored.iter().zip(published) {
        assert_eq!(stored, published, "{symbol}: the first difference, stored and published");
    }
    assert_eq!(stored.len(), published.len(), "{symbol}: trades stored and published");
}

/// Waits until history has every published trade and no gap is open, then compares everything.
pub async fn assert_complete(app: &TestApp, simulator: &Simulator, limit: Duration) {
    let until = Instant::now() + limit;
    loop {
        let history = HistoryFile::open(app);
        let whole = simulator.control.summary().iter().all(|published| {
            let sql = format!("SELECT count(*) FROM trades WHERE symbol = '{}'", published.symbol);
            history.number(&sql) == published.count as i64
        });
        if (whole && history.open_gaps() == 0) || Instant::now() > until {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let history = HistoryFile::open(app);
    for symbol in simulator.control.symbols() {
        let published: Vec<TradeTruth> = simulator.control.published(symbol.as_str()).iter().map(Into::into).collect();
        assert_same(symbol.as_str(), &history.trades(symbol.as_str()), &published);
    }
    let gaps = history.gaps();
    assert_eq!(history.open_gaps(), 0, "a gap is open:\n{}", gaps.join("\n"));
}

/// Waits until history has every published kline and compares them, from the first stored one on. That is the first
/// or the second published one: the minute in which a recorder begins may close before it is connected.
pub async fn assert_klines_complete(app: &TestApp, simulator: &Simulator, limit: Duration) {
    for symbol in simulator.control.symbols() {
        let published = simulator.control.published_klines(symbol.as_str(), Interval::M1);
        let published: Vec<(i64, String)> = published.iter().map(kline_text).collect();
        let until = Instant::now() + limit;
        let stored = loop {
            let stored = HistoryFile::open(app).klines(symbol.as_str());
            if stored.len() >= published.len() || Instant::now() > until {
                break stored;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let first = stored.first().map(|kline| kline.0);
        let begin = published.iter().position(|kline| Some(kline.0) == first).unwrap_or(usize::MAX);
        assert!(begin <= 1, "{symbol}: the first stored kline {first:?} is number {begin} of {}", published.len());
        assert_eq!(stored, published[begin..], "{symbol}: klines stored and published");
    }
}
