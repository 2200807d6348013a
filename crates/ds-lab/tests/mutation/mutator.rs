//! A seeded mutation fuzzer: damaged copies of valid files for a parser, each of which can be made again by its index.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

const DEFAULT_COUNT: u64 = 3000;

/// No parser of files as small as the corpus needs more memory (MB, of the whole process).
const MEMORY_LIMIT_MB: f64 = 1000.0;

/// Panics of a target that are printed with their inputs before it stops.
const PRINTED_PANICS: usize = 10;

/// Numbers at the limits of types, and texts that only look like numbers.
const NUMBERS: [&str; 20] = [
    "0",
    "-1",
    "1",
    "-0.0",
    "0.1",
    "1e-400",
    "1e400",
    "-1e400",
    "nan",
    "inf",
    "127",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "1_0",
    "",
];

/// Bytes that end strings, begin sections or are not UTF-8.
const BYTES: &[u8] = b"\0\x01\x7f\x80\xff\n\r\t \"'\\,;=.:#[]{}-+";

/// Runs a parser on damaged files and prints how many it accepted. A panic of the parser fails the test: it is printed with
/// its input, as is an error without words.
///
/// `DS_FUZZ_COUNT` is the number of inputs, `DS_FUZZ_ONLY=TARGET:INDEX` runs one input again.
pub fn fuzz(target: &str, corpus: &[Vec<u8>], parse: impl Fn(&[u8]) -> Result<(), String>) {
    assert!(!corpus.is_empty(), "{target}: no corpus");
    for (k, file) in corpus.iter().enumerate() {
        parse(file).unwrap_or_else(|error| panic!("{target}: file {k} of the corpus is refused: {error}"));
    }
    let Some(indices) = indices(target) else { return };
    let (mut inputs, mut accepted, mut panics) = (0u64, 0u64, 0);
    for index in indices {
        let input = mutant(target, index, corpus);
        let outcome = catch_unwind(AssertUnwindSafe(|| match parse(&input) {
            Ok(()) => true,
            Err(error) => {
                assert!(!error.trim().is_empty(), "an error without words");
                false
            }
        }));
        inputs += 1;
        match outcome {
            Ok(valid) => accepted += u64::from(valid),
            Err(_) => {
                panics += 1;
                println!("DS_FUZZ_ONLY={target}:{index} panics, {} bytes: {}", input.len(), input.escape_ascii());
            }
        }
        if panics == PRINTED_PANICS {
            break;
        }
    }
    println!("{target}: {inputs} inputs, {accepted} accepted, {panics} panics, corpus {} files", corpus.len());
    assert_eq!(panics, 0, "{target}: panics");
    let peak = ds_lab::files::peak_memory_mb();
    assert!(peak.is_none_or(|peak| peak < MEMORY_LIMIT_MB), "{target}: peak memory {peak:?} MB");
}

/// The indices of the inputs to try; `None` if another target's input is to be run.
fn indices(target: &str) -> Option<Range<u64>> {
    if let Ok(only) = std::env::var("DS_FUZZ_ONLY") {
        let (name, index) = only.split_once(':').expect("DS_FUZZ_ONLY=TARGET:INDEX");
        let index = index.parse::<u64>().expect("DS_FUZZ_ONLY=TARGET:INDEX");
        return (name == target).then(|| index..index + 1);
    }
    let count = std::env::var("DS_FUZZ_COUNT").map_or(DEFAULT_COUNT, |n| n.parse().expect("DS_FUZZ_COUNT is a number"));
    Some(0..count)
}

/// The input of an index: a file of the corpus with one to eight changes, the fewer the likelier.
fn mutant(target: &str, index: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut seed = [0; 32];
    seed.iter_mut().zip(target.bytes()).for_each(|(seed, byte)| *seed = byte);
    let mut rng = ChaCha8Rng::from_seed(seed);
    rng.set_stream(index);
    let mut bytes = pick(&mut rng, corpus).clone();
    for _ in 0..8 {
        mutate(&mut rng, &mut bytes, corpus);
        if rng.random_bool(0.5) {
            break;
        }
    }
    bytes
}

fn pick<'a, T>(rng: &mut ChaCha8Rng, all: &'a [T]) -> &'a T {
    all.choose(rng).expect("not empty")
}

/// A range of the bytes, most often a short one.
fn range(rng: &mut ChaCha8Rng, bytes: &[u8]) -> Range<usize> {
    let start = rng.random_range(0..=bytes.len());
    let longest = bytes.len() - start;
    let length = if rng.random_bool(0.8) { longest.min(16) } else { longest };
    start..start + rng.random_range(0..=length)
}

fn mutate(rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = if bytes.is_empty() { 0 } else { rng.random_range(0..bytes.len()) };
    match rng.random_range(0..11) {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << rng.random_range(0..8),
        1 if !bytes.is_empty() => bytes[at] = *pick(rng, BYTES),
        2 if !bytes.is_empty() => bytes[at] = rng.random(),
        3 => bytes.truncate(at),
        4 => {
            bytes.drain(range(rng, bytes));
        }
        5 => {
            let copy = bytes[range(rng, bytes)].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let noise: Vec<u8> = (0..rng.random_range(1..=16)).map(|_| rng.random()).collect();
            bytes.splice(at..at, noise);
        }
        7 => {
            let other = pick(rng, corpus);
            let from = rng.random_range(0..=other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        8 => {
            // A binary integer at its limits, in either order of its bytes.
            let value: u64 =
                *pick(rng, &[0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX]);
            let width = *pick(rng, &[1, 2, 4, 8]);
            let end = bytes.len().min(at + width);
            let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
            let written = if rng.random() { &little[..end - at] } else { &big[8 - (end - at)..] };
            bytes[at..end].copy_from_slice(written);
        }
        9 => {
            let numbers = tokens(bytes, |byte| byte.is_ascii_digit());
            if !numbers.is_empty() {
                let number = pick(rng, &numbers).clone();
                bytes.splice(number, pick(rng, &NUMBERS).bytes());
            }
        }
        _ => {
            let words = tokens(bytes, |byte| byte.is_ascii_alphanumeric() || b"_.\"".contains(&byte));
            if !words.is_empty() {
                let (a, b) = (pick(rng, &words).clone(), pick(rng, &words).clone());
                let (first, last) = if a.start <= b.start { (a, b) } else { (b, a) };
                if first != last {
                    let (left, right) = (bytes[first.clone()].to_vec(), bytes[last.clone()].to_vec());
                    bytes.splice(last, left);
                    bytes.splice(first, right);
                }
            }
        }
    }
}

/// The longest ranges whose bytes are all of a kind.
fn tokens(bytes: &[u8], of_kind: impl Fn(u8) -> bool) -> Vec<Range<usize>> {
    let mut tokens = Vec::new();
    let mut start = None;
    for (k, byte) in bytes.iter().copied().chain([0]).enumerate() {
        match (start, k < bytes.len() && of_kind(byte)) {
            (None, true) => start = Some(k),
            (Some(begin), false) => {
                tokens.push(begin..k);
                start = None;
            }
            _ => {}
        }
    }
    tokens
}
