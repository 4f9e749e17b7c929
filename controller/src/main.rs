//! API, plans, reconcilers; and the router as a process of its own.

fn main() {}
