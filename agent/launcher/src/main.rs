//! Clones, builds sandboxes and starts processes; single-threaded.

fn main() {}
