//! What a user may set about the cache.

/// Which cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// This process's memory.
    #[default]
    Embedded,
    /// Redis.
    Redis,
}

/// `[cache]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Which cache.
    pub backend: Backend,
    /// `[cache.redis]`.
    pub redis: RedisOptions,
}

/// `[cache.redis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOptions {
    /// `redis://host:port/database`.
    pub url: String,
    /// Nodes of a cluster, in place of `url`: any of them, the others are asked for.
    pub nodes: Vec<String>,
    /// Replaces the one in the URL.
    pub password: Option<String>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { url: "redis://127.0.0.1:6379".to_owned(), nodes: Vec::new(), password: None }
    }
}
