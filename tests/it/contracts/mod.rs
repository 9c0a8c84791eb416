//! One contract suite per port. Every backend runs it, and so do the fault-injecting wrappers with a
//! caller that retries. Each check names the promise of the port's documentation that it is about.
//!
//! A backend comes as a store that can be opened again and again: what was opened before is dropped
//! without `close`, as a SIGKILL would leave it.

mod cache;
mod history;
mod log;
mod retry;

use std::future::Future;
use std::pin::Pin;

use tapekeeper::market::{Exchange, Symbol, Timestamp};

/// A check of one promise against a fresh store.
type Check<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The exchange of all rows here.
const BINANCE: Exchange = Exchange::Binance;
/// An instant to count from: 2024-08-08.
const NOON: Timestamp = Timestamp(1_723_118_400_000_000);

fn symbol(name: &str) -> Symbol {
    Symbol::new(name)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs one check against a fresh store, and says which.
fn run<S: ?Sized>(promise: &str, new_store: &dyn Fn() -> Box<S>, check: for<'a> fn(&'a S) -> Check<'a>) {
    eprintln!("promise: {promise}");
    let store = new_store();
    runtime().block_on(check(&*store));
}
