//! The cache in memory. It is empty at every start, and the recorder fills it from history.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::pending::tick_is_newer;
use super::{Cache, CacheError, Update, kline_is_newer};
use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick};

/// The latest value of every stream, in this process. One lock is enough: an update takes microseconds.
#[derive(Debug, Default)]
pub struct EmbeddedCache(Mutex<Values>);

#[derive(Debug, Default)]
struct Values {
    ticks: HashMap<(Exchange, Symbol), Tick>,
    klines: HashMap<(Exchange, Symbol, Interval), Kline>,
    books: HashMap<(Exchange, Symbol), Book>,
    states: HashMap<String, String>,
}

impl EmbeddedCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Values> {
        // Each value is written whole, so a panic of another holder leaves no partial value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Cache for EmbeddedCache {
    async fn apply(&self, update: &Update) -> Result<u64, CacheError> {
        let mut values = self.lock();
        let mut moved = 0;
        for (exchange, symbol, tick) in &update.ticks {
            moved += put(&mut values.ticks, (*exchange, symbol.clone()), *tick, |stored| tick_is_newer(tick, stored));
        }
        for (exchange, symbol, kline) in &update.klines {
            moved += put(&mut values.klines, (*exchange, symbol.clone(), kline.interval), *kline, |stored| {
                kline_is_newer(kline, stored)
            });
        }
        for (exchange, symbol, book) in &update.books {
            moved +=
                put(&mut values.books, (*exchange, symbol.clone()), *book, |stored| book.update_id > stored.update_id);
        }
        Ok(moved)
    }

    async fn ticks(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Tick>>, CacheError> {
        let values = self.lock();
        Ok(symbols.iter().map(|symbol| values.ticks.get(&(exchange, symbol.clone())).copied()).collect())
    }

    async fn klines(&self, exchange: Exchange, keys: &[(Symbol, Interval)]) -> Result<Vec<Option<Kline>>, CacheError> {
        let values = self.lock();
        let get = |(symbol, interval): &(Symbol, Interval)| {
            values.klines.get(&(exchange, symbol.clone(), *interval)).copied()
        };
        Ok(keys.iter().map(get).collect())
    }

    async fn books(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Book>>, CacheError> {
        let values = self.lock();
        Ok(symbols.iter().map(|symbol| values.books.get(&(exchange, symbol.clone())).copied()).collect())
    }

    async fn put_state(&self, instance: &str, document: &str) -> Result<(), CacheError> {
        self.lock().states.insert(instance.to_owned(), document.to_owned());
        Ok(())
    }

    async fn get_state(&self, instance: &str) -> Result<Option<String>, CacheError> {
        Ok(self.lock().states.get(instance).cloned())
    }

    async fn ping(&self) -> Result<String, CacheError> {
        Ok(concat!("embedded ", env!("CARGO_PKG_VERSION")).to_owned())
    }
}

fn put<K: Eq + Hash, V>(map: &mut HashMap<K, V>, key: K, value: V, is_newer: impl FnOnce(&V) -> bool) -> u64 {
    match map.entry(key) {
        Entry::Vacant(vacant) => {
            vacant.insert(value);
            1
        }
        Entry::Occupied(mut occupied) if is_newer(occupied.get()) => {
            occupied.insert(value);
            1
        }
        Entry::Occupied(_) => 0,
    }
}
