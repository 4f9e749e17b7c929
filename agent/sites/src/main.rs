//! Serves the files of static apps, unprivileged and sandboxed.

fn main() {}
