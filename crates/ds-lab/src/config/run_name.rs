//! Names of runs and sweeps, which are also those of their directories.

/// The most bytes of a name: file systems take 255, and a run's directory adds its seed.
const LONGEST: usize = 200;

/// The rule for names that a name breaks, if it does.
pub(crate) fn broken_rule(name: &str) -> Option<&'static str> {
    let rules = [
        (name.trim().is_empty(), "a name that is not empty"),
        (name.len() > LONGEST, "a name of at most 200 bytes"),
        (name.contains(is_invisible), "a name without control characters"),
        (name.contains(['/', '\\']), "a name that can be a directory's, without / and \\"),
        (name.trim() != name, "a name without spaces before or after it"),
        (name.starts_with('.'), "a name without a dot before it"),
    ];
    rules.into_iter().find(|(is_broken, _)| *is_broken).map(|(_, rule)| rule)
}

/// Control characters, line separators, and marks that reorder the text around them.
fn is_invisible(c: char) -> bool {
    let is_mark = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    c.is_control() || is_mark
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_directories() {
        for name in ["resnet32", "a b", "2024-05-01", "λ=1e-5", "<a>: b", "a.b", "x".repeat(200).as_str()] {
            assert_eq!(broken_rule(name), None, "{name}");
        }
        for (names, part) in [
            (&["", " ", "\t"][..], "not empty"),
            (&["a\nb", "a\u{1b}[31m", "\u{0}", "a\u{7f}", "a\u{202e}b", "\u{feff}a", "a\u{2028}b"], "control"),
            (&["a/b", "..\\a"], "without / "),
            (&[" a", "a ", "\u{a0}a"], "spaces"),
            (&[".", "..", ".a"], "dot"),
        ] {
            for name in names {
                let rule = broken_rule(name).unwrap_or_else(|| panic!("{name:?} is allowed"));
                assert!(rule.contains(part), "{name:?}: {rule}");
            }
        }
        assert!(broken_rule(&"ä".repeat(101)).is_some_and(|rule| rule.contains("200 bytes")));
    }
}
