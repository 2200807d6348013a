//! The parser of PyTorch's files, as a function from bytes.

use crate::mutator::fuzz;
use ds_lab::torch::{Given, import, parse_archive};
use std::io::{Cursor, Write};
use std::path::Path;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// A text of protocol 2.
fn text(text: &str) -> Vec<u8> {
    [&b"X"[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
}

/// A tensor in storage `key`, as torch.save writes it.
fn tensor(key: &str, shape: [u8; 2]) -> Vec<u8> {
    let [rows, columns] = shape;
    let mut bytes = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    bytes.extend([text("storage"), b"ctorch\nFloatStorage\n".to_vec(), text(key), text("cpu")].concat());
    bytes.extend([
        b'K',
        rows * columns,
        b't',
        b'Q',
        b'K',
        0,
        b'K',
        rows,
        b'K',
        columns,
        0x86,
        b'K',
        columns,
        b'K',
        1,
        0x86,
    ]);
    bytes.extend(b"\x89ccollections\nOrderedDict\n)RtR");
    bytes
}

/// A checkpoint of the original's program of an area network with one hidden layer of two splines.
fn checkpoint(class: &str) -> Vec<u8> {
    let mut code = b"\x80\x02}(".to_vec();
    code.extend(text("model_state"));
    code.extend(b"ccollections\nOrderedDict\n)R(");
    let tensors = [("fc1.weight", [2, 2]), ("activations.0._coefficients_vect", [1, 10]), ("fc_last.weight", [1, 2])];
    for (key, (name, shape)) in tensors.iter().enumerate() {
        code.extend([text(name), tensor(&key.to_string(), *shape)].concat());
    }
    code.push(b'u');
    code.extend([text("params"), b"}(".to_vec(), text("net"), text("twoDnet")].concat());
    code.extend([text("lmbda"), b"G".to_vec(), 1e-4f64.to_be_bytes().to_vec()].concat());
    code.extend([text("device"), format!("c{class}\n").into_bytes(), text("cpu"), b"\x85Ru".to_vec()].concat());
    code.extend([text("global_step"), b"K\x09u.".to_vec()].concat());
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut member = |name: &str, bytes: &[u8]| {
        zip.start_file(format!("checkpoint/{name}"), stored).unwrap();
        zip.write_all(bytes).unwrap();
    };
    member("data.pkl", &code);
    member("byteorder", b"little");
    for (key, (_, [rows, columns])) in tensors.iter().enumerate() {
        member(&format!("data/{key}"), &vec![0; 4 * usize::from(rows * columns)]);
    }
    zip.finish().unwrap().into_inner()
}

#[test]
fn damaged_files_of_pytorch_never_panic() {
    let mut corpus = vec![checkpoint("torch\ndevice")];
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/torch");
    corpus.extend(
        ["area-relu_spline", "mnist-bspline"]
            .iter()
            .filter_map(|name| std::fs::read(shared.join(name).with_extension("pth")).ok()),
    );
    fuzz("torch", &corpus, |bytes| parse_archive(bytes).map(|_| ()));
}

#[test]
fn errors_name_the_file_and_the_entry() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("net.pth");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let error = import(&path, &Given::default()).map(|_| ()).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains(path.to_str().unwrap()), "{error}");
        error
    };
    let good = checkpoint("torch\ndevice");
    assert_eq!(parse_archive(&good).unwrap(), 3);
    let harmful = error(&checkpoint("os\nsystem"));
    assert!(harmful.contains("os.system (entry [params][device])") && harmful.contains("not executed"), "{harmful}");
    // The ZIP archive has a checksum of each tensor.
    let mut changed = good.clone();
    let at = changed.windows(17).position(|part| part == b"checkpoint/data/1").unwrap() + 17;
    changed[at + 3] ^= 1;
    assert!(error(&changed).contains("entry `activations.0._coefficients_vect`"), "{}", error(&changed));
    for (bytes, part) in [
        (&good[..good.len() / 2], "ZIP archive"),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9", "before 1.6"),
        (b"<html>", "neither a file of torch.save"),
        (b"", "empty"),
    ] {
        assert!(error(bytes).contains(part), "{}", error(bytes));
    }
    // A whole file of a network that is not there in full.
    assert!(error(&good).contains("activation_type"), "{}", error(&good));
}
