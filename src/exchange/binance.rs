//! Binance Spot.
