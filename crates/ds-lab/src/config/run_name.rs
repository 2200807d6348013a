//! Names of runs and sweeps, which are also those of their directories on every system.

/// The most bytes of a name: file systems take 255, and a run's directory adds its seed.
const LONGEST: usize = 200;

/// What Windows keeps for devices, with any ending.
const RESERVED: [&str; 4] = ["con", "prn", "aux", "nul"];

/// The rule for names that a name breaks, if it does.
pub(crate) fn broken_rule(name: &str) -> Option<&'static str> {
    let rules = [
        (name.trim().is_empty(), "a name that is not empty"),
        (name.len() > LONGEST, "a name of at most 200 bytes"),
        (name.contains(is_invisible), "a name without control characters"),
        (
            name.contains(['/', '\\', '<', '>', ':', '"', '|', '?', '*']),
            "a name that can be a directory's, without / \\ < > : \" | ? *",
        ),
        (name.trim() != name, "a name without spaces before or after it"),
        (name.starts_with('.') || name.ends_with('.'), "a name without a dot before or after it"),
        (is_reserved(name), "a name that Windows does not reserve for a device, as it does CON, NUL or COM1"),
    ];
    rules.into_iter().find(|(is_broken, _)| *is_broken).map(|(_, rule)| rule)
}

/// Control characters, line separators, and marks that reorder the text around them.
fn is_invisible(c: char) -> bool {
    let is_mark = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    c.is_control() || is_mark
}

fn is_reserved(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_lowercase();
    let port = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    RESERVED.contains(&stem.as_str()) || port.is_some_and(|port| matches!(port.as_bytes(), [b'0'..=b'9']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_directories_on_every_system() {
        for name in ["resnet32", "a b", "2024-05-01", "λ=1e-5", "console", "com10", "a.b", "x".repeat(200).as_str()] {
            assert_eq!(broken_rule(name), None, "{name}");
        }
        for (names, part) in [
            (&["", " ", "\t"][..], "not empty"),
            (&["a\nb", "a\u{1b}[31m", "\u{0}", "a\u{7f}", "a\u{202e}b", "\u{feff}a", "a\u{2028}b"], "control"),
            (&["a/b", "..\\a", "a:b", "a*", "<a>", "a|b", "\"a\"", "a?"], "without / "),
            (&[" a", "a ", "\u{a0}a"], "spaces"),
            (&[".", "..", ".a", "a."], "dot"),
            (&["CON", "nul", "Aux.txt", "com1", "LPT9.a", "prn "], ""),
        ] {
            for name in names {
                let rule = broken_rule(name).unwrap_or_else(|| panic!("{name:?} is allowed"));
                assert!(rule.contains(part), "{name:?}: {rule}");
            }
        }
        assert!(broken_rule(&"ä".repeat(101)).is_some_and(|rule| rule.contains("200 bytes")));
        assert!(broken_rule("NUL").is_some_and(|rule| rule.contains("Windows")));
    }
}
