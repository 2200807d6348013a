//! The stack machine that pickles are written for.

use super::value::{Object, Pickle, Value, text};
use std::collections::HashMap;

/// Values that a file may put on the stack, and marks and references that it may keep; CIFAR's pickles have some 150 000 values.
const MAX_VALUES: usize = 1 << 20;

/// The values that the instructions of a pickle make.
pub(super) fn run(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine {
        rest: bytes,
        length: bytes.len(),
        values: Vec::new(),
        stack: Vec::new(),
        pushed: 0,
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine.run()?;
    Ok(Pickle { values: machine.values, root })
}

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
            0x88 => self.push(Value::Boolean(true)),
            0x89 => self.push(Value::Boolean(false)),
            b'K' | b'M' | b'J' | b'I' | b'L' | 0x8a => self.integer(code),
            b'G' => {
                let number = f64::from_be_bytes(self.take_array()?);
                self.push(Value::Float(number))
            }
            b'F' => {
                let number = self.number()?;
                self.push(Value::Float(number))
            }
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
                self.push(Value::Name { module, name })
            }
            0x93 => {
                let items = self.pop_many(2)?;
                match (&self.values[items[0]], &self.values[items[1]]) {
                    (&Value::Bytes(module), &Value::Bytes(name)) => self.push(Value::Name { module, name }),
                    _ => Err("its pickle has a name that is no text".to_owned()),
                }
            }
            // REDUCE and NEWOBJ: a function or a class, and its arguments.
            b'R' | 0x81 => self.call(),
            b'b' => self.build(),
            b'Q' => {
                let key = self.pop()?;
                self.push(Value::Persistent(key))
            }
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

    /// A number as text, as protocol 0 has it; long ones end with an L.
    fn number<T: std::str::FromStr>(&mut self) -> Result<T, String> {
        let line = self.line()?;
        let digits = line.strip_suffix(b"L").unwrap_or(line);
        let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        number.ok_or_else(|| format!("its pickle has `{}` for a number", text(line)))
    }

    fn integer(&mut self, code: u8) -> Result<(), String> {
        let value = match code {
            b'K' => self.unsigned(1)? as i64,
            b'M' => self.unsigned(2)? as i64,
            b'J' => i64::from(i32::from_le_bytes(self.take_array()?)),
            b'I' | b'L' => self.number()?,
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
            Value::Dictionary(entries) | Value::Object(Object { entries, .. }) if items.len().is_multiple_of(2) => {
                entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
                Ok(())
            }
            _ => Err("its pickle inserts into what is no dictionary".to_owned()),
        }
    }

    fn store(&mut self, code: u8) -> Result<(), String> {
        let number = match code {
            b'p' => self.number()?,
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
            b'g' => self.number()?,
            b'h' => self.unsigned(1)?,
            _ => self.unsigned(4)?,
        };
        let value = *self.memo.get(&number).ok_or("its pickle recalls what it did not store")?;
        self.push_again(value)
    }

    fn call(&mut self) -> Result<(), String> {
        let items = self.pop_many(2)?;
        let [class, arguments] = items[..] else { return Err("its pickle calls nothing".to_owned()) };
        match (&self.values[class], &self.values[arguments]) {
            (Value::Name { .. }, Value::Tuple(_)) => {
                self.push(Value::Object(Object { class, arguments, entries: Vec::new(), state: None }))
            }
            _ => Err("its pickle calls what is no function".to_owned()),
        }
    }

    fn build(&mut self) -> Result<(), String> {
        let given = self.pop()?;
        let top = self.top()?;
        match &mut self.values[top] {
            Value::Object(Object { state, .. }) => {
                *state = Some(given);
                Ok(())
            }
            _ => Err("its pickle sets the state of what has none".to_owned()),
        }
    }
}
