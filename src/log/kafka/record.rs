//! A frame as a Kafka record: the key is the frame's key, the value its bytes as received; the other fields are
//! headers.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};

use crate::log::{Partition, Record};
use crate::market::{Frame, Origin, Timestamp};

/// Header: the receive time in microseconds since 1970 UTC, as text.
const RECEIVED_AT: &str = "received_at";
/// Header: the number of the connection, as text.
const CONNECTION: &str = "connection";
/// Header: [`Origin::code`], as text.
const ORIGIN: &str = "origin";

/// The largest number of remembered keys; an exchange lists fewer symbols.
const KEYS_MAX: usize = 10_000;

/// The headers of a frame.
pub(super) fn headers(frame: &Frame) -> OwnedHeaders {
    let received_at = frame.received_at.micros().to_string();
    let connection = frame.connection.to_string();
    let origin = frame.origin.code().to_string();
    OwnedHeaders::new_with_capacity(3)
        .insert(Header { key: RECEIVED_AT, value: Some(&received_at) })
        .insert(Header { key: CONNECTION, value: Some(&connection) })
        .insert(Header { key: ORIGIN, value: Some(&origin) })
}

/// Builds the records of one delivery. All payloads share one allocation: an allocation per record would cost more than
/// the copy.
#[derive(Default)]
pub(super) struct RecordBatchBuilder {
    keys: HashMap<Box<[u8]>, Arc<str>>,
    payloads: Vec<u8>,
    records: Vec<(Record, Range<usize>)>,
}

impl RecordBatchBuilder {
    /// Adds a received record.
    pub(super) fn add(&mut self, message: &BorrowedMessage<'_>) {
        let payload = message.payload().unwrap_or_default();
        let span = self.payloads.len()..self.payloads.len() + payload.len();
        self.payloads.extend_from_slice(payload);
        let key = self.key(message.key().unwrap_or_default());
        // A record of another producer may lack the header: its receive time is then the record's timestamp.
        let mut received_at = None;
        let mut frame = Frame {
            key,
            received_at: Timestamp::default(),
            connection: 0,
            origin: Origin::Socket,
            payload: Bytes::new(),
        };
        for header in message.headers().into_iter().flat_map(Headers::iter) {
            let Some(number) = header.value.and_then(number) else { continue };
            match header.key {
                RECEIVED_AT => received_at = Some(Timestamp(number)),
                CONNECTION => frame.connection = number,
                ORIGIN => frame.origin = Origin::from_code(number).unwrap_or(Origin::Socket),
                _ => {}
            }
        }
        let written_at = || Timestamp(message.timestamp().to_millis().unwrap_or_default().saturating_mul(1_000));
        frame.received_at = received_at.unwrap_or_else(written_at);
        let record = Record { partition: message.partition(), offset: message.offset(), frame };
        self.records.push((record, span));
    }

    /// The number of records.
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// The size of all payloads, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.payloads.len()
    }

    /// Takes all records, except those of the partitions that `without` names.
    pub(super) fn take(&mut self, without: &dyn Fn(Partition) -> bool) -> Vec<Record> {
        let payloads = Bytes::from(std::mem::take(&mut self.payloads));
        let kept = self.records.drain(..).filter(|(record, _)| !without(record.partition));
        kept.map(|(mut record, span)| {
            record.frame.payload = payloads.slice(span);
            record
        })
        .collect()
    }

    fn key(&mut self, bytes: &[u8]) -> Arc<str> {
        if let Some(key) = self.keys.get(bytes) {
            return key.clone();
        }
        if self.keys.len() >= KEYS_MAX {
            self.keys.clear();
        }
        let key: Arc<str> = String::from_utf8_lossy(bytes).into();
        self.keys.insert(bytes.into(), key.clone());
        key
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
