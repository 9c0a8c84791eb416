//! Joins trades into the frames of a venue that sends several in one. Pure.

use axum::extract::ws::Utf8Bytes;

use super::faulty_link::OutgoingFrame;
use crate::exchange::peer::{Peer, PeerEvent};
use crate::market::Trade;

/// Joins neighbours of one stream with rising ids into frames of at most `max` trades. A frame that a fault changed stays
/// alone, and so does a trade that faults sent again or out of order.
pub fn batched(peer: &dyn Peer, frames: Vec<OutgoingFrame>, max: usize) -> Vec<OutgoingFrame> {
    if max <= 1 {
        return frames;
    }
    let mut out: Vec<OutgoingFrame> = Vec::with_capacity(frames.len());
    let mut batch: Vec<Trade> = Vec::new();
    for frame in frames {
        let joins = match (frame.trade, out.last()) {
            (Some((trade, _)), Some(last)) if !frame.is_changed && !last.is_changed => {
                last.stream == frame.stream && batch.len() < max && batch.last().is_some_and(|last| last.id < trade.id)
            }
            _ => false,
        };
        if !joins {
            render(peer, &batch, &mut out);
            batch.clear();
            out.push(frame.clone());
        }
        batch.extend(frame.trade.map(|(trade, _)| trade));
        if let (true, Some(last)) = (joins, out.last_mut()) {
            last.trade = frame.trade;
        }
    }
    render(peer, &batch, &mut out);
    out
}

/// Gives the last frame the text of all trades of the batch.
fn render(peer: &dyn Peer, batch: &[Trade], out: &mut [OutgoingFrame]) {
    let Some(last) = out.last_mut().filter(|_| batch.len() > 1) else { return };
    let Some((_, at)) = last.trade else { return };
    if let Some(text) = peer.frame(last.symbol.as_str(), PeerEvent::Trades(batch), at) {
        last.text = Utf8Bytes::from(text);
    }
}
