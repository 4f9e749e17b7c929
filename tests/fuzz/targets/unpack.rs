//! Archives, to the unpacker.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: drowse_fuzz::seeds(drowse_rootfs::fuzzing::archives), |bytes: &[u8]| drowse_rootfs::fuzzing::unpacker(bytes));
