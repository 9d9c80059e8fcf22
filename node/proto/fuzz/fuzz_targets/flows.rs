#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| macula_proto::fuzz::target("flows").expect("a target")(
    bytes
));
