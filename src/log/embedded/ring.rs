//! The most recent frames in memory, so that a consumer at the end of the log never reads the file.

use std::collections::VecDeque;

use crate::log::Record;

/// Bytes of memory of a record without its payload and key.
const RECORD_OVERHEAD: usize = 120;

/// Consecutive records up to the end of the log, bounded by bytes.
#[derive(Debug)]
pub(super) struct Ring {
    records: VecDeque<Record>,
    bytes: usize,
    bytes_max: usize,
}

impl Ring {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { records: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Adds a record that has just become durable.
    pub(super) fn push(&mut self, record: Record) {
        // `read` computes an index from the offset, so the records must be consecutive.
        if self.records.back().is_some_and(|last| last.offset + 1 != record.offset) {
            self.records.clear();
            self.bytes = 0;
        }
        self.bytes += cost(&record);
        self.records.push_back(record);
        while self.bytes > self.bytes_max {
            let Some(old) = self.records.pop_front() else { return };
            self.bytes -= cost(&old);
        }
    }

    /// Drops the records that retention removed from the file, so that a replay reads the same from both.
    pub(super) fn remove_below(&mut self, offset: i64) {
        while self.records.front().is_some_and(|first| first.offset < offset) {
            let Some(old) = self.records.pop_front() else { return };
            self.bytes -= cost(&old);
        }
    }

    /// Reads at most `records` records, starting at `offset`. Ends with the record that exceeds `bytes` of payload.
    /// `None` if `offset` is not in memory.
    pub(super) fn read(&self, offset: i64, records: usize, bytes: usize) -> Option<Vec<Record>> {
        let first = self.records.front()?.offset;
        let skip = usize::try_from(offset.checked_sub(first)?).ok()?;
        if skip >= self.records.len() {
            return None;
        }
        let mut found = Vec::with_capacity(records.min(self.records.len() - skip));
        let mut taken = 0;
        for record in self.records.range(skip..).take(records) {
            taken += record.frame.payload.len();
            found.push(record.clone());
            if taken > bytes {
                break;
            }
        }
        Some(found)
    }
}

fn cost(record: &Record) -> usize {
    record.frame.payload.len() + RECORD_OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::market::{Frame, Origin, Timestamp};

    fn record(offset: i64, len: usize) -> Record {
        let frame = Frame {
            key: "binance:BTCUSDT".into(),
            received_at: Timestamp(offset),
            connection: 1,
            origin: Origin::Socket,
            payload: vec![b'x'; len].into(),
        };
        Record { partition: 0, offset, frame }
    }

    fn offsets(ring: &Ring, offset: i64, records: usize, bytes: usize) -> Option<Vec<i64>> {
        Some(ring.read(offset, records, bytes)?.iter().map(|record| record.offset).collect())
    }

    #[test]
    fn an_offset_that_is_not_in_memory_returns_none() {
        let mut ring = Ring::new(3 * (RECORD_OVERHEAD + 10));
        for offset in 5..10 {
            ring.push(record(offset, 10));
        }
        assert_eq!(offsets(&ring, 6, 9, 999), None);
        assert_eq!(offsets(&ring, 7, 9, 999), Some(vec![7, 8, 9]));
        assert_eq!(offsets(&ring, 8, 1, 999), Some(vec![8]));
        assert_eq!(offsets(&ring, 7, 9, 15), Some(vec![7, 8]));
        assert_eq!(offsets(&ring, 10, 9, 999), None);
        ring.remove_below(9);
        assert_eq!(offsets(&ring, 8, 9, 999), None);
        assert_eq!(offsets(&ring, 9, 9, 999), Some(vec![9]));
    }

    #[test]
    fn a_jump_in_offsets_clears_the_ring() {
        let mut ring = Ring::new(10_000);
        ring.push(record(1, 1));
        ring.push(record(3, 1));
        assert_eq!(offsets(&ring, 1, 9, 999), None);
        assert_eq!(offsets(&ring, 3, 9, 999), Some(vec![3]));
    }

    #[test]
    fn a_record_larger_than_the_limit_is_not_kept() {
        let mut ring = Ring::new(500);
        ring.push(record(1, 1_000));
        assert_eq!(offsets(&ring, 1, 9, 999), None);
        ring.push(record(2, 1));
        assert_eq!(offsets(&ring, 2, 9, 999), Some(vec![2]));
    }
}
