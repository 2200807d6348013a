//! `--set KEY=VALUE`: the kind of the key decides how the text is read.

use super::error::{ConfigError, Origin, printable};
use super::key::Key;
use super::keys::find;
use super::kinds::Kind;
use super::names::AUTO;
use toml::{Table, Value};

/// A value for one key.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The key's path.
    pub key: String,
    /// What it is set to.
    pub value: Value,
    /// Where that was said.
    pub origin: Origin,
}

impl Setting {
    /// `KEY=VALUE` as `--set` has it. Numbers may be written as `1e2`, `.5`, `+3`, `01` or `1_000`, true and false in any case,
    /// lists with or without brackets, and texts with or without quotes. The value of an unknown key is kept as a text.
    ///
    /// # Errors
    /// If the text is no assignment, or the value cannot be read as what the key takes.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let origin = Origin::Set(text.to_owned());
        let (key, value) = match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => (key.trim(), value.trim()),
            _ => return Err(ConfigError::Set { text: printable(text) }),
        };
        let value = match find(key) {
            None => Value::String(value.to_owned()),
            Some(found) => {
                let shown = if value.is_empty() { "empty".to_owned() } else { printable(value) };
                found.read(value).ok_or_else(|| found.refuse(&origin, shown))?
            }
        };
        Ok(Self { key: key.to_owned(), value, origin })
    }
}

impl Key {
    /// The value that a text stands for, under its present name; whether it is in range is not checked here.
    fn read(&self, text: &str) -> Option<Value> {
        let renamed = self.renamed(Value::String(text.to_owned()));
        self.kind.read(renamed.as_str().unwrap_or(text))
    }
}

impl Kind {
    /// The value that a text stands for; whether it is in range is not checked here.
    fn read(self, text: &str) -> Option<Value> {
        let text = unquoted(text);
        let text = text.trim();
        match self {
            Self::Text => (!text.is_empty()).then(|| Value::String(text.to_owned())),
            Self::Bool => {
                let is = |name: &str| text.eq_ignore_ascii_case(name);
                if is("true") { Some(true) } else { is("false").then_some(false) }.map(Value::Boolean)
            }
            Self::Choice(names) => {
                let exact = names.iter().find(|name| **name == text);
                let mut similar = names.iter().filter(|name| name.eq_ignore_ascii_case(text));
                let name = exact.or(similar.next().filter(|_| similar.next().is_none()))?;
                Some(Value::String((*name).to_owned()))
            }
            Self::Integer(..) => whole(text).map(Value::Integer),
            Self::PositiveOrAuto(_) if text.eq_ignore_ascii_case(AUTO) => Some(Value::String(AUTO.to_owned())),
            Self::Number(..) | Self::Positive(_) | Self::PositiveOrAuto(_) => number(text).map(Value::Float),
            Self::Integers(..) => {
                let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
                let items = inner.unwrap_or(text).trim();
                if items.is_empty() {
                    return inner.map(|_| Value::Array(Vec::new()));
                }
                let items = items.strip_suffix(',').unwrap_or(items).split(',');
                items.map(|item| whole(item.trim()).map(Value::Integer)).collect::<Option<_>>().map(Value::Array)
            }
        }
    }
}

/// A text without the quotes around it.
fn unquoted(text: &str) -> String {
    let between = |quote: char| text.strip_prefix(quote).and_then(|text| text.strip_suffix(quote));
    let Some(inner) = between('"').or_else(|| between('\'')) else { return text.to_owned() };
    // As TOML reads it, with its escapes; a Windows path in double quotes is no TOML.
    let parsed = format!("text = {text}").parse::<Table>().ok();
    let parsed = parsed.as_ref().and_then(|table| table.get("text")).and_then(Value::as_str);
    parsed.unwrap_or(inner).to_owned()
}

/// A number without underscores; `None` if one is not between two digits.
fn without_separators(text: &str) -> Option<String> {
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let misplaced = |k: usize| bytes[k] == b'_' && !(k > 0 && is_digit(bytes.get(k - 1)) && is_digit(bytes.get(k + 1)));
    (!(0..bytes.len()).any(misplaced)).then(|| text.replace('_', ""))
}

/// A whole number, without rounding: `300`, `1_000`, `01`, `1e2`, `2.50e2`, `0xff`; not `2.5` or what needs more than 64 bits.
fn whole(text: &str) -> Option<i64> {
    let text = without_separators(text)?;
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (-1, unsigned),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = unsigned.strip_prefix(prefix) {
            let is_number = digits.bytes().next().is_some_and(|byte| byte.is_ascii_hexdigit());
            return if is_number { i64::from_str_radix(digits, radix).ok()?.checked_mul(sign) } else { None };
        }
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{before}{after}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // The digits up to the last that is not 0 must stand before the decimal point.
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let zeros = i64::try_from(before.len()).ok()? + i64::from(exponent) - i64::try_from(significant.len()).ok()?;
    let zeros = u32::try_from(zeros).ok()?;
    significant.parse::<i64>().ok()?.checked_mul(10i64.checked_pow(zeros)?)?.checked_mul(sign)
}

