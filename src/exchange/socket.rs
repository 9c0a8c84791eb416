//! THE WebSocket loop.
