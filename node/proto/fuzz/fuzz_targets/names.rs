#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| macula_proto::fuzz::target("names").expect("a target")(
    bytes
));
