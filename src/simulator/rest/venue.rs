//! REST of a venue, as its [`Peer`] reads and answers it, with limits and faults.

use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;

use super::super::exchange_state::ExchangeState;
use super::super::lies::rest::View;
use super::super::lies::rest_rows::Endpoint;
use super::super::locked;
use super::super::truth::Truth;
use super::{Verdict, instead, judge, refusal, select};
use crate::exchange::peer::{Peer, PeerContent, PeerRefusal, PeerRequest, PeerResponse, PeerTrades};
use crate::market::{Channel, Kline, Trade};

/// Answers a request, and says how much of the first limit is used where the venue does so.
pub async fn respond(exchange: &ExchangeState, target: &str) -> Response {
    let mut response = answered(exchange, target).await;
    if let Some(name) = exchange.venue.spec().rest.used_header {
        response.headers_mut().insert(name, locked(&exchange.budgets).used().into());
    }
    response
}

async fn answered(exchange: &ExchangeState, target: &str) -> Response {
    let (peer, now) = (exchange.venue.peer(), Instant::now());
    // A request that the venue does not understand costs no less than another one.
    let read = peer.read(target);
    let (weight, bucket) = read.as_ref().map_or((1, 0), |(_, weight, bucket)| (*weight, *bucket));
    match judge(exchange, bucket, weight, now) {
        Verdict::Serve => {}
        Verdict::Status(status) => return response(peer.refuse(PeerRefusal::Failed(status))),
        Verdict::Refuse(status, retry_after) => return refusal(status, &retry_after, exchange.time.now()),
        Verdict::Limited(wait) => return response(peer.refuse(PeerRefusal::Limited(seconds_up(wait)))),
        Verdict::Banned(wait) => return response(peer.refuse(PeerRefusal::Banned(exchange.time.after(wait)))),
    }
    let request = match read {
        Ok((request, ..)) => request,
        Err(why) => {
            locked(&exchange.counters).broken.bad_requests += 1;
            return response(peer.refuse(why));
        }
    };
    let endpoint = match request {
        PeerRequest::Trades { channel: Channel::AggTrade, .. } => Endpoint::AggTrades,
        PeerRequest::Trades { .. } => Endpoint::HistoricalTrades,
        PeerRequest::Klines { .. } => Endpoint::Klines,
        PeerRequest::Time => Endpoint::Time,
        PeerRequest::Listing(_) => Endpoint::ExchangeInfo,
    };
    let answer = content(exchange, peer, &request, now).unwrap_or_else(|why| peer.refuse(why));
    let lie = locked(&exchange.rest).lies.answer(endpoint, now);
    match (lie, target.parse::<Uri>()) {
        (Some((lie, until)), Ok(uri)) => {
            locked(&exchange.counters).rest_lies += 1;
            instead(lie, until, &uri, &answer.body).await
        }
        _ => response(answer),
    }
}

/// The answer, read from the truth.
fn content(
    exchange: &ExchangeState,
    peer: &dyn Peer,
    request: &PeerRequest,
    now: Instant,
) -> Result<PeerResponse, PeerRefusal> {
    match request {
        PeerRequest::Trades { symbol, channel, which, limit } => {
            let select = if *channel == Channel::AggTrade { select::aggregates } else { select::trades };
            let trades: Vec<Trade> =
                with_truth(exchange, symbol, now, |truth, view, lag| select(truth, view, lag, now, *which, *limit))?;
            refuse_too_old(exchange, *which, trades.first())?;
            Ok(peer.answer(request, PeerContent::Trades(&trades)))
        }
        PeerRequest::Klines { symbol, interval, first, last, limit, newest } => {
            let candles = with_truth(exchange, symbol, now, |truth, view, lag| {
                select::klines(truth, view, lag, now, *interval, (*first, *last), *limit, *newest)
            })?;
            let klines: Vec<Kline> = candles.iter().map(|candle| candle.kline).collect();
            Ok(peer.answer(request, PeerContent::Klines(&klines)))
        }
        PeerRequest::Time => Ok(peer.answer(request, PeerContent::Time(exchange.time.now()))),
        PeerRequest::Listing(wanted) => {
            let is_unknown = |symbol: &str| locked(&exchange.rest).lies.view(symbol, now).is_unknown;
            if wanted.iter().any(|symbol| !exchange.lists(symbol) || is_unknown(symbol)) {
                return Err(PeerRefusal::UnknownSymbol);
            }
            let trades = !exchange.finished.is_cancelled();
            let names = exchange.listed().into_iter().map(|symbol| symbol.to_string());
            let listed = names.filter(|name| (wanted.is_empty() || wanted.contains(name)) && !is_unknown(name));
            let symbols: Vec<(String, bool)> = listed.map(|name| (name, trades)).collect();
            Ok(peer.answer(request, PeerContent::Listing(&symbols)))
        }
    }
}

/// Refuses a page that begins before what the venue keeps.
fn refuse_too_old(exchange: &ExchangeState, which: PeerTrades, first: Option<&Trade>) -> Result<(), PeerRefusal> {
    let begins = match which {
        PeerTrades::From(_) => first.map(|first| first.ts),
        PeerTrades::Since(at) | PeerTrades::After(at) => Some(at),
        PeerTrades::Newest | PeerTrades::Before(_) => None,
    };
    let kept = i64::try_from(exchange.limits.trades_kept.as_micros()).unwrap_or(i64::MAX);
    let now = exchange.time.market_now();
    match begins.is_some_and(|begins| now.since(begins) >= kept) {
        true => Err(PeerRefusal::TooOld),
        false => Ok(()),
    }
}

fn with_truth<T>(
    exchange: &ExchangeState,
    symbol: &str,
    now: Instant,
    read: impl FnOnce(&Truth, &View, Duration) -> T,
) -> Result<T, PeerRefusal> {
    let (lag, view) = {
        let faults = locked(&exchange.rest);
        (faults.lag, faults.lies.view(symbol, now))
    };
    match locked(&exchange.truths).get(symbol) {
        Some(truth) if !view.is_unknown && exchange.lists(symbol) => Ok(read(truth, &view, lag)),
        _ => Err(PeerRefusal::UnknownSymbol),
    }
}

/// Whole seconds, rounded up: a client that comes a second early would be refused again.
fn seconds_up(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1_000)).unwrap_or(u64::MAX).max(1)
}

fn response(answer: PeerResponse) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let mut response = (status, [("content-type", "application/json")], answer.body).into_response();
    for (name, value) in answer.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}
