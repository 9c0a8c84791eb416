//! `POST /api/v1/admin/backfill`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::backfill::RangeBound;
use crate::exchange::{Request, catalog};
use crate::gap::Range;
use crate::market::{Channel, Exchange, Stream, Symbol, Timestamp};

use super::AppState;
use super::api::{ApiResult, ROWS_MAX};
use super::documents::BackfillView;
use super::response::{
    ApiError, CommonErrors, ErrorDocument, ParameterErrors, TokenErrors, UnavailableErrors, UnknownNameErrors,
};

/// The range to backfill: trade ids, or RFC 3339 times.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackfillRequest {
    /// `binance`.
    exchange: String,
    /// As the exchange spells it.
    symbol: String,
    /// `trade` or `agg_trade`; without it, the one that is recorded, `trade` if both are.
    #[serde(default)]
    channel: Option<String>,
    /// The first trade's id, or a time.
    #[schema(value_type = IdOrTime)]
    from: Value,
    /// The last trade's id, or the time that ends the range (exclusive).
    #[schema(value_type = IdOrTime)]
    to: Value,
}

/// A trade id, or RFC 3339.
#[derive(ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "describes what `parse_id_or_time` reads, whose errors say more than a derived one's")]
enum IdOrTime {
    Id(u64),
    Time(String),
}

/// Fetches the trades of a range that history lacks
///
/// Opens gaps. Backfill fills them as fast as the exchange's request weight allows. Trades that history holds are not
/// requested.
#[utoipa::path(post, path = "/api/v1/admin/backfill", tag = "repair", security((), ("token" = [])),
    request_body = BackfillRequest, responses(
    (status = 200, description = "The missing trades that will be fetched", body = BackfillView),
    (status = 409, description = "No trade of the stream is recorded yet (`nothing_recorded`)", body = ErrorDocument),
    (status = 413, description = "The body has too many bytes (`too_large`)", body = ErrorDocument),
    CommonErrors, ParameterErrors, TokenErrors, UnknownNameErrors, UnavailableErrors,
))]
pub async fn backfill(
    State(state): State<Arc<AppState>>,
    body: Result<Bytes, BytesRejection>,
) -> ApiResult<BackfillView> {
    let request: BackfillRequest = serde_json::from_slice(&body?)
        .map_err(|error| ApiError::bad_request(format!("the body is invalid: {error}")))?;
    let exchange = catalog::find(&request.exchange)
        .ok_or_else(|| ApiError::bad_request(format!("unknown exchange `{}`", request.exchange)))?;
    let stream = recorded_stream(&state, exchange, &request)?;
    let Range { first, last } = requested_range(&state, &stream, &request).await?;
    let opened = state.backfill.open_missing(&stream, Range { first, last }, "manual", ROWS_MAX).await;
    let opened = opened.map_err(|error| ApiError::unavailable(&error))?;
    Ok(Json(BackfillView {
        channel: stream.channel.as_str(),
        first,
        last,
        missing: opened.missing,
        gaps_opened: opened.gaps,
        gaps_asked_again: opened.asked_again,
        more: opened.rest.is_some(),
        estimate_s: estimate_s(&state, &stream, opened.missing),
    }))
}

/// The stream of trades that a request means.
fn recorded_stream(state: &AppState, exchange: Exchange, request: &BackfillRequest) -> Result<Stream, ApiError> {
    let channels = match &request.channel {
        None => Channel::TRADES.to_vec(),
        Some(text) => {
            let channel = text.parse().ok().filter(|channel: &Channel| channel.has_trades());
            let refusal = || ApiError::bad_request(format!("channel `{text}` is neither `trade` nor `agg_trade`"));
            vec![channel.ok_or_else(refusal)?]
        }
    };
    let stream = |channel: Channel| Stream::new(exchange, Symbol::new(&request.symbol), channel);
    let streams = state.streams.borrow();
    let recorded = channels.iter().map(|channel| stream(*channel)).find(|stream| streams.contains(stream));
    recorded.ok_or_else(|| {
        let text = format!("{} is not recorded", stream(channels[0]));
        ApiError::new(StatusCode::NOT_FOUND, "unknown_symbol", text)
    })
}

/// Seconds that the exchange's request weight needs for this many trades when nothing else is repaired; none without a
/// REST client for the exchange.
fn estimate_s(state: &AppState, stream: &Stream, positions: i64) -> Option<i64> {
    let (rest, dialect) = (state.backfill.rest.get(&stream.exchange)?, state.backfill.dialects.get(&stream.exchange)?);
    let status = rest.status();
    let range = Range { first: 0, last: 0 };
    let page = dialect.ask(&Request::Trades { series: stream.into(), range, after: None })?.weight;
    let rows = dialect.spec().rest.trades_page;
    let pages = positions.max(0).saturating_add(rows - 1) / rows;
    let per_minute = (i64::from(status.limit) * i64::from(status.share_percent) / 100).max(1);
    Some(pages.saturating_mul(i64::from(page)).saturating_mul(60) / per_minute)
}

/// The requested ids, up to the newest recorded one.
async fn requested_range(state: &AppState, stream: &Stream, request: &BackfillRequest) -> Result<Range, ApiError> {
    let Some(newest) = state.progress.stream(stream).next.map(|next| next - 1) else {
        let message = format!("no trade of {stream} is recorded yet: try again after its first trade");
        return Err(ApiError::new(StatusCode::CONFLICT, "nothing_recorded", message));
    };
    let (from, to) = (parse_id_or_time(&request.from)?, parse_id_or_time(&request.to)?);
    let stop = tokio_util::sync::CancellationToken::new();
    let range = state.backfill.positions(stream, (from, Some(to)), newest, &stop).await;
    let range = range.map_err(|error| ApiError::unavailable(&error))?;
    let BackfillRequest { from, to, .. } = request;
    range.ok_or_else(|| ApiError::bad_request(format!("there is no trade from {from} to {to}; the newest is {newest}")))
}

/// Reads a trade id or a time.
fn parse_id_or_time(value: &Value) -> Result<RangeBound, ApiError> {
    let id = value.as_i64().filter(|id| *id >= 0).map(RangeBound::Id);
    let bound = id.or_else(|| value.as_str().and_then(Timestamp::parse).map(RangeBound::At));
    bound.ok_or_else(|| ApiError::bad_request(format!("{value} is neither a trade id nor a time")))
}
