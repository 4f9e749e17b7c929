//! What an agent sends, to the launcher.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: drowse_fuzz::seeds(drowse_launcher::fuzzing::messages), |bytes: &[u8]| drowse_launcher::fuzzing::message(bytes));
