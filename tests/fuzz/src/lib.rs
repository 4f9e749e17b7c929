//! What all targets share: what they begin with.

use std::fs;
use std::path::Path;

/// Writes `seeds` into the folder that `DROWSE_FUZZ_SEEDS` names, if it does: then the run has only to write
/// them, and ends.
pub fn seeds(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("DROWSE_FUZZ_SEEDS") else { return };
    for (number, bytes) in seeds().into_iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{number}"));
        fs::write(&path, bytes).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }
    std::process::exit(0);
}
