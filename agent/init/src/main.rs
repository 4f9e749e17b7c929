//! pid 1 of every sandbox: reaps, keeps the log, records exits.

fn main() {}
