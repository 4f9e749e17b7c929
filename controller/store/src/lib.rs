//! The state: one trait, engines SQLite and memory.
