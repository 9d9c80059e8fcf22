//! Compiles the schema. protox reads it in Rust, so that no `protoc` has to be installed.

fn main() {
    println!("cargo:rerun-if-changed=schema/macula.proto");
    let descriptors = protox::compile(["schema/macula.proto"], ["schema"])
        .unwrap_or_else(|error| panic!("the schema does not compile: {error}"));
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)
        .unwrap_or_else(|error| panic!("cannot write the messages: {error}"));
}
