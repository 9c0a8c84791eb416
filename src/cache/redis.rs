//! The cache in Redis 7.0 or newer, a server or a cluster. Values are hashes that other programs read; a Redis function
//! replaces them only with newer ones.
//!
//! Each FCALL names one key, so it stays in one hash slot. When a server reports that it lacks the function, the
//! recorder loads it on every primary: at first use, and after a restart that lost it.
//!
//! A key of ours that holds another type belongs to another program. The recorder skips it: deleting it would destroy
//! what only that program can restore, while everything here can be rebuilt from history.

mod connection;
mod hashes;
mod inspect;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult};
use tracing::warn;

use super::{Cache, CacheError, RedisOptions, Update};
use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick};
use connection::Connection;
use hashes::{HashFields, HashWrite};

/// The library that decides in Redis which value is newer.
const LIBRARY: &str = include_str!("redis/forward.lua");
/// The function of [`LIBRARY`].
const FORWARD: &str = "tapekeeper_forward_1";
/// The largest number of commands of one request: it takes Redis a few milliseconds, and bounds the size of a response.
const COMMANDS_MAX: usize = 1_000;

/// The latest value of every stream, in Redis.
#[derive(Clone, Debug)]
pub struct RedisCache {
    connection: Connection,
    /// Keys of ours that hold another type.
    refused: Arc<Mutex<BTreeSet<String>>>,
}

impl RedisCache {
    /// Inspects the server or cluster without changing it. Returns a line that describes it, and a line for each
    /// missing item.
    pub async fn inspect(options: &RedisOptions) -> Result<(String, Vec<String>), CacheError> {
        inspect::inspect(&Self::connect(options)?.connection).await
    }

    /// A cache at `options.url`, or in the cluster of `options.nodes`. It connects at first use and again after a lost
    /// connection, so a server that is down fails the calls (within seconds) and not this function. Needs a tokio
    /// runtime. Fails on an invalid URL.
    pub fn connect(options: &RedisOptions) -> Result<Self, CacheError> {
        let connection = Connection::new(options).map_err(|error| redis_error("set up the connection", &error))?;
        Ok(Self { connection, refused: Arc::default() })
    }

    /// Sends one command and returns its response.
    async fn one<T: FromRedisValue>(&self, what: &str, command: Cmd) -> Result<T, CacheError> {
        let answer = self.connection.send(&[command]).await.map(|mut answers| answers.pop());
        let nothing = || CacheError(format!("{what} in Redis: no response"));
        match answer {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(error))) | Err(error) => Err(redis_error(what, &error)),
            Ok(None) => Err(nothing()),
        }
    }

    /// Remembers whether a key holds another type, and warns once.
    fn note(&self, key: &str, is_refused: bool) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_refused {
            refused.remove(key);
        } else if refused.insert(key.to_owned()) {
            drop(refused);
            warn!(key, "{key} in Redis holds another type, the recorder skips it: {}", what_to_do(key));
        }
    }

    /// Calls the function for each hash, and loads it first if a server lacks it; returns the number of replaced
    /// hashes, and the first error of a single hash. The other hashes are written.
    async fn forward(&self, hashes: &[HashWrite]) -> Result<(u64, Option<CacheError>), CacheError> {
        let call = |hash: &HashWrite| {
            let mut call = redis::cmd("FCALL");
            call.arg(FORWARD).arg(1).arg(&hash.key).arg(hash.order);
            for (name, value) in &hash.fields {
                call.arg(*name).arg(value);
            }
            call
        };
        let calls: Vec<Cmd> = hashes.iter().map(call).collect();
        let what = "move keys forward";
        let mut answers: Vec<RedisResult<u64>> =
            self.connection.send(&calls).await.map_err(|error| redis_error(what, &error))?;
        if answers.iter().any(|answer| answer.as_ref().is_err_and(lacks_function)) {
            self.load().await?;
            answers = self.connection.send(&calls).await.map_err(|error| redis_error(what, &error))?;
        }
        let (mut moved, mut failure) = (0, None);
        for (answer, hash) in answers.into_iter().zip(hashes) {
            let is_refused = answer.as_ref().is_err_and(is_wrong_type);
            self.note(&hash.key, is_refused);
            match answer {
                Ok(written) => moved += written,
                Err(_) if is_refused => {}
                Err(error) => {
                    failure.get_or_insert_with(|| redis_error(&format!("move {} forward", hash.key), &error));
                }
            }
        }
        Ok((moved, failure))
    }

    async fn load(&self) -> Result<(), CacheError> {
        let mut command = redis::cmd("FUNCTION");
        // The library of one name never changes (see its source), so replacing it on a primary that has it is harmless.
        command.arg("LOAD").arg("REPLACE").arg(LIBRARY);
        match self.connection.send_to_all(&command).await {
            Ok(_names) => Ok(()),
            Err(error) if error.to_string().contains("unknown command") => {
                Err(CacheError(format!("load the function: {error}; Redis 7.0 or newer is needed")))
            }
            Err(error) => Err(redis_error("load the function", &error)),
        }
    }

    /// Reads one hash per key, in the order of `keys`.
    async fn read<T>(&self, keys: &[String], read: fn(&HashFields) -> Option<T>) -> Result<Vec<Option<T>>, CacheError> {
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(COMMANDS_MAX) {
            let commands: Vec<Cmd> = keys.iter().map(|key| with_arg("HGETALL", key)).collect();
            let answers = self.connection.send(&commands).await.map_err(|error| redis_error("read keys", &error))?;
            for (stored, key) in answers.into_iter().zip(keys) {
                let is_refused = stored.as_ref().is_err_and(is_wrong_type);
                self.note(key, is_refused);
                if is_refused {
                    values.push(None);
                    continue;
                }
                let stored: HashFields = stored.map_err(|error| redis_error("read keys", &error))?;
                let value = read(&stored);
                if value.is_none() && !stored.is_empty() {
                    warn!(key, "{key} in Redis has another format, the recorder treats it as missing");
                }
                values.push(value);
            }
        }
        Ok(values)
    }
}

