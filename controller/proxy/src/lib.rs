//! The visitors' HTTP router.
