//! The user's settings of the cache.

/// The backend of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// The memory of this process.
    #[default]
    Embedded,
    /// Redis.
    Redis,
}

/// `[cache]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The backend.
    pub backend: Backend,
    /// `[cache.redis]`.
    pub redis: RedisOptions,
}

/// `[cache.redis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisOptions {
    /// The URL of one server, `redis://host:port/database`.
    pub url: String,
    /// URLs of nodes of a cluster, in place of `url`. One live node is enough: the client discovers the others.
    pub nodes: Vec<String>,
    /// The password; overrides the one in the URL.
    pub password: Option<String>,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self { url: "redis://127.0.0.1:6379".to_owned(), nodes: Vec::new(), password: None }
    }
}
