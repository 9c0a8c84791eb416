//! The cache in memory.
