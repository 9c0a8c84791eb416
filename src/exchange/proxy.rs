//! HTTPS_PROXY for sockets.
