//! The launcher itself: takes requests, forks a builder for each.
