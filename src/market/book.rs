//! The best bid and the best ask of a symbol.

use rust_decimal::Decimal;

/// The top of a symbol's book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Book {
    /// The exchange's update id; it grows with every update.
    pub update_id: i64,
    /// Best bid price.
    pub bid: Decimal,
    /// Quantity at the best bid.
    pub bid_quantity: Decimal,
    /// Best ask price.
    pub ask: Decimal,
    /// Quantity at the best ask.
    pub ask_quantity: Decimal,
}
