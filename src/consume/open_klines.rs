//! The newest open kline of each connection, for an exchange that does not say when a kline is final.

use std::collections::VecDeque;

use crate::market::{Kline, Timestamp};
use crate::writer::Source;

/// Connections of one stream that are remembered: the present one, and one that it replaces.
const CONNECTIONS_MAX: usize = 2;

/// The open klines of one stream.
///
/// A kline of a later interval closes the open one only if the same connection brought both: over a cut, the last frames
/// of the open kline may be lost. Its interval then is a gap, which REST fills.
#[derive(Debug, Default)]
pub struct OpenKlines {
    newest: VecDeque<(i64, Kline, Option<Timestamp>, Source)>,
}

impl OpenKlines {
    /// Takes the next kline of a connection. Returns the one before it, closed, if the new one is of a later interval.
    pub fn follow(
        &mut self,
        connection: i64,
        kline: &Kline,
        event_time: Option<Timestamp>,
        source: &Source,
    ) -> Option<(Kline, Option<Timestamp>, Source)> {
        let next = (connection, *kline, event_time, source.clone());
        let Some(index) = self.newest.iter().position(|(known, ..)| *known == connection) else {
            self.newest.push_back(next);
            while self.newest.len() > CONNECTIONS_MAX {
                self.newest.pop_front();
            }
            return None;
        };
        let known = &mut self.newest[index];
        if kline.open_time < known.1.open_time {
            return None;
        }
        let is_later = kline.open_time > known.1.open_time;
        let (_, mut before, event_time, source) = std::mem::replace(known, next);
        before.closed = true;
        is_later.then_some((before, event_time, source))
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;
    use crate::market::Interval;

    fn kline(minute: i64, close: i64) -> Kline {
        let open_time = Timestamp(minute * 60_000_000);
        let price = Decimal::from(close);
        Kline {
            interval: Interval::M1,
            open_time,
            close_time: open_time.plus_micros(59_999_999),
            open: price,
            high: price,
            low: price,
            close: price,
            volume: price,
            quote_volume: price,
            trade_count: 1,
            first_trade_id: -1,
            last_trade_id: -1,
            closed: false,
        }
    }

    fn follow(open: &mut OpenKlines, connection: i64, minute: i64, close: i64) -> Option<(i64, i64)> {
        let source = Source { partition: 0, offset: 0, received_at: Timestamp(0), payload: bytes::Bytes::new() };
        let closed = open.follow(connection, &kline(minute, close), None, &source)?.0;
        assert!(closed.closed);
        Some((closed.open_time.micros() / 60_000_000, i64::try_from(closed.close).unwrap()))
    }

    #[test]
    fn a_later_interval_closes_the_last_state_of_the_open_kline() {
        let mut open = OpenKlines::default();
        assert_eq!(follow(&mut open, 1, 10, 100), None);
        assert_eq!(follow(&mut open, 1, 10, 101), None);
        assert_eq!(follow(&mut open, 1, 11, 102), Some((10, 101)));
        assert_eq!(follow(&mut open, 1, 10, 99), None, "a late frame closes nothing");
        assert_eq!(follow(&mut open, 1, 15, 103), Some((11, 102)));
    }

    #[test]
    fn a_kline_of_another_connection_closes_nothing() {
        let mut open = OpenKlines::default();
        follow(&mut open, 1, 10, 100);
        assert_eq!(follow(&mut open, 2, 11, 101), None, "frames of minute 10 may be lost");
        assert_eq!(follow(&mut open, 1, 11, 101), Some((10, 100)), "the old connection still delivers");
        assert_eq!(follow(&mut open, 2, 12, 102), Some((11, 101)));
        follow(&mut open, 3, 12, 102);
        assert_eq!(follow(&mut open, 1, 13, 103), None, "connection 1 is forgotten");
    }
}
