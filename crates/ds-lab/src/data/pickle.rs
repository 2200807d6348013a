//! The pickles that torchvision and the CIFAR page call the "python version": a dictionary with an array `data` of bytes (N, 3072)
//! and lists of labels.

use crate::pickle::{Pickle, Value, parse as parse_values};

/// NumPy's names that such files need.
const NUMPY: [&str; 4] =
    ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype"];

/// What a pickle holds: a dictionary of arrays and lists.
pub(super) struct Batch<'a>(Pickle<'a>);

/// Reads a pickle whose value is a dictionary.
pub(super) fn parse(bytes: &[u8]) -> Result<Batch<'_>, String> {
    let pickle = parse_values(bytes, &NUMPY)?;
    match pickle.root() {
        Value::Dictionary(_) => Ok(Batch(pickle)),
        _ => Err("its pickle is no dictionary".to_owned()),
    }
}

impl<'a> Batch<'a> {
    fn entry(&self, key: &str) -> Result<&Value<'a>, String> {
        let entry = self.0.entry(self.0.root(), key);
        entry.ok_or_else(|| format!("its pickle has no `{key}`, as another data set's"))
    }

    /// A list of labels.
    pub fn labels(&self, key: &str) -> Result<Vec<u8>, String> {
        let Value::List(items) = self.entry(key)? else { return Err(format!("its `{key}` is no list")) };
        let label = |item: &usize| match self.0.get(*item) {
            Value::Integer(label) => u8::try_from(*label).ok(),
            _ => None,
        };
        let labels: Option<Vec<u8>> = items.iter().map(label).collect();
        labels.ok_or_else(|| format!("its `{key}` has an entry that is no number from 0 to 255"))
    }

    /// Appends the array `data`, which must be bytes of this shape, row by row.
    pub fn append_pixels(&self, rows: usize, columns: usize, pixels: &mut Vec<u8>) -> Result<(), String> {
        let wrong = || format!("its `data` is no array of bytes ({rows}, {columns})");
        let (data, by_columns) = self.array(self.entry("data")?, [rows, columns]).ok_or_else(wrong)?;
        if by_columns {
            pixels.extend((0..rows * columns).map(|k| data[k % columns * rows + k / columns]));
        } else {
            pixels.extend_from_slice(data);
        }
        Ok(())
    }

    /// The bytes of an array of bytes of this shape, and whether they stand column by column.
    fn array(&self, value: &Value<'a>, shape: [usize; 2]) -> Option<(&'a [u8], bool)> {
        let Value::Object(array) = value else { return None };
        if !self.0.class(array).ends_with("._reconstruct") {
            return None;
        }
        // (version, shape, type, whether it is stored column by column, bytes)
        let state = self.0.items(self.0.get(array.state?))?;
        let [_, dims, Value::Object(dtype), by_columns, Value::Bytes(data)] = state[..] else { return None };
        let is_byte = matches!(self.0.arguments(dtype).first(), Some(Value::Bytes(b"u1" | b"|u1" | b"uint8")));
        let expected = shape.map(|n| Value::Integer(n as i64));
        let is_shape = self.0.items(dims)? == expected.iter().collect::<Vec<_>>();
        let by_columns = match by_columns {
            Value::Boolean(by_columns) => *by_columns,
            // Protocols 0 and 1 have numbers for them.
            Value::Integer(by_columns) => *by_columns != 0,
            _ => return None,
        };
        (is_byte && self.0.class(dtype) == "numpy.dtype" && is_shape && data.len() == shape[0] * shape[1])
            .then_some((data, by_columns))
    }
}

#[cfg(test)]
mod tests {
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
}
