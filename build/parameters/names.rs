// Finds the entry points of the kernel files: calls of KERNEL in a file and in the macros that it
// uses.

use super::comments::without_comments;
use std::collections::BTreeMap;

/// An entry point: `KERNEL(name, parameters, threads, blocks)`.
#[derive(Debug, PartialEq)]
pub struct Kernel {
    pub file: String,
    pub name: String,
    pub parameters: String,
    /// The name is written in the file and not composed by a macro.
    pub is_literal: bool,
}

/// `#define NAME(parameters) body`
struct Macro {
    parameters: Vec<String>,
    body: String,
}

/// The arguments of a call and its length in bytes. The text starts at the opening parenthesis.
fn arguments(text: &str) -> Option<(Vec<String>, usize)> {
    let (mut depth, mut all, mut from) = (0, Vec::new(), 1);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 1 && c == ',' || depth == 0 {
            all.push(text[from..i].trim().to_string());
            from = i + 1;
        }
        if depth == 0 {
            return Some((all, i + 1));
        }
    }
    None
}

/// The body of a macro with its parameters replaced by arguments.
fn substituted(found: &Macro, arguments: &[String]) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in found.body.chars().chain(['\n']) {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        let argument = found.parameters.iter().position(|p| *p == word).and_then(|i| arguments.get(i));
        out.push_str(argument.unwrap_or(&word));
        word.clear();
        out.push(c);
    }
    out.split("##").collect::<Vec<_>>().join("")
}

/// Finds the calls of `KERNEL` in a text and in the macros that it uses.
fn calls(text: &str, macros: &BTreeMap<String, Macro>, is_literal: bool, found: &mut Vec<(Vec<String>, bool)>) {
    let mut at = 0;
    while let Some(open) = text[at..].find('(').map(|i| at + i) {
        let from = text[..open].rfind(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).map_or(0, |i| i + 1);
        let name = &text[from..open];
        at = open + 1;
        let known = macros.get(name);
        if name != "KERNEL" && known.is_none() {
            continue;
        }
        let Some((arguments, _)) = arguments(&text[open..]) else { continue };
        match known {
            Some(known) => calls(&substituted(known, &arguments), macros, false, found),
            None => found.push((arguments, is_literal)),
        }
    }
}

/// The entry points of kernel files.
pub fn kernels(files: &[(String, String)]) -> Result<Vec<Kernel>, String> {
    let mut all = Vec::new();
    for (file, text) in files {
        let text = without_comments(text).replace("\\\n", " ");
        let mut macros = BTreeMap::new();
        let mut plain = String::new();
        for line in text.lines() {
            let Some(define) = line.strip_prefix("#define ") else {
                plain += line;
                plain.push('\n');
                continue;
            };
            let Some(open) = define.find('(') else { continue };
            if let Some((parameters, end)) = arguments(&define[open..]) {
                macros.insert(define[..open].to_string(), Macro { parameters, body: define[open + end..].to_string() });
            }
        }
        let mut found = Vec::new();
        calls(&plain, &macros, true, &mut found);
        for (arguments, is_literal) in found {
            let [name, parameters, ..] = &arguments[..] else {
                return Err(format!("kernels/{file}: KERNEL({}) has no parameters", arguments.join(", ")));
            };
            let [name, parameters] = [name, parameters].map(String::from);
            all.push(Kernel { file: file.clone(), name, parameters, is_literal });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(twice) = all.windows(2).find(|k| k[0].name == k[1].name) {
        return Err(format!("kernels/{} and kernels/{} both have {}", twice[0].file, twice[1].file, twice[0].name));
    }
    Ok(all)
}
