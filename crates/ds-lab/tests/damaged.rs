//! Damaged data files, thousands of each kind from a seed: always an error or a value, never a panic, and bounded memory.
//! `DS_MUTATIONS=1000000` tries more.
#![allow(clippy::unwrap_used)]

use ds_lab::data::fuzzing::{parse_cifar, parse_idx, parse_parquet, parse_pickle, parse_picture, parse_points};
use ds_lab::files::peak_memory_mb;
use image::ImageFormat;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::io::{Cursor, Write};
use std::sync::Arc;

/// Changes some bytes, cuts, repeats or inserts a part.
fn mutated(bytes: &[u8], rng: &mut ChaCha8Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.is_empty() {
            return bytes;
        }
        let at = rng.random_range(0..bytes.len());
        // What decides most stands at the ends.
        let at = match rng.random_range(0..3) {
            0 => at.min(rng.random_range(0..64)),
            1 => at.max(bytes.len().saturating_sub(rng.random_range(1..600))),
            _ => at,
        };
        match rng.random_range(0..8) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
            2 => bytes[at] = rng.random(),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..(at + rng.random_range(1..9)).min(bytes.len()))),
            5 => drop(bytes.splice(at..at, [0xff; 5])),
            6 => {
                let part = bytes[at..(at + 16).min(bytes.len())].to_vec();
                drop(bytes.splice(at..at, part));
            }
            _ => {
                let end = (at + 4).min(bytes.len());
                rng.fill(&mut bytes[at..end]);
            }
        }
    }
    bytes
}

/// Feeds mutations of the samples to a parser, which must accept the samples themselves.
fn check<T>(name: &str, samples: &[Vec<u8>], parse: impl Fn(&[u8]) -> Result<T, String>) {
    let count = std::env::var("DS_MUTATIONS").map_or(4000, |count| count.parse().unwrap());
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let mut errors = 0;
    for (k, sample) in samples.iter().enumerate() {
        if let Err(problem) = parse(sample) {
            panic!("{name} {k}: {problem}");
        }
    }
    for k in 0..count {
        let bytes = mutated(&samples[k % samples.len()], &mut rng);
        match parse(&bytes) {
            Ok(_) => {}
            Err(problem) => {
                assert!(!problem.is_empty());
                errors += 1;
            }
        }
    }
    assert!(errors > count / 10, "{name}: {errors} of {count} are errors");
    if let Some(peak) = peak_memory_mb() {
        assert!(peak < 1000.0, "{name}: {peak} MB");
    }
    println!("{name}: {errors} of {count} are errors, peak {:?} MB", peak_memory_mb());
}

fn picture(format: ImageFormat, shade: u8) -> Vec<u8> {
    let image = image::RgbImage::from_fn(32, 32, |x, y| image::Rgb([x as u8 * 8, y as u8 * 7, shade]));
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A parquet file of 40 images, with fields that may be null as the hub has them.
fn table(version: WriterVersion, compression: Compression, dictionary: bool) -> Vec<u8> {
    let schema = "message schema { optional group img { optional binary bytes; optional binary path (UTF8); } \
                  optional int64 label; }";
    let properties = WriterProperties::builder()
        .set_writer_version(version)
        .set_compression(compression)
        .set_dictionary_enabled(dictionary)
        // Labels of the second version would have an encoding that is not read.
        .set_encoding(parquet::basic::Encoding::PLAIN)
        .set_max_row_group_row_count(Some(25))
        .build();
    let mut bytes = Vec::new();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties)).unwrap();
    for rows in [25, 15] {
        let mut group = writer.next_row_group().unwrap();
        let images: Vec<ByteArray> = (0..rows).map(|i| picture(ImageFormat::Png, i % 3).into()).collect();
        let paths: Vec<ByteArray> = (0..rows).map(|i| format!("{i}.png").into_bytes().into()).collect();
        for column in [images, paths] {
            let mut writer = group.next_column().unwrap().unwrap();
            writer.typed::<ByteArrayType>().write_batch(&column, Some(&vec![2; usize::from(rows)]), None).unwrap();
            writer.close().unwrap();
        }
        let mut writer = group.next_column().unwrap().unwrap();
        let labels: Vec<i64> = (0..rows).map(|i| i64::from(i % 10)).collect();
        writer.typed::<Int64Type>().write_batch(&labels, Some(&vec![1; usize::from(rows)]), None).unwrap();
        writer.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_files() {
    let mut samples = Vec::new();
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            samples.extend([true, false].map(|dictionary| table(version, compression, dictionary)));
        }
    }
    let records = parse_parquet(samples[0].clone().into()).unwrap();
    assert_eq!((records.len(), records[26].labels.as_slice()), (40, &[1][..]));
    assert!(samples.iter().all(|sample| parse_parquet(sample.clone().into()).unwrap() == records));
    check("parquet", &samples, |bytes| parse_parquet(bytes.to_vec().into()));
}

#[test]
fn pictures() {
    let samples = [picture(ImageFormat::Png, 9), picture(ImageFormat::WebP, 9)];
    check("pictures", &samples, parse_picture);
}

#[test]
fn idx_files() {
    let plain = [&[0u8, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 3][..], &[7; 60]].concat();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&plain).unwrap();
    check("IDX", &[plain, encoder.finish().unwrap()], |bytes| parse_idx(bytes, &[5, 4, 3]));
}

#[test]
fn binary_files_and_pickles_of_cifar() {
    check("binary", &[vec![3; 3 * 3073]], |bytes| parse_cifar(bytes, 3, 1));
    let mut pickle =
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x07K\x09eU\x04datacnumpy.core.multiarray\n_reconstruct\n".to_vec();
    pickle
        .extend(b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R");
    pickle.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00");
    pickle.extend([5; 6144]);
    pickle.extend(b"tbu.");
    check("pickle", &[pickle], |bytes| parse_pickle(bytes, 2, 1));
}

#[test]
fn files_of_points() {
    let text = "x1,x2,label\n-0.9,0.3,0\n-0.4,-0.1,1\n1e-3,5,1\n";
    check("points", &[text.into()], parse_points);
}
