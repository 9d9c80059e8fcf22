//! Drives what a fuzzer drives (`macula_proto::fuzz`) for a bounded time: the kept corpus, then what comes of it
//! by seeded mutation. `MACULA_FUZZ_SEED` chooses other mutations, `MACULA_FUZZ_RUNS` more of them.

use std::fmt::Write;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::Instant;

use macula_proto::fuzz;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// Mutations of one target in a run of the tests: in the dev profile less than a second each, and some four of the core.
const RUNS: &[(&str, u32)] = &[
    ("frames", 60_000),
    ("messages", 200_000),
    ("records", 20_000),
    ("names", 60_000),
    ("flows", 200_000),
    ("certificates", 20_000),
    ("enrolment", 100_000),
    ("core", 5_000),
];
/// The longest input that mutation makes.
const LONGEST: usize = 4096;

#[test]
fn frames_survive_whatever_comes() {
    drive("frames");
}

#[test]
fn messages_survive_whatever_comes() {
    drive("messages");
}

#[test]
fn records_survive_whatever_comes() {
    drive("records");
}

#[test]
fn names_survive_whatever_comes() {
    drive("names");
}

#[test]
fn flows_survive_whatever_comes() {
    drive("flows");
}

#[test]
fn certificates_survive_whatever_comes() {
    drive("certificates");
}

#[test]
fn enrolment_survives_whatever_comes() {
    drive("enrolment");
}

#[test]
fn the_core_survives_whatever_comes() {
    drive("core");
}

/// A file of one input, such as the one that a failure wrote: `MACULA_FUZZ_INPUT=core:/tmp/input`.
#[test]
fn one_input_survives() {
    let Ok(named) = std::env::var("MACULA_FUZZ_INPUT") else { return };
    let (target, path) = named.split_once(':').expect("MACULA_FUZZ_INPUT=<target>:<file>");
    fuzz::target(target).expect("a target")(&fs::read(path).expect("a file"));
}

#[test]
fn every_target_is_driven_and_has_its_seeds_in_the_corpus() {
    let driven: Vec<_> = RUNS.iter().map(|(target, _)| *target).collect();
    let targets: Vec<_> = fuzz::TARGETS.iter().map(|(target, _)| *target).collect();
    assert_eq!(driven, targets);
    for target in targets {
        for (name, bytes) in fuzz::seeds::of(target) {
            let path = corpus(target).join(format!("seed-{name}"));
            if std::env::var_os("UPDATE").is_some() {
                fs::create_dir_all(corpus(target)).unwrap();
                // Certificates and signatures are new in each run, and the old ones as good.
                if !path.exists() {
                    fs::write(&path, bytes).unwrap();
                }
            }
            assert!(path.exists(), "{} is missing: run with UPDATE=1", path.display());
        }
        let harness = root().join("fuzz_targets").join(format!("{target}.rs"));
        let harness = fs::read_to_string(harness).expect("each target has its file for cargo-fuzz");
        assert!(harness.contains(&format!("\"{target}\"")));
    }
}

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

fn corpus(target: &str) -> PathBuf {
    root().join("corpus").join(target)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

fn drive(target: &str) {
    let run = fuzz::target(target).expect("a target");
    let kept = read_corpus(target);
    let start = Instant::now();
    for (name, bytes) in &kept {
        attempt(target, run, bytes, &format!("of the kept file {name}"));
    }
    let runs = RUNS.iter().find(|(known, _)| *known == target).expect("each is in the table").1;
    let runs = number("MACULA_FUZZ_RUNS").unwrap_or(runs.into());
    let seed = number("MACULA_FUZZ_SEED").unwrap_or(1);
    let mut rng = StdRng::seed_from_u64(seed);
    let inputs: Vec<&[u8]> = kept.iter().map(|(_, bytes)| &bytes[..]).collect();
    for n in 0..runs {
        let bytes = mutated(&mut rng, &inputs);
        attempt(target, run, &bytes, &format!("{n} of MACULA_FUZZ_SEED={seed}"));
    }
    let took = start.elapsed();
    println!("{target}: {} kept and {runs} mutated in {took:.1?}", kept.len());
}

/// The corpus in the order of its names, so that a seed tells the same story twice.
fn read_corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(corpus(target)).expect("each target has a corpus");
    let mut kept: Vec<_> = files
        .map(|file| {
            let file = file.expect("a file of the corpus");
            let bytes = fs::read(file.path()).expect("a file of the corpus");
            (file.file_name().to_string_lossy().into_owned(), bytes)
        })
        .collect();
    kept.sort();
    kept
}

fn attempt(target: &str, run: fn(&[u8]), bytes: &[u8], which: &str) {
    if catch_unwind(AssertUnwindSafe(|| run(bytes))).is_ok() {
        return;
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("fuzz-{target}"));
    let written = fs::write(&path, bytes);
    let mut hex = String::new();
    for byte in bytes {
        write!(hex, "{byte:02x}").expect("writing to a string does not fail");
    }
    panic!(
        "{target} failed with input {which}:\n{hex}\nIt is in {path} ({written:?}). Replay it:\n\
         MACULA_FUZZ_INPUT={target}:{path} cargo test -p macula-proto --test fuzz one_input",
        path = path.display(),
    );
}

/// What a mutating fuzzer makes of its corpus (Zalewski's AFL, "havoc"): one input, or the head of one and the
/// tail of another, with a few edits.
fn mutated(rng: &mut StdRng, inputs: &[&[u8]]) -> Vec<u8> {
    const INTERESTING: &[u64] =
        &[0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX];
    let mut bytes = inputs.choose(rng).expect("a corpus is not empty").to_vec();
    if rng.random_ratio(1, 3) {
        let other = inputs.choose(rng).expect("a corpus is not empty");
        bytes.truncate(rng.random_range(0..=bytes.len()));
        bytes.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
    }
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..7) {
            0 | 1 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            3 => bytes.insert(at, rng.random()),
            4 => drop(bytes.drain(at..(at + rng.random_range(0..16)).min(bytes.len()))),
            5 => {
                let value = INTERESTING.choose(rng).expect("there are some").to_le_bytes();
                let length = 1 << rng.random_range(0..4_u32);
                let end = (at + length).min(bytes.len());
                bytes.splice(at..end, value.into_iter().take(length));
            }
            // Some of the same once more, or of another.
            _ => {
                let other = inputs.choose(rng).expect("a corpus is not empty");
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..64)).min(other.len());
                bytes.splice(at..at, other[from..to].iter().copied());
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}
