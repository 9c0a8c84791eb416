//! The vocabulary of a market: exchange, symbol, channel, stream, trade, kline, tick, book, frame.
//!
//! Pure: no I/O, no clock, no runtime. Every other module uses these types.

mod book;
mod channel;
mod decimal;
mod frame;
mod kline;
mod scaled;
mod spelling;
mod stream;
mod timestamp;
mod trade;

pub use book::Book;
pub use channel::{Channel, Interval};
pub use decimal::{parse_decimal, plain};
pub use frame::{Frame, Origin};
pub use kline::Kline;
pub use scaled::{scaled, scaled_to, unscaled, unscaled_from};
pub use spelling::{SpellingError, small_letters};
pub use stream::{Exchange, Stream, Symbol, by_exchange};
pub use timestamp::{DAY_US, Timestamp};
pub use trade::{Side, Tick, Trade};
