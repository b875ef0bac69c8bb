#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| keyfold::fuzz::target("files")(bytes));
