// Writes the parameter structs and their kernels in Rust.

use super::names::Kernel;
use super::structs::{Kind, Struct};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Rust type of a field, its alignment in bytes, and the method of `Params` that writes it.
fn in_rust(kind: &Kind, alignments: &BTreeMap<&str, usize>) -> (String, usize, &'static str) {
    let (name, alignment, method) = match kind {
        Kind::Read => ("Place", 8, "read"),
        Kind::Write => ("Place", 8, "write"),
        Kind::Either => ("Either", 8, "either"),
        Kind::View => ("Place", 8, "view"),
        Kind::ViewOut => ("Place", 8, "view_out"),
        Kind::ViewEither => ("Either", 8, "view_either"),
        Kind::Map => ("Option<TensorMap>", 64, "map"),
        Kind::MapOut => ("Option<TensorMap>", 64, "map_out"),
        Kind::StorageType => ("Dtype", 8, "dtype"),
        Kind::I64 => ("usize", 8, "i64"),
        Kind::Int => ("usize", 4, "i32"),
        Kind::Float => ("f32", 4, "f32"),
        Kind::Struct(name) => (&name[..], alignments[&name[..]], "structure"),
    };
    (name.into(), alignment, method)
}

/// The Rust structs with named fields, and the kernels that take them.
pub fn rust(structs: &[Struct], kernels: &[Kernel]) -> Result<String, String> {
    let mut out = String::new();
    let mut alignments = BTreeMap::new();
    for s in structs {
        let fields: Vec<_> = s.fields.iter().map(|f| (f, in_rust(&f.kind, &alignments))).collect();
        let alignment = fields.iter().map(|(_, (_, alignment, _))| *alignment).max().unwrap_or(1);
        let mut line = |text: String| writeln!(out, "{text}").expect("memory");
        line(format!(
            "/// `struct {}` of kernels/{}.\n#[derive(Clone, Copy)]\npub struct {} {{",
            s.name, s.file, s.name
        ));
        for (f, (ty, ..)) in &fields {
            let ty = f.count.map_or(ty.clone(), |count| format!("[{ty}; {count}]"));
            line(format!("    pub {}: {ty},", f.name));
        }
        line(format!("}}\nimpl Fields for {} {{\n    const ALIGNMENT: usize = {alignment};", s.name));
        line("    fn put(self, mut params: Params) -> Params {".into());
        for (f, (_, _, method)) in &fields {
            line(match f.count {
                Some(_) => {
                    format!("        params = self.{}.into_iter().fold(params, |p, v| p.{method}(v));", f.name)
                }
                None => format!("        params = params.{method}(self.{});", f.name),
            });
        }
        line("        params\n    }\n}".into());
        let taking: Vec<_> = kernels.iter().filter(|k| k.parameters == s.name).collect();
        if !taking.is_empty() {
            line(format!(
                "impl Parameters for {} {{\n    const KERNELS: &'static [(&'static str, &'static str)] = &[",
                s.name
            ));
            for k in taking {
                line(format!("        ({:?}, {:?}),", k.file.trim_end_matches(".cu"), k.name));
            }
            line("    ];\n}".into());
        }
        alignments.insert(&s.name[..], alignment);
    }
    for k in kernels {
        if !alignments.contains_key(&k.parameters[..]) {
            return Err(format!("kernels/{}: {} takes {}, which no kernel file has", k.file, k.name, k.parameters));
        }
        if k.is_literal {
            let (file, constant) = (k.file.trim_end_matches(".cu"), k.name.to_uppercase());
            writeln!(out, "pub const {constant}: Kernel<{}> = Kernel::new({file:?}, {:?});", k.parameters, k.name)
                .expect("memory");
        }
    }
    Ok(out)
}
