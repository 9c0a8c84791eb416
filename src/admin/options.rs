//! What a user may set about the admin listener.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

/// `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminOptions {
    /// Where HTTP is served.
    pub listen: SocketAddr,
    /// Demanded of requests that change something, from anywhere but loopback.
    pub token: Option<String>,
    /// A unix socket for the command line.
    pub socket: Option<PathBuf>,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8081)), token: None, socket: None }
    }
}
