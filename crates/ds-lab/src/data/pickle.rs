//! The pickles that torchvision and the CIFAR page call the "python version": a dictionary with an array `data` of bytes (N, 3072)
//! and lists of labels.
//!
//! Nothing is executed. The few instructions of pickle protocols 0 to 4 that such files consist of are read into values; NumPy's
//! `_reconstruct` and `dtype` are recognised by their names. Any other instruction, name or type is an error.

use std::collections::HashMap;

/// Values that a file may put on the stack, and marks and references that it may keep; the original's have some 150 000 values.
const MAX_VALUES: usize = 1 << 20;

/// What a pickle holds: names of a dictionary's entries and their values.
pub(super) struct Batch<'a> {
    values: Vec<Value<'a>>,
    entries: Vec<(usize, usize)>,
}

/// A value; containers refer to others by their number, since lists and dictionaries grow after they were stored.
#[derive(Debug, Clone, PartialEq)]
enum Value<'a> {
    None,
    Integer(i64),
    /// Bytes or text.
    Bytes(&'a [u8]),
    Tuple(Vec<usize>),
    List(Vec<usize>),
    Dictionary(Vec<(usize, usize)>),
    /// A function or a class by its name.
    Named(Name),
    /// NumPy's array: (number of the state's tuple).
    Array(Option<usize>),
    /// NumPy's type: whether it is `u1`, bytes.
    Type(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Reconstruct,
    Ndarray,
    Dtype,
}

/// NumPy's names that such files need.
fn known(module: &[u8], name: &[u8]) -> Result<Name, String> {
    match (module, name) {
        (b"numpy.core.multiarray" | b"numpy._core.multiarray", b"_reconstruct") => Ok(Name::Reconstruct),
        (b"numpy", b"ndarray") => Ok(Name::Ndarray),
        (b"numpy", b"dtype") => Ok(Name::Dtype),
        _ => {
            let (module, name) = (text(module), text(name));
            Err(format!("its pickle refers to {module}.{name}, which is not executed and not needed for images"))
        }
    }
}

/// Bytes as text for a message, without control characters and cut.
fn text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(40)];
    bytes.escape_ascii().to_string()
}

/// Reads a pickle whose value is a dictionary.
pub(super) fn parse(bytes: &[u8]) -> Result<Batch<'_>, String> {
    let mut machine = Machine {
        rest: bytes,
        length: bytes.len(),
        values: Vec::new(),
        stack: Vec::new(),
        pushed: 0,
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let top = machine.run()?;
    match machine.values.get_mut(top) {
        Some(Value::Dictionary(entries)) => {
            let entries = std::mem::take(entries);
            Ok(Batch { values: machine.values, entries })
        }
        _ => Err("its pickle is no dictionary".to_owned()),
    }
}

impl<'a> Batch<'a> {
    fn entry(&self, key: &str) -> Result<&Value<'a>, String> {
        let is_key = |value: usize| self.values.get(value) == Some(&Value::Bytes(key.as_bytes()));
        self.entries
            .iter()
            .find(|(name, _)| is_key(*name))
            .and_then(|(_, value)| self.values.get(*value))
            .ok_or_else(|| format!("its pickle has no `{key}`, as another data set's"))
    }

    /// A list of labels.
    pub fn labels(&self, key: &str) -> Result<Vec<u8>, String> {
        let Value::List(items) = self.entry(key)? else { return Err(format!("its `{key}` is no list")) };
        let label = |item: &usize| match self.values.get(*item) {
            Some(Value::Integer(label)) => u8::try_from(*label).ok(),
            _ => None,
        };
        let labels: Option<Vec<u8>> = items.iter().map(label).collect();
        labels.ok_or_else(|| format!("its `{key}` has an entry that is no number from 0 to 255"))
    }

    /// Appends the array `data`, which must be bytes of this shape, row by row.
    pub fn append_pixels(&self, rows: usize, columns: usize, pixels: &mut Vec<u8>) -> Result<(), String> {
        let wrong = || format!("its `data` is no array of bytes ({rows}, {columns})");
        let Value::Array(Some(state)) = self.entry("data")? else { return Err(wrong()) };
        // (version, shape, type, whether it is stored column by column, bytes)
        let Some(Value::Tuple(state)) = self.values.get(*state) else { return Err(wrong()) };
        let items: Vec<&Value> = state.iter().filter_map(|item| self.values.get(*item)).collect();
        let [_, Value::Tuple(shape), Value::Type(true), Value::Integer(by_columns), Value::Bytes(data)] =
            items.as_slice()
        else {
            return Err(wrong());
        };
        let shape: Vec<Option<&Value>> = shape.iter().map(|item| self.values.get(*item)).collect();
        let expected = [rows, columns].map(|n| Value::Integer(n as i64));
        if shape != [Some(&expected[0]), Some(&expected[1])] || data.len() != rows * columns {
            return Err(wrong());
        }
        if *by_columns == 0 {
            pixels.extend_from_slice(data);
        } else {
            pixels.extend((0..rows * columns).map(|k| data[k % columns * rows + k / columns]));
        }
        Ok(())
    }
}

