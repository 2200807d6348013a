#![allow(clippy::unwrap_used)]
use super::*;

/// Two images of three pixels with labels 7 and 9, in the instructions that NumPy of Python 2 writes with protocol 2.
fn pickle(by_columns: bool) -> Vec<u8> {
    let mut bytes =
        b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x07K\x09e"
            .to_vec();
    bytes.extend(b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85q\x09U\x01bq\n\x87q\x0bRq\x0c");
    bytes.extend(b"(K\x01K\x02K\x03\x86q\rcnumpy\ndtype\nq\x0eU\x02u1q\x0fK\x00K\x01\x87q\x10Rq\x11");
    bytes.extend(b"(K\x03U\x01|q\x12NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
    bytes.push(if by_columns { 0x88 } else { 0x89 });
    bytes.extend(if by_columns { b"U\x06\x01\x04\x02\x05\x03\x06" } else { b"U\x06\x01\x02\x03\x04\x05\x06" });
    bytes.extend(b"q\x13tbu.");
    bytes
}

#[test]
fn arrays_and_labels_are_read() {
    for by_columns in [false, true] {
        let bytes = pickle(by_columns);
        let batch = parse(&bytes).unwrap();
        assert_eq!(batch.labels("labels").unwrap(), [7, 9]);
        let mut pixels = Vec::new();
        batch.append_pixels(2, 3, &mut pixels).unwrap();
        assert_eq!(pixels, [1, 2, 3, 4, 5, 6]);
        assert!(batch.append_pixels(3, 2, &mut pixels).unwrap_err().contains("(3, 2)"));
        assert!(batch.labels("fine_labels").unwrap_err().contains("no `fine_labels`"));
    }
}

#[test]
fn nothing_is_executed() {
    let bytes = b"cos\nsystem\n(S'echo harm'\ntR.";
    let problem = parse(bytes).map(|_| ()).unwrap_err();
    assert!(problem.contains("os.system") && problem.contains("not executed"), "{problem}");
}

#[test]
fn cut_and_changed_pickles_are_errors() {
    let good = pickle(false);
    for end in 0..good.len() {
        assert!(parse(&good[..end]).is_err(), "{end} bytes");
    }
    // Whatever a byte is changed to: an error, or a value; never a panic.
    for at in 0..good.len() {
        for value in 0..=255 {
            let mut changed = good.clone();
            changed[at] = value;
            if let Ok(batch) = parse(&changed) {
                let _ = (batch.labels("labels"), batch.append_pixels(2, 3, &mut Vec::new()));
            }
        }
    }
}

#[test]
fn a_pickle_of_many_values_is_refused() {
    let problem = parse(&vec![b'N'; 3 << 20]).map(|_| ()).unwrap_err();
    assert!(problem.contains("more than"), "{problem}");
}
