//! The daemon of one host: runs instances and builds.

fn main() {}