/// The stack machine that pickles are written for.
struct Machine<'a> {
    rest: &'a [u8],
    length: usize,
    values: Vec<Value<'a>>,
    stack: Vec<usize>,
    /// How many values were ever put on the stack.
    pushed: usize,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u64, usize>,
}

impl<'a> Machine<'a> {
    /// The number of the value at the end.
    fn run(&mut self) -> Result<usize, String> {
        loop {
            let at = self.length - self.rest.len();
            let [code] = self.take_array()?;
            if code == b'.' {
                return self.pop();
            }
            self.step(code).map_err(|problem| format!("{problem} (at byte {at})"))?;
        }
    }

    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            // PROTO, FRAME: nothing to do but to skip what follows.
            0x80 => {
                let [version] = self.take_array()?;
                if version > 4 {
                    return Err(format!("its pickle has protocol {version}; 0 to 4 are read"));
                }
                Ok(())
            }
            0x95 => self.take(8).map(|_| ()),
            b'(' => {
                self.marks.push(self.stack.len());
                self.bounded(self.marks.len())
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Integer(1)),
            0x89 => self.push(Value::Integer(0)),
            b'K' | b'M' | b'J' | b'I' | 0x8a => self.integer(code),
            b'U' | b'T' | b'C' | b'B' | 0x8e | b'X' | 0x8c | 0x8d | b'S' => self.bytes(code),
            b')' => self.push(Value::Tuple(Vec::new())),
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dictionary(Vec::new())),
            0x85..=0x87 => {
                let items = self.pop_many(usize::from(code - 0x84))?;
                self.push(Value::Tuple(items))
            }
            b't' | b'l' => {
                let items = self.pop_to_mark()?;
                self.push(if code == b't' { Value::Tuple(items) } else { Value::List(items) })
            }
            b'd' => {
                self.push(Value::Dictionary(Vec::new()))?;
                let dictionary = self.pop()?;
                let items = self.pop_to_mark()?;
                self.stack.push(dictionary);
                self.insert(&items)
            }
            b'a' => {
                let item = self.pop_many(1)?;
                self.append(item)
            }
            b'e' => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            b's' => {
                let items = self.pop_many(2)?;
                self.insert(&items)
            }
            b'u' => {
                let items = self.pop_to_mark()?;
                self.insert(&items)
            }
            b'p' | b'q' | b'r' | 0x94 => self.store(code),
            b'g' | b'h' | b'j' => self.recall(code),
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.push(Value::Named(known(module, name)?))
            }
            0x93 => {
                let items = self.pop_many(2)?;
                match (&self.values[items[0]], &self.values[items[1]]) {
                    (Value::Bytes(module), Value::Bytes(name)) => {
                        let name = known(module, name)?;
                        self.push(Value::Named(name))
                    }
                    _ => Err("its pickle has a name that is no text".to_owned()),
                }
            }
            b'R' => self.call(),
            b'b' => self.build(),
            _ => Err(format!("its pickle has the instruction {code:#04x}, which such files do not need")),
        }
    }

    fn bounded(&self, count: usize) -> Result<(), String> {
        if count > MAX_VALUES { Err(format!("its pickle has more than {MAX_VALUES} values")) } else { Ok(()) }
    }

    fn push(&mut self, value: Value<'a>) -> Result<(), String> {
        self.values.push(value);
        self.push_again(self.values.len() - 1)
    }

    fn push_again(&mut self, value: usize) -> Result<(), String> {
        self.stack.push(value);
        self.pushed += 1;
        self.bounded(self.pushed)
    }

    fn pop(&mut self) -> Result<usize, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let value = if self.stack.len() > floor { self.stack.pop() } else { None };
        value.ok_or_else(|| "its pickle takes a value where there is none".to_owned())
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<usize>, String> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Result<Vec<_>, _>>()?;
        items.reverse();
        Ok(items)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<usize>, String> {
        let mark = self.marks.pop().ok_or("its pickle ends a group that it did not begin")?;
        Ok(self.stack.split_off(mark))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("its pickle ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn line(&mut self) -> Result<&'a [u8], String> {
        let end = self.rest.iter().position(|&byte| byte == b'\n').ok_or("its pickle ends too early")?;
        let line = self.take(end + 1)?;
        Ok(&line[..end])
    }

    /// A little-endian number of so many bytes, without a sign.
    fn unsigned(&mut self, bytes: usize) -> Result<u64, String> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// A number as text, as protocol 0 has it.
    fn decimal(&mut self) -> Result<i64, String> {
        let line = self.line()?;
        let number = std::str::from_utf8(line).ok().and_then(|line| line.parse().ok());
        number.ok_or_else(|| format!("its pickle has `{}` for a number", text(line)))
    }

    fn integer(&mut self, code: u8) -> Result<(), String> {
        let value = match code {
            b'K' => self.unsigned(1)? as i64,
            b'M' => self.unsigned(2)? as i64,
            b'J' => i64::from(i32::from_le_bytes(self.take_array()?)),
            b'I' => self.decimal()?,
            _ => {
                let length = self.unsigned(1)? as usize;
                if length > 8 {
                    return Err("its pickle has a number beyond 64 bits".to_owned());
                }
                let number = self.unsigned(length)? as i64;
                // The sign is in the highest bit.
                let unused = 64 - 8 * length as u32;
                if length == 0 { 0 } else { number << unused >> unused }
            }
        };
        self.push(Value::Integer(value))
    }

    fn bytes(&mut self, code: u8) -> Result<(), String> {
        let bytes = match code {
            b'S' => {
                let line = self.line()?.trim_ascii();
                let quoted = |quote: &[u8]| line.strip_prefix(quote)?.strip_suffix(quote);
                let inner = quoted(b"'").or_else(|| quoted(b"\"")).filter(|inner| !inner.contains(&b'\\'));
                inner.ok_or("its pickle has a text of protocol 0 that is not read; protocol 2 is")?
            }
            _ => {
                let width = match code {
                    b'U' | b'C' | 0x8c => 1,
                    0x8e | 0x8d => 8,
                    _ => 4,
                };
                let length = self.unsigned(width)?;
                self.take(usize::try_from(length).unwrap_or(usize::MAX))?
            }
        };
        self.push(Value::Bytes(bytes))
    }

    fn top(&mut self) -> Result<usize, String> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    fn append(&mut self, items: Vec<usize>) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.values[top] {
            Value::List(list) => {
                list.extend(items);
                Ok(())
            }
            _ => Err("its pickle appends to what is no list".to_owned()),
        }
    }

    fn insert(&mut self, items: &[usize]) -> Result<(), String> {
        let top = self.top()?;
        match &mut self.values[top] {
            Value::Dictionary(entries) if items.len().is_multiple_of(2) => {
                entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err("its pickle inserts into what is no dictionary".to_owned()),
        }
    }

    fn store(&mut self, code: u8) -> Result<(), String> {
        let number = match code {
            b'p' => self.decimal()? as u64,
            b'q' => self.unsigned(1)?,
            b'r' => self.unsigned(4)?,
            _ => self.memo.len() as u64,
        };
        let top = self.top()?;
        self.memo.insert(number, top);
        self.bounded(self.memo.len())
    }

    fn recall(&mut self, code: u8) -> Result<(), String> {
        let number = match code {
            b'g' => self.decimal()? as u64,
            b'h' => self.unsigned(1)?,
            _ => self.unsigned(4)?,
        };
        let value = *self.memo.get(&number).ok_or("its pickle recalls what it did not store")?;
        self.push_again(value)
    }

    /// A call of NumPy's `_reconstruct(ndarray, …)`, an empty array, or of `dtype('u1', …)`.
    fn call(&mut self) -> Result<(), String> {
        let items = self.pop_many(2)?;
        let (Value::Named(name), Value::Tuple(arguments)) = (&self.values[items[0]], &self.values[items[1]]) else {
            return Err("its pickle calls what is no function".to_owned());
        };
        let first = arguments.first().map(|argument| &self.values[*argument]);
        let value = match (name, first) {
            (Name::Reconstruct, Some(Value::Named(Name::Ndarray))) => Value::Array(None),
            (Name::Dtype, Some(Value::Bytes(kind))) => Value::Type(matches!(*kind, b"u1" | b"|u1" | b"uint8")),
            _ => return Err("its pickle calls a function with arguments that such files do not have".to_owned()),
        };
        self.push(value)
    }

    /// The state of an array or a type.
    fn build(&mut self) -> Result<(), String> {
        let state = self.pop()?;
        let top = self.top()?;
        match &mut self.values[top] {
            Value::Array(array @ None) => {
                *array = Some(state);
                Ok(())
            }
            // Byte order and alignment, which bytes do not have.
            Value::Type(_) => Ok(()),
            _ => Err("its pickle sets the state of what has none".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
