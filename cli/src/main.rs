//! drowse, the command line.

fn main() {}
