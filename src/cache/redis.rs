//! The cache in Redis 7.0 or newer, a server or a cluster: hashes that other programs read, moved forward by a function
//! that Redis runs.
//!
//! One FCALL names one key, so every call stays in one hash slot. The function is loaded, on every primary, when a server
//! answers that it does not have it: at first use, and after a restart that lost it.

mod connection;
mod hashes;
mod inspect;

use async_trait::async_trait;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult};
use tracing::warn;

use super::{Cache, CacheError, RedisOptions, Update};
use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick};
use connection::Connection;
use hashes::{HashFields, HashWrite};

/// Decides in Redis what is newer.
const LIBRARY: &str = include_str!("redis/forward.lua");
/// The function of [`LIBRARY`].
const FORWARD: &str = "tapekeeper_forward_1";
/// Commands that travel together: a few milliseconds of Redis, and no answer that grows with the number of symbols.
const COMMANDS_MAX: usize = 1_000;

/// The latest value of everything, in Redis.
#[derive(Clone, Debug)]
pub struct RedisCache {
    connection: Connection,
}

impl RedisCache {
    /// Who answers, and what it lacks, without changing anything: a line, and further ones of what is missing.
    pub async fn inspect(options: &RedisOptions) -> Result<(String, Vec<String>), CacheError> {
        inspect::inspect(&Self::connect(options)?.connection).await
    }

    /// A cache at `options.url`, or in the cluster of `options.nodes`. Connects at first use and again whenever the
    /// connection is lost, so a server that is down fails calls (within seconds), not this. Needs a tokio runtime; fails
    /// on a bad URL.
    pub fn connect(options: &RedisOptions) -> Result<Self, CacheError> {
        let connection = Connection::new(options).map_err(|error| redis_error("set up the connection", &error))?;
        Ok(Self { connection })
    }

    /// One command and its answer.
    async fn one<T: FromRedisValue>(&self, what: &str, command: Cmd) -> Result<T, CacheError> {
        let answer = self.connection.send(&[command]).await.map(|mut answers| answers.pop());
        let nothing = || CacheError(format!("{what} in Redis: no answer"));
        match answer {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(error))) | Err(error) => Err(redis_error(what, &error)),
            Ok(None) => Err(nothing()),
        }
    }

    /// Sends forward calls and loads the function first if a server lacks it.
    async fn forward(&self, hashes: &[HashWrite]) -> Result<u64, CacheError> {
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
        let mut moved = 0;
        for (answer, hash) in answers.into_iter().zip(hashes) {
            moved += answer.map_err(|error| redis_error(&format!("move {} forward", hash.key), &error))?;
        }
        Ok(moved)
    }

    async fn load(&self) -> Result<(), CacheError> {
        let mut command = redis::cmd("FUNCTION");
        // What is replaced is the same, see the library: so a primary that has it already is no error.
        command.arg("LOAD").arg("REPLACE").arg(LIBRARY);
        match self.connection.send_to_all(&command).await {
            Ok(_names) => Ok(()),
            Err(error) if error.to_string().contains("unknown command") => {
                Err(CacheError(format!("load the function: {error}; Redis 7.0 or newer is needed")))
            }
            Err(error) => Err(redis_error("load the function", &error)),
        }
    }

    /// Reads a hash per key, in order.
    async fn read<T>(&self, keys: &[String], read: fn(&HashFields) -> Option<T>) -> Result<Vec<Option<T>>, CacheError> {
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(COMMANDS_MAX) {
            let commands: Vec<Cmd> = keys.iter().map(|key| with_arg("HGETALL", key)).collect();
            let answers = self.connection.send(&commands).await.map_err(|error| redis_error("read keys", &error))?;
            for (stored, key) in answers.into_iter().zip(keys) {
                let stored: HashFields = stored.map_err(|error| redis_error("read keys", &error))?;
                let value = read(&stored);
                if value.is_none() && !stored.is_empty() {
                    warn!(key, "{key} in Redis is not as we write it, taken for missing");
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
        let mut moved = 0;
        for hashes in all.chunks(COMMANDS_MAX) {
            moved += self.forward(hashes).await?;
        }
        Ok(moved)
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

fn lacks_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

fn redis_error(what: &str, error: &RedisError) -> CacheError {
    CacheError(format!("{what} in Redis: {error}"))
}
