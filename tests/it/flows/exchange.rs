//! The REST side of an exchange that has every trade, and refuses every third request.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde_json::{Value, json};
use tapekeeper::backfill;
use tapekeeper::clock::Clock;
use tapekeeper::exchange::Dialect;
use tapekeeper::exchange::binance::Binance;
use tapekeeper::exchange::rest::{Rest, RestOptions};
use tapekeeper::ledger::SharedLedger;
use tapekeeper::market::Exchange as ExchangeName;
use tapekeeper::writer::Writer;

#[derive(Default)]
struct ServerState {
    newest: AtomicI64,
    requests: AtomicU64,
    refused: AtomicU64,
}

/// A server on loopback; ends with the test's runtime.
pub(super) struct Exchange {
    base: String,
    state: Arc<ServerState>,
}

impl Exchange {
    /// Serves the trades 1 to `newest`.
    pub(super) async fn start(newest: i64) -> Self {
        let state = Arc::new(ServerState { newest: AtomicI64::new(newest), ..ServerState::default() });
        let routes = axum::Router::new().route("/api/v3/historicalTrades", get(trades)).with_state(state.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { base, state }
    }

    /// The dependencies of a backfill that asks this exchange.
    pub(super) fn backfill_deps(&self, writer: Writer, ledger: SharedLedger, clock: &Clock) -> backfill::Deps {
        let dialect: Arc<dyn Dialect> = Arc::new(Binance);
        let options = RestOptions { base: Some(self.base.clone()), ..RestOptions::default() };
        let rest = Arc::new(Rest::new(dialect.clone(), options, clock.clone(), None).unwrap());
        backfill::Deps {
            rest: HashMap::from([(ExchangeName::named("binance"), rest)]),
            dialects: HashMap::from([(ExchangeName::named("binance"), dialect)]),
            writer,
            ledger,
            clock: clock.clone(),
            rows: Arc::default(),
            confirm_after: std::time::Duration::ZERO,
            answers: Arc::default(),
        }
    }

    /// The number of refused requests.
    pub(super) fn refused(&self) -> u64 {
        self.state.refused.load(Ordering::Relaxed)
    }
}

async fn trades(
    State(state): State<Arc<ServerState>>,
    Query(parameters): Query<HashMap<String, String>>,
) -> Result<String, StatusCode> {
    if state.requests.fetch_add(1, Ordering::Relaxed) % 3 == 1 {
        state.refused.fetch_add(1, Ordering::Relaxed);
        return Err(StatusCode::SERVICE_UNAVAILABLE);
    }
    let number = |name: &str| parameters.get(name).and_then(|text| text.parse::<i64>().ok());
    let (newest, limit) = (state.newest.load(Ordering::Relaxed), number("limit").unwrap_or(500));
    let from = number("fromId").unwrap_or(newest + 1 - limit).max(1);
    let row = |id: i64| {
        json!({"id": id, "price": "1.50000000", "qty": "2.00000000", "quoteQty": "3.00000000", "time": id,
               "isBuyerMaker": true, "isBestMatch": true})
    };
    Ok(Value::from((from..=newest).take(limit as usize).map(row).collect::<Vec<_>>()).to_string())
}
