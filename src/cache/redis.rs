//! The cache in Redis 7.0 or newer: hashes that other programs read, moved forward by a function that Redis runs.
//!
//! One FCALL names one key, so every call stays in one hash slot; calls travel in pipelines. The function is
//! loaded when a server answers that it does not have it: at first use, and after a restart that lost it.

mod hashes;

use std::time::Duration;

use async_trait::async_trait;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{FromRedisValue, IntoConnectionInfo, Pipeline, RedisError, RedisResult};
use tracing::warn;

use super::{Cache, CacheError, RedisOptions, Update};
use crate::market::{Book, Exchange, Interval, Kline, Symbol, Tick};
use hashes::{Hash, Held};

/// Decides in Redis what is newer.
const LIBRARY: &str = include_str!("redis/forward.lua");
/// The function of [`LIBRARY`].
const FORWARD: &str = "tapekeeper_forward_1";
/// How long a connection may take to come up.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// How long an answer may take: below the carrier's own limit, so that it hears why.
const RESPONSE_MAX: Duration = Duration::from_secs(4);
/// Commands of one pipeline: a few milliseconds of Redis, and no answer that grows with the number of symbols.
const PIPELINE_MAX: usize = 1_000;

/// The latest value of everything, in Redis.
#[derive(Clone, Debug)]
pub struct RedisCache {
    connection: ConnectionManager,
}

impl RedisCache {
    /// Who answers, and what it lacks, without changing anything: a line, and further ones of what is missing.
    pub async fn look_at(options: &RedisOptions) -> Result<(String, Vec<String>), CacheError> {
        let cache = Self::connect(options)?;
        let version = cache.ping().await?;
        let mut commands = redis::pipe();
        commands.cmd("FUNCTION").arg("LIST").arg("LIBRARYNAME").arg("tapekeeper");
        let lacking = match cache.send::<Vec<redis::Value>>(&commands).await {
            Ok(found) => {
                !found.iter().any(|libraries| matches!(libraries, redis::Value::Array(them) if !them.is_empty()))
            }
            Err(error) if error.to_string().contains("unknown command") => {
                return Err(CacheError(format!("{version} knows no functions: Redis 7.0 or newer is needed")));
            }
            Err(error) => return Err(refused("ask for the function", &error)),
        };
        let missing = if lacking { vec!["our function: loaded at the first write".to_owned()] } else { Vec::new() };
        Ok((version, missing))
    }

    /// A cache at `options.url`. Connects at first use and again whenever the connection is lost, so a server
    /// that is down fails calls (within seconds), not this. Needs a tokio runtime; fails on a bad URL.
    pub fn connect(options: &RedisOptions) -> Result<Self, CacheError> {
        let mut info = options.url.as_str().into_connection_info().map_err(|error| refused("read the URL", &error))?;
        if let Some(password) = &options.password {
            let settings = info.redis_settings().clone().set_password(password);
            info = info.set_redis_settings(settings);
        }
        let config = ConnectionManagerConfig::new()
            // The callers retry, and each try shall end soon.
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT_MAX))
            .set_response_timeout(Some(RESPONSE_MAX));
        let connection = redis::Client::open(info)
            .and_then(|client| ConnectionManager::new_lazy_with_config(client, config))
            .map_err(|error| refused("set up the connection", &error))?;
        Ok(Self { connection })
    }

    /// Sends a pipeline; once more if the connection had been lost before, which only a call can find out.
    async fn send<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let first = commands.query_async(&mut self.connection.clone()).await;
        match first {
            Err(error) if error.is_io_error() && !error.is_timeout() => {
                commands.query_async(&mut self.connection.clone()).await
            }
            answer => answer,
        }
    }

    /// Sends forward calls and loads the function first if the server lacks it.
    async fn forward(&self, hashes: &[Hash]) -> Result<u64, CacheError> {
        let mut commands = redis::pipe();
        commands.ignore_errors();
        for hash in hashes {
            let call = commands.cmd("FCALL").arg(FORWARD).arg(1).arg(&hash.key).arg(hash.order);
            for (name, value) in &hash.fields {
                call.arg(*name).arg(value);
            }
        }
        let what = "move keys forward";
        let mut answers: Vec<RedisResult<u64>> = self.send(&commands).await.map_err(|error| refused(what, &error))?;
        if answers.iter().any(|answer| answer.as_ref().is_err_and(lacks_function)) {
            self.load().await?;
            answers = self.send(&commands).await.map_err(|error| refused(what, &error))?;
        }
        let mut moved = 0;
        for (answer, hash) in answers.into_iter().zip(hashes) {
            moved += answer.map_err(|error| refused(&format!("move {} forward", hash.key), &error))?;
        }
        Ok(moved)
    }

    async fn load(&self) -> Result<(), CacheError> {
        let mut commands = redis::pipe();
        commands.cmd("FUNCTION").arg("LOAD").arg(LIBRARY).ignore();
        match self.send::<()>(&commands).await {
            Ok(()) => Ok(()),
            // Another writer was faster.
            Err(error) if error.to_string().contains("already exists") => Ok(()),
            Err(error) if error.to_string().contains("unknown command") => {
                Err(CacheError(format!("load the function: {error}; Redis 7.0 or newer is needed")))
            }
            Err(error) => Err(refused("load the function", &error)),
        }
    }

    /// Reads a hash per key, in order.
    async fn read<T>(&self, keys: &[String], read: fn(&Held) -> Option<T>) -> Result<Vec<Option<T>>, CacheError> {
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(PIPELINE_MAX) {
            let mut commands = redis::pipe();
            for key in keys {
                commands.cmd("HGETALL").arg(key);
            }
            let held: Vec<Held> = self.send(&commands).await.map_err(|error| refused("read keys", &error))?;
            for (held, key) in held.iter().zip(keys) {
                let value = read(held);
                if value.is_none() && !held.is_empty() {
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
        let all: Vec<Hash> = ticks.chain(klines).chain(books).collect();
        let mut moved = 0;
        for hashes in all.chunks(PIPELINE_MAX) {
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
        let mut commands = redis::pipe();
        commands.cmd("SET").arg(hashes::state_key(instance)).arg(document).ignore();
        self.send(&commands).await.map_err(|error| refused("write the state's backup", &error))
    }

    async fn get_state(&self, instance: &str) -> Result<Option<String>, CacheError> {
        let mut commands = redis::pipe();
        commands.cmd("GET").arg(hashes::state_key(instance));
        let answer: RedisResult<(Option<String>,)> = self.send(&commands).await;
        answer.map(|(document,)| document).map_err(|error| refused("read the state's backup", &error))
    }

    async fn ping(&self) -> Result<String, CacheError> {
        let mut commands = redis::pipe();
        commands.cmd("INFO").arg("server");
        let (info,): (String,) = self.send(&commands).await.map_err(|error| refused("ask for the version", &error))?;
        let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("of unknown version");
        Ok(format!("redis {}", version.trim()))
    }
}

fn lacks_function(error: &RedisError) -> bool {
    error.to_string().contains("Function not found")
}

fn refused(what: &str, error: &RedisError) -> CacheError {
    CacheError(format!("{what} in Redis: {error}"))
}
