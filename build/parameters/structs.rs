// Reads the parameter structs of the kernel files.
//
// The grammar of a struct, after comments are removed:
//
//   struct NAME { FIELDS };
//   FIELDS: declarations `TYPE a, b[4];` and member functions, each on one line that starts with
//           DEVICE
//   TYPE:   const T* | T* | Either<T> | View | ViewOut | ViewEither | TensorMap | TensorMapOut
//           | StorageType | i64 | int | float | NAME of a struct
//
// A kernel reads `const T*`, View and TensorMap, and writes `T*`, ViewOut and TensorMapOut. For
// Either<T> and ViewEither the launch decides. The structs whose names end with Params are read,
// and the structs of their fields. Anything else in them is an error.

use super::comments::without_comments;
use std::collections::BTreeMap;

/// Structs by name: file, line, text between the braces.
type Bodies = BTreeMap<String, (String, usize, String)>;

/// Type of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `const T*`
    Read,
    /// `T*`
    Write,
    /// `Either<T>`
    Either,
    View,
    ViewOut,
    ViewEither,
    Map,
    MapOut,
    StorageType,
    I64,
    Int,
    Float,
    Struct(String),
}

/// A field, or the elements of an array.
#[derive(Debug, PartialEq)]
pub struct Field {
    pub name: String,
    pub kind: Kind,
    pub count: Option<usize>,
}

/// A struct of a kernel file.
#[derive(Debug)]
pub struct Struct {
    pub file: String,
    pub name: String,
    pub fields: Vec<Field>,
}

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && text.chars().all(is_part)
}

/// Parses one declaration without its semicolon. `structs` are the structs that may be types of
/// fields.
fn declaration(text: &str, structs: &Bodies) -> Result<Vec<Field>, String> {
    let unknown = || format!("`{text}` is not a declaration that is known here (see build/parameters/structs.rs)");
    let is_const = text.starts_with("const ");
    let rest = text.trim_start_matches("const ").trim_start();
    let split = rest.find(|c: char| c.is_whitespace() || c == '*').ok_or_else(unknown)?;
    let (word, mut declarators) = (&rest[..split], rest[split..].trim());
    // In `T* a` the star follows the type; in `T *a, *b` each name has its own.
    let is_pointer = declarators.starts_with('*');
    if is_pointer && !declarators.contains(',') {
        declarators = declarators[1..].trim_start();
    }
    let scalar = match word {
        "View" => Some(Kind::View),
        "ViewOut" => Some(Kind::ViewOut),
        "ViewEither" => Some(Kind::ViewEither),
        "TensorMap" => Some(Kind::Map),
        "TensorMapOut" => Some(Kind::MapOut),
        "StorageType" => Some(Kind::StorageType),
        "i64" => Some(Kind::I64),
        "int" => Some(Kind::Int),
        "float" => Some(Kind::Float),
        _ if word.starts_with("Either<") && word.ends_with('>') => Some(Kind::Either),
        _ if structs.contains_key(word) => Some(Kind::Struct(word.into())),
        _ => None,
    };
    let kind = match (is_pointer, is_const, scalar) {
        (true, true, _) => Kind::Read,
        (true, false, _) => Kind::Write,
        (false, false, Some(kind)) => kind,
        _ => return Err(unknown()),
    };
    let all_pointers = declarators.contains(',') && is_pointer;
    declarators
        .split(',')
        .map(|d| {
            let d = d.trim();
            let d = if all_pointers { d.strip_prefix('*').ok_or_else(unknown)?.trim_start() } else { d };
            let (name, count) = match d.split_once('[') {
                Some((name, rest)) => {
                    let count = rest.strip_suffix(']').and_then(|n| n.parse().ok()).ok_or_else(unknown)?;
                    (name, Some(count))
                }
                None => (d, None),
            };
            if !is_name(name) {
                return Err(unknown());
            }
            Ok(Field { name: name.into(), kind: kind.clone(), count })
        })
        .collect()
}

/// The fields between the braces of a struct. `line` is the line of the file where `body` starts;
/// an error has the line of the field.
fn fields(body: &str, mut line: usize, structs: &Bodies) -> Result<Vec<Field>, (usize, String)> {
    let mut all = Vec::new();
    let mut pending = String::new();
    for text in body.lines() {
        let text = text.trim();
        if !(pending.is_empty() && text.starts_with("DEVICE")) {
            let mut parts = text.split(';').peekable();
            while let Some(part) = parts.next() {
                pending.push_str(part);
                if parts.peek().is_some() {
                    all.extend(declaration(pending.trim(), structs).map_err(|e| (line, e))?);
                    pending.clear();
                } else if !pending.is_empty() {
                    pending.push(' ');
                }
            }
            pending = pending.trim_start().into();
        }
        line += 1;
    }
    if !pending.is_empty() {
        return Err((line, format!("`{}` does not end with a semicolon", pending.trim())));
    }
    Ok(all)
}

/// The parameter structs in kernel files and headers (name, text), and the structs of their fields.
/// Each struct comes after the structs that it contains.
pub fn structs<'a>(files: impl Iterator<Item = &'a (String, String)>) -> Result<Vec<Struct>, String> {
    let mut bodies = Bodies::new();
    let mut wanted = Vec::new();
    for (file, text) in files {
        let text = without_comments(text);
        let mut at = 0;
        while let Some(start) = text[at..].find("struct ").map(|i| at + i) {
            at = start + "struct ".len();
            let Some(brace) = text[at..].find(['{', ';', '<', '(']).map(|i| at + i) else { break };
            let name = text[at..brace].trim();
            let starts_line = start == 0 || text[..start].ends_with('\n');
            if !(text[brace..].starts_with('{') && starts_line && is_name(name)) {
                continue;
            }
            let line = 1 + text[..brace].matches('\n').count();
            let end = text[brace..].find("};").ok_or_else(|| format!("kernels/{file}:{line}: {name} has no end"))?;
            let body = text[brace + 1..brace + end].to_string();
            let before = bodies.insert(name.to_string(), (file.clone(), line, body));
            if name.ends_with("Params") {
                if let Some((other, ..)) = before {
                    return Err(format!("kernels/{file}:{line}: {name} stands in kernels/{other} too; rename one"));
                }
                wanted.push(name.to_string());
            }
        }
    }
    let mut all = Vec::new();
    for name in &wanted {
        add_struct(name, &bodies, &mut all)?;
    }
    Ok(all)
}

fn add_struct(name: &str, bodies: &Bodies, all: &mut Vec<Struct>) -> Result<(), String> {
    if all.iter().any(|s| s.name == name) {
        return Ok(());
    }
    let (file, line, body) = &bodies[name];
    let fields = fields(body, *line, bodies).map_err(|(line, e)| format!("kernels/{file}:{line}: {name}: {e}"))?;
    for field in &fields {
        if let Kind::Struct(inner) = &field.kind {
            add_struct(inner, bodies, all)?;
        }
    }
    all.push(Struct { file: file.clone(), name: name.into(), fields });
    Ok(())
}
