//! No file of `src` imports another in a loop. The `use` lines are read, those of tests inside a
//! file left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Module path of a file, and what it imports.
type Imports = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// All paths of one `use`: `a::{b, c::d}` gives a::b and a::c::d.
fn paths(tree: &syn::UseTree, before: &[String], found: &mut Vec<Vec<String>>) {
    let with = |ident: &syn::Ident| [before, &[ident.to_string()]].concat();
    match tree {
        syn::UseTree::Path(path) => paths(&path.tree, &with(&path.ident), found),
        syn::UseTree::Name(name) => found.push(with(&name.ident)),
        syn::UseTree::Rename(name) => found.push(with(&name.ident)),
        syn::UseTree::Glob(_) => found.push(before.to_vec()),
        syn::UseTree::Group(group) => group.items.iter().for_each(|tree| paths(tree, before, found)),
    }
}

/// A path as it stands in module `of`, from the crate's root on.
fn from_root(of: &[String], path: &[String]) -> Vec<String> {
    let above = path.iter().take_while(|p| *p == "super").count();
    match path[0].as_str() {
        "crate" => path[1..].to_vec(),
        "self" => [of, &path[1..]].concat(),
        "super" => [&of[..of.len() - above.min(of.len())], &path[above..]].concat(),
        _ => [of, path].concat(),
    }
}

/// The imports between these files: (module path, text).
fn imports(files: &[(Vec<String>, String)]) -> Imports {
    let modules: BTreeSet<&Vec<String>> = files.iter().map(|f| &f.0).collect();
    let mut all = Imports::new();
    for (module, text) in files {
        let parsed = syn::parse_file(text).unwrap_or_else(|e| panic!("{}: {e}", module.join("::")));
        let mut found = Vec::new();
        for item in &parsed.items {
            if let syn::Item::Use(line) = item {
                paths(&line.tree, &[], &mut found);
            }
        }
        let imported = all.entry(module.clone()).or_default();
        for path in found.iter().map(|p| from_root(module, p)) {
            let file = (1..=path.len()).rev().map(|n| path[..n].to_vec()).find(|p| modules.contains(p));
            imported.extend(file.filter(|f| f != module));
        }
    }
    all
}

/// Files that import each other, directly or through others; none if there is no loop.
fn a_loop(imports: &Imports) -> Option<Vec<Vec<String>>> {
    let mut left = imports.clone();
    // A file that imports nothing which is left, or that nothing left imports, is in no loop.
    while !left.is_empty() {
        let free = |module: &Vec<String>, imported: &BTreeSet<Vec<String>>| {
            imported.iter().all(|m| !left.contains_key(m)) || left.values().all(|i| !i.contains(module))
        };
        let out: Vec<_> = left.iter().filter(|(m, i)| free(m, i)).map(|(m, _)| m.clone()).collect();
        if out.is_empty() {
            return Some(left.into_keys().collect());
        }
        left.retain(|m, _| !out.contains(m));
    }
    None
}

fn read(folder: &Path, module: &[String], files: &mut Vec<(Vec<String>, String)>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        let name = entry.file_stem().unwrap().to_str().unwrap().to_string();
        let inside = [module, std::slice::from_ref(&name)].concat();
        if entry.is_dir() {
            read(&entry, &inside, files);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            let is_folder = matches!(name.as_str(), "mod" | "lib" | "main");
            files.push((if is_folder { module.to_vec() } else { inside }, std::fs::read_to_string(&entry).unwrap()));
        }
    }
}

fn file(module: &str, text: &str) -> (Vec<String>, String) {
    (module.split("::").map(String::from).collect(), text.into())
}

#[test]
fn no_file_imports_another_in_a_loop() {
    let mut files = Vec::new();
    // The program's own file is a crate beside the library.
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &[], &mut files);
    files.retain(|(module, text)| !module.is_empty() || text.contains("pub mod graph;"));
    let imports = imports(&files);
    assert!(imports.len() > 100 && imports.values().map(BTreeSet::len).sum::<usize>() > 300);
    let names = |modules: Vec<Vec<String>>| modules.iter().map(|m| m.join("::")).collect::<Vec<_>>();
    assert_eq!(a_loop(&imports).map(names), None, "these files import each other, directly or through others");
}

#[test]
fn a_loop_is_found() {
    let plain = [
        file("a", "use crate::b::{c::One, d};\nuse std::sync::Arc;"),
        file("b", "mod c;\nmod d;\npub use c::One;"),
        file("b::c", "pub struct One;"),
        file("b::d", "use super::c::One;\n#[cfg(test)] mod tests { use crate::a::Two; }"),
    ];
    assert_eq!(a_loop(&imports(&plain)), None);
    for (module, line) in
        [("b::c", "use crate::a::Two;"), ("b::c", "use super::One;"), ("b::d", "use super::*;\nuse crate::a;")]
    {
        let mut looped = plain.clone();
        let at = looped.iter().position(|f| f.0.join("::") == module).unwrap();
        looped[at].1 = format!("{line}\n{}", looped[at].1);
        assert!(a_loop(&imports(&looped)).is_some(), "{module}: {line}");
    }
}
