//! Random crash points.
