//! Pickles as values: Python's serialisation, of which NumPy's arrays and PyTorch's checkpoints are made.
//!
//! Nothing is executed. The instructions of protocols 0 to 4 are read into values; a call or an object is kept as what it calls and
//! with which arguments. Names of functions and classes that a caller does not know are an error, wherever they stand.

use std::collections::{HashMap, HashSet};

/// Values that a file may put on the stack, and marks and references that it may keep; CIFAR's pickles have some 150 000 values.
const MAX_VALUES: usize = 1 << 20;

/// Of entries in messages: what lies deeper is not told.
const LONGEST_PATH: usize = 200;

/// What a pickle holds.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    values: Vec<Value<'a>>,
    root: usize,
}

/// A value; containers refer to others by their number ([`Pickle::get`]), since lists and dictionaries grow after they were stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    None,
    Boolean(bool),
    Integer(i64),
    Float(f64),
    /// Bytes or text.
    Bytes(&'a [u8]),
    Tuple(Vec<usize>),
    List(Vec<usize>),
    /// Keys and values.
    Dictionary(Vec<(usize, usize)>),
    /// A function or a class.
    Name {
        module: &'a [u8],
        name: &'a [u8],
    },
    /// What a function or class makes of arguments.
    Object(Object),
    /// A reference to what is stored beside the pickle.
    Persistent(usize),
}

/// What a function or class makes of arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Object {
    /// Its [`Value::Name`].
    pub class: usize,
    /// A tuple.
    pub arguments: usize,
    /// What was put into it, if it is a dictionary.
    pub entries: Vec<(usize, usize)>,
    /// What it was given to set itself up from.
    pub state: Option<usize>,
}

/// Bytes as text for a message, without control characters and cut.
pub(crate) fn text(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(60)];
    bytes.escape_ascii().to_string()
}

/// Reads a pickle; the functions and classes in it must be among `known`, given as `module.name`.
///
/// # Errors
/// If the bytes are no such pickle, as a text.
pub(crate) fn parse<'a>(bytes: &'a [u8], known: &[&str]) -> Result<Pickle<'a>, String> {
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
    let pickle = Pickle { values: machine.values, root };
    pickle.check_names(known)?;
    Ok(pickle)
}

impl<'a> Pickle<'a> {
    /// The value of the whole pickle.
    pub fn root(&self) -> &Value<'a> {
        self.get(self.root)
    }

    /// The value of a number.
    pub fn get(&self, number: usize) -> &Value<'a> {
        self.values.get(number).unwrap_or(&Value::None)
    }

    /// Keys and values of a dictionary, or of an object that is one.
    pub fn entries<'b>(&'b self, value: &'b Value<'a>) -> Option<&'b [(usize, usize)]> {
        match value {
            Value::Dictionary(entries) => Some(entries),
            Value::Object(object) => Some(&object.entries),
            _ => None,
        }
    }

    /// The value of a key; of several, the last one, as in Python.
    pub fn entry(&self, value: &Value<'a>, key: &str) -> Option<&Value<'a>> {
        let is_key = |number: usize| *self.get(number) == Value::Bytes(key.as_bytes());
        let (_, value) = self.entries(value)?.iter().rev().find(|(name, _)| is_key(*name))?;
        Some(self.get(*value))
    }

    /// The items of a tuple or list.
    pub fn items(&self, value: &Value<'a>) -> Option<Vec<&Value<'a>>> {
        match value {
            Value::Tuple(items) | Value::List(items) => Some(items.iter().map(|item| self.get(*item)).collect()),
            _ => None,
        }
    }

    /// The name of an object's function or class, as `module.name`.
    pub fn class(&self, object: &Object) -> String {
        match self.get(object.class) {
            Value::Name { module, name } => format!("{}.{}", text(module), text(name)),
            _ => String::new(),
        }
    }

    /// The arguments of an object.
    pub fn arguments(&self, object: &Object) -> Vec<&Value<'a>> {
        self.items(self.get(object.arguments)).unwrap_or_default()
    }

    /// Refuses names that are not known, with the entry of the dictionaries in which the first of them stands.
    fn check_names(&self, known: &[&str]) -> Result<(), String> {
        let mut seen = HashSet::from([self.root]);
        let mut left = vec![(self.root, String::new())];
        while let Some((number, path)) = left.pop() {
            let mut visit = |number: usize, path: String| {
                if seen.insert(number) {
                    left.push((number, path));
                }
            };
            let of_entries = |entries: &[(usize, usize)], visit: &mut dyn FnMut(usize, String)| {
                for &(key, value) in entries {
                    let inner = match self.get(key) {
                        _ if path.len() > LONGEST_PATH => path.clone(),
                        Value::Bytes(key) => format!("{path}[{}]", text(key)),
                        Value::Integer(key) => format!("{path}[{key}]"),
                        _ => path.clone(),
                    };
                    visit(key, path.clone());
                    visit(value, inner);
                }
            };
            match self.get(number) {
                Value::Name { module, name } => {
                    let name = format!("{}.{}", text(module), text(name));
                    if !known.contains(&name.as_str()) {
                        let place = if path.is_empty() { String::new() } else { format!(" (entry {path})") };
                        return Err(format!(
                            "its pickle refers to {name}{place}, which is not executed and not needed in such a file"
                        ));
                    }
                }
                Value::Tuple(items) | Value::List(items) => items.iter().for_each(|&item| visit(item, path.clone())),
                Value::Dictionary(entries) => of_entries(entries, &mut visit),
                Value::Object(Object { class, arguments, entries, state }) => {
                    of_entries(entries, &mut visit);
                    [Some(*class), Some(*arguments), *state].into_iter().flatten().for_each(|n| visit(n, path.clone()));
                }
                Value::Persistent(key) => visit(*key, path),
                Value::None | Value::Boolean(_) | Value::Integer(_) | Value::Float(_) | Value::Bytes(_) => {}
            }
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
