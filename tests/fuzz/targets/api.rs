//! What a caller sends, to the agent's API.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: drowse_fuzz::seeds(drowse_agent::api::fuzzing::calls), |bytes: &[u8]| drowse_agent::api::fuzzing::call(bytes));