/// A number: `.001`, `1.`, `1e-3`, `+0.5`, `1_000`, or a [`whole`] one.
fn number(text: &str) -> Option<f64> {
    let parsed = without_separators(text)?.parse::<f64>().ok();
    parsed.or_else(|| whole(text).map(|number| number as f64))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn value(text: &str) -> Value {
        Setting::parse(text).unwrap_or_else(|error| panic!("{error}")).value
    }

    fn list(numbers: &[i64]) -> Value {
        Value::Array(numbers.iter().copied().map(Value::Integer).collect())
    }

    #[test]
    fn the_kind_of_a_key_decides_how_a_text_is_read() {
        for name in ["2024", "2024-05-01", "true", "1e3", "[a]", "07:32:00", "a=b", "Größe"] {
            assert_eq!(value(&format!("name={name}")), Value::String(name.to_owned()));
        }
        for (text, name) in [("name=\"a b\"", "a b"), ("name='a'", "a"), (" name = a ", "a"), ("name=\"a\\d\"", "a\\d")]
        {
            assert_eq!(value(text), Value::String(name.to_owned()), "{text}");
        }
        let rates =
            [(".001", 1e-3), ("1.", 1.0), ("1e-3", 1e-3), ("+0.5", 0.5), ("5E-4", 5e-4), ("01", 1.0), ("1_0.5", 10.5)];
        for (text, rate) in rates.into_iter().chain([("2", 2.0), ("0x10", 16.0), ("\"0.1\"", 0.1)]) {
            assert_eq!(value(&format!("optimizer.weights.lr={text}")), Value::Float(rate), "{text}");
        }
        let wholes = [("1e2", 100), ("01", 1), ("1_000", 1000), ("+7", 7), ("2.50e2", 250), ("3.0", 3), ("0xff", 255)];
        let large = [("9223372036854775807", i64::MAX), ("1E18", 10i64.pow(18)), ("-3", -3), ("100e-2", 1), ("0.0", 0)];
        for (text, number) in wholes.into_iter().chain(large) {
            assert_eq!(value(&format!("seed={text}")), Value::Integer(number), "{text}");
        }
        for (text, yes) in [("true", true), ("True", true), ("FALSE", false), ("\"false\"", false)] {
            assert_eq!(value(&format!("data.augment={text}")), Value::Boolean(yes), "{text}");
        }
        for text in ["3,5", "[3,5]", "[3, 5]", " 3 , 5 ", "[3, 5,]", "3e0,05"] {
            assert_eq!(value(&format!("train.milestones={text}")), list(&[3, 5]), "{text}");
        }
        assert_eq!((value("network.hidden=4"), value("network.hidden=[]")), (list(&[4]), list(&[])));
        for text in ["relu", "ReLU", "\"relu\"", "RELU"] {
            assert_eq!(value(&format!("activation.kind={text}")), Value::String("relu".to_owned()), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_says_what_to_type() {
        let cases = [
            ("train.epochs=many", "`train.epochs` = many: expected a whole number", "--set train.epochs=300"),
            ("train.epochs=1e2.5", "= 1e2.5", "--set train.epochs=300"),
            ("train.epochs=2.5", "= 2.5", "--set train.epochs=300"),
            ("train.epochs=", "= empty", "--set train.epochs=300"),
            ("train.epochs=1e99", "= 1e99", "--set train.epochs=300"),
            ("train.epochs=0x-3", "= 0x-3", "--set train.epochs=300"),
            ("seed=1__0", "= 1__0", "--set seed=0"),
            ("seed=_1", "= _1", "--set seed=0"),
            ("data.augment=yes", "= yes: expected true or false", "--set data.augment=true"),
            ("optimizer.weights.lr=0,1", "= 0,1: expected a number", "--set optimizer.weights.lr=0.1"),
            ("train.milestones=3;5", "= 3;5: expected a list", "--set train.milestones=150,225,262"),
            ("train.milestones=", "= empty", "--set train.milestones=150,225,262"),
            ("network.hidden=[4", "= [4:", "--set network.hidden=4,4"),
            ("activation.kind=spline", "= spline: expected one of bspline,", "relu"),
            ("name=", "= empty: expected a text", "--set name="),
            ("name=\" \"", "expected a text", "--set name="),
            ("sparsify.threshold=x", "= x", "--set sparsify.threshold=0.5"),
            ("seed=\u{1b}[31m", "= \\u{1b}[31m", "--set seed=0"),
            ("=3", "expected KEY=VALUE", "such as"),
            ("seed", "expected KEY=VALUE", "such as"),
        ];
        for (text, what, typed) in cases {
            let error = Setting::parse(text).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(typed), "{text}: {error}");
            assert!(!error.contains('\u{1b}'), "{text}");
        }
    }
}
