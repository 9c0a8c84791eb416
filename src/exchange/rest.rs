//! THE REST client.
