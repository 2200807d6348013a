//! The parsers of data files, as functions from bytes.

use crate::mutator::fuzz;
use ds_lab::data::fuzzing::{parse_cifar, parse_idx, parse_parquet, parse_pickle, parse_picture};
use image::ImageFormat;
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::io::{Cursor, Write};
use std::sync::Arc;

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
fn damaged_parquet_files_never_panic() {
    let mut samples = Vec::new();
    for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY] {
            samples.extend([true, false].map(|dictionary| table(version, compression, dictionary)));
        }
    }
    let records = parse_parquet(samples[0].clone().into()).unwrap();
    assert_eq!((records.len(), records[26].labels.as_slice()), (40, &[1][..]));
    assert!(samples.iter().all(|sample| parse_parquet(sample.clone().into()).unwrap() == records));
    fuzz("parquet", &samples, |bytes| parse_parquet(bytes.to_vec().into()).map(|_| ()));
}

#[test]
fn damaged_pictures_never_panic() {
    let samples = [picture(ImageFormat::Png, 9), picture(ImageFormat::WebP, 9)];
    fuzz("picture", &samples, |bytes| parse_picture(bytes).map(|_| ()));
}

#[test]
fn damaged_idx_files_never_panic() {
    let plain = [&[0u8, 0, 8, 3, 0, 0, 0, 5, 0, 0, 0, 4, 0, 0, 0, 3][..], &[7; 60]].concat();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&plain).unwrap();
    fuzz("idx", &[plain, encoder.finish().unwrap()], |bytes| parse_idx(bytes, &[5, 4, 3]).map(|_| ()));
}

#[test]
fn damaged_binary_files_and_pickles_of_cifar_never_panic() {
    fuzz("cifar-binary", &[vec![3; 3 * 3073]], |bytes| parse_cifar(bytes, 3, 1).map(|_| ()));
    let mut pickle =
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x07K\x09eU\x04datacnumpy.core.multiarray\n_reconstruct\n".to_vec();
    pickle
        .extend(b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R");
    pickle.extend(b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00");
    pickle.extend([5; 6144]);
    pickle.extend(b"tbu.");
    fuzz("cifar-pickle", &[pickle], |bytes| parse_pickle(bytes, 2, 1).map(|_| ()));
}