#[async_trait]
impl Cache for RedisCache {
    async fn apply(&self, update: &Update) -> Result<u64, CacheError> {
        let ticks = update.ticks.iter().map(|(exchange, symbol, tick)| hashes::tick(*exchange, symbol, tick));
        let klines = update.klines.iter().map(|(exchange, symbol, kline)| hashes::kline(*exchange, symbol, kline));
        let books = update.books.iter().map(|(exchange, symbol, book)| hashes::book(*exchange, symbol, book));
        let all: Vec<HashWrite> = ticks.chain(klines).chain(books).collect();
        let (mut moved, mut failure) = (0, None);
        for hashes in all.chunks(COMMANDS_MAX) {
            let (written, failed) = self.forward(hashes).await?;
            moved += written;
            failure = failure.or(failed);
        }
        failure.map_or(Ok(moved), Err)
    }

    fn refused_keys(&self) -> Vec<String> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    async fn ticks(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Tick>>, CacheError> {
        let keys: Vec<String> = symbols.iter().map(|symbol| hashes::tick_key(exchange, symbol)).collect();
        self.read(&keys, hashes::read_tick).await
    }

    async fn klines(&self, exchange: Exchange, keys: &[(Symbol, Interval)]) -> Result<Vec<Option<Kline>>, CacheError> {
        let key = |(symbol, interval): &(Symbol, Interval)| hashes::kline_key(exchange, symbol, *interval);
        self.read(&keys.iter().map(key).collect::<Vec<_>>(), hashes::read_kline).await
    }

    async fn books(&self, exchange: Exchange, symbols: &[Symbol]) -> Result<Vec<Option<Book>>, CacheError> {
        let keys: Vec<String> = symbols.iter().map(|symbol| hashes::book_key(exchange, symbol)).collect();
        self.read(&keys, hashes::read_book).await
    }

    async fn put_state(&self, instance: &str, document: &str) -> Result<(), CacheError> {
        let mut command = with_arg("SET", &hashes::state_key(instance));
        command.arg(document);
        self.one("write the state's backup", command).await
    }

    async fn get_state(&self, instance: &str) -> Result<Option<String>, CacheError> {
        self.one("read the state's backup", with_arg("GET", &hashes::state_key(instance))).await
    }

    async fn ping(&self) -> Result<String, CacheError> {
        inspect::version(&self.connection).await
    }
}

fn with_arg(name: &str, arg: &str) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(arg);
    command
}

fn what_to_do(key: &str) -> String {
    format!("another program uses the key; change that, or delete it with `redis-cli DEL '{key}'`")
}

fn is_wrong_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE") || error.to_string().contains("WRONGTYPE")
}

fn lacks_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

fn redis_error(what: &str, error: &RedisError) -> CacheError {
    CacheError(format!("{what} in Redis: {error}"))
}
