//! The system call filter: a table of what is allowed, compiled to a tree of ranges.
