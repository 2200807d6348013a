//! What pickles are read into.

use std::collections::HashSet;

/// The length in bytes above which the path of an entry in a message is not extended.
const LONGEST_PATH: usize = 200;

/// What a pickle holds.
#[derive(Debug)]
pub(crate) struct Pickle<'a> {
    pub(super) values: Vec<Value<'a>>,
    pub(super) root: usize,
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
    pub(super) fn check_names(&self, known: &[&str]) -> Result<(), String> {
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
