//! Best bid and ask.

use rust_decimal::Decimal;

/// The top of a symbol's book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Book {
    /// The exchange's update id: a later book has a higher one.
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
