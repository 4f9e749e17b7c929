//! A bundle's `config.json`, to its check.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: drowse_fuzz::seeds(drowse_rootfs::fuzzing::configurations), |bytes: &[u8]| drowse_rootfs::fuzzing::configuration(bytes));
