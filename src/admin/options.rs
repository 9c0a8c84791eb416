//! The options of the admin listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminOptions {
    /// The TCP address to serve.
    pub listen: SocketAddr,
    /// The token that changes need unless they come from loopback.
    pub token: Option<String>,
    /// The path of the unix socket for the command line.
    pub socket: Option<PathBuf>,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)), token: None, socket: None }
    }
}
