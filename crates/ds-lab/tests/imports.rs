//! No files of a crate import each other in a circle. A `pub use` of a module above is its table of contents and no import.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Module = Vec<String>;

/// What a file names.
struct File {
    /// Paths of its imports and of its code.
    paths: Vec<Module>,
    /// Names that it gives to paths, re-exports included.
    names: Vec<(String, Module)>,
}

/// All files below a folder by their module, without those of tests.
fn files(folder: &Path, module: &Module, all: &mut BTreeMap<Module, File>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let inner = [module.as_slice(), std::slice::from_ref(&name)].concat();
        if path.is_dir() {
            files(&path, &inner, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "tests" {
            let of_folder = ["mod", "lib", "main"].contains(&name.as_str());
            all.insert(if of_folder { module.clone() } else { inner }, parse(&std::fs::read_to_string(&path).unwrap()));
        }
    }
}

fn parse(text: &str) -> File {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
    let lines: String = text.lines().map(|line| format!("\n{}", line.split("//").next().unwrap())).collect();
    let mut file = File { paths: Vec::new(), names: Vec::new() };
    for statement in lines.split(';') {
        // An import is the last of what stands before a semicolon.
        let start = ["\nuse ", "\npub use ", "\npub(crate) use ", "\npub(super) use "]
            .iter()
            .filter_map(|head| Some((statement.find(head)?, head.contains("pub"), head.len())))
            .min();
        let Some((at, is_public, head)) = start else {
            file.paths.extend(code_paths(statement));
            continue;
        };
        file.paths.extend(code_paths(&statement[..at]));
        for path in expand(&statement[at + head..]) {
            let (path, alias) =
                path.split_once(" as ").map_or((path.as_str(), None), |(path, alias)| (path, Some(alias)));
            let mut path: Module = path.split("::").map(|part| part.trim().to_owned()).collect();
            path.retain(|part| part != "self" && !part.is_empty());
            let Some(last) = path.last() else { continue };
            file.names.push((alias.unwrap_or(last).trim().to_owned(), path.clone()));
            if !is_public {
                file.paths.push(path);
            }
        }
    }
    file
}

/// `a::{b, c::{d, e}}` → `a::b`, `a::c::d`, `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((head, rest)) = tree.split_once('{') else { return vec![tree.trim().to_owned()] };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in inner.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if c == ',' && depth == 0 { parts.push(String::new()) } else { parts.last_mut().unwrap().push(c) }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| expand(part)).map(|part| format!("{}{part}", head.trim())).collect()
}

/// The paths of more than one part in code.
fn code_paths(code: &str) -> Vec<Module> {
    let words = code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    let paths = words.map(|word| word.trim_matches(':').split("::").map(str::to_owned).collect::<Module>());
    paths.filter(|path| path.len() > 1).collect()
}

struct Crate(BTreeMap<Module, File>);

impl Crate {
    /// A path of a module from the crate's root; `None` if it leads out of the crate.
    fn absolute(&self, from: &Module, path: &[String]) -> Option<Module> {
        let (mut base, mut rest) = (from.clone(), path);
        match path.first()?.as_str() {
            "crate" => return Some(path[1..].to_vec()),
            "super" => {
                while rest.first().is_some_and(|part| part == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            _ => {
                let child = [from.as_slice(), &path[..1]].concat();
                if !self.0.contains_key(&child) {
                    return None;
                }
            }
        }
        Some([base.as_slice(), rest].concat())
    }

    /// The module whose file has what a path names, through re-exports.
    fn defining(&self, path: &[String], depth: usize) -> Module {
        let mut module = Module::new();
        for (k, part) in path.iter().enumerate() {
            let child = [module.as_slice(), std::slice::from_ref(part)].concat();
            if self.0.contains_key(&child) {
                module = child;
                continue;
            }
            let names = self.0.get(&module).map_or(&[][..], |file| &file.names);
            let target = names.iter().find(|(name, _)| name == part).and_then(|(_, path)| self.absolute(&module, path));
            return match target.filter(|_| depth < 10) {
                Some(target) => self.defining(&[target.as_slice(), &path[k + 1..]].concat(), depth + 1),
                None => module,
            };
        }
        module
    }

    fn imports(&self, module: &Module) -> BTreeSet<Module> {
        let paths = self.0[module].paths.iter().filter_map(|path| self.absolute(module, path));
        paths.map(|path| self.defining(&path, 0)).filter(|target| target != module).collect()
    }
}

/// A circle of files in a folder of sources, if there is one.
fn circle(source: &Path) -> Option<String> {
    let mut all = BTreeMap::new();
    files(source, &Module::new(), &mut all);
    let sources = Crate(all);
    let mut left: BTreeMap<Module, BTreeSet<Module>> =
        sources.0.keys().map(|module| (module.clone(), sources.imports(module))).collect();
    // Files that import nothing that is left are in no circle.
    loop {
        let free: BTreeSet<Module> = left
            .iter()
            .filter(|(_, imports)| imports.iter().all(|import| !left.contains_key(import)))
            .map(|(m, _)| m.clone())
            .collect();
        if free.is_empty() {
            break;
        }
        left.retain(|module, _| !free.contains(module));
    }
    let mut path = vec![left.keys().next()?.clone()];
    loop {
        let next = left[path.last()?].iter().find(|import| left.contains_key(*import))?.clone();
        if let Some(start) = path.iter().position(|module| *module == next) {
            let names = path[start..].iter().chain([&next]).map(|module| module.join("::"));
            return Some(names.collect::<Vec<_>>().join(" -> "));
        }
        path.push(next);
    }
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for source in ["crates/ds-core/src", "crates/ds-nn/src", "crates/ds-lab/src", "experiments/reproduce/src"] {
        assert_eq!(circle(&root.join(source)), None, "{source}");
    }
}

#[test]
fn a_circle_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("lib.rs", "mod a;\nmod b;\nmod c;\n\npub use a::One;\n");
    write("a.rs", "\nuse crate::b::Two;\n\npub struct One(pub Two);\n");
    write("b.rs", "\nuse std::fmt;\nuse crate::{c, c::{Three as Third}};\n\npub struct Two(Third);\n");
    write("c.rs", "pub struct Three;\n");
    assert_eq!(circle(folder.path()), None);
    // Through the re-export, and in code without an import.
    write("c.rs", "\npub struct Three;\npub fn of(_: super::One) {}\n");
    assert_eq!(circle(folder.path()).unwrap(), "a -> b -> c -> a");
}
