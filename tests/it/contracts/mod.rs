//! One contract suite per port. Every backend runs it, by itself and behind the fault injector with a caller that
//! retries. The name of each check contains the number of the promise in the port's documentation.
//!
//! A suite gets its backend as a store that it can open repeatedly. Before it opens the store again it drops the
//! previous handle without `close`, as after a SIGKILL.

mod cache;
mod history;
mod log;
mod retry;
pub mod venues;

use std::future::Future;
use std::pin::Pin;

use tapekeeper::market::{Exchange, Symbol, Timestamp};

/// A check of one promise against a fresh store.
type Check<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The exchange of all rows in these tests.
const BINANCE: Exchange = Exchange::named("binance");
/// The base time of all rows: 2024-08-08T12:00:00Z.
const NOON: Timestamp = Timestamp(1_723_118_400_000_000);

fn symbol(name: &str) -> Symbol {
    Symbol::new(name)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs one check against a fresh store, and prints its name.
fn run<S: ?Sized>(promise: &str, new_store: &dyn Fn() -> Box<S>, check: for<'a> fn(&'a S) -> Check<'a>) {
    eprintln!("promise: {promise}");
    let store = new_store();
    runtime().block_on(check(&*store));
}
