//! The parameter structs and names of kernels that build.rs reads out of the kernel files.

#[path = "../build/parameters/mod.rs"]
mod parameters;

use parameters::{Kind, kernels, rust, structs};

fn file(text: &str) -> Vec<(String, String)> {
    vec![("a/b.cu".into(), text.into())]
}

#[test]
fn a_struct_gets_a_field_for_each_declarator() {
    let text = "struct Part { i64 item; // of\n int row, head;\n    DEVICE i64 start() const { return item; }\n};\n\
                struct AParams { /* out */ ViewOut y; View x[4]; const float* partial; void *a, *b;\n    Either<float> m;\n\
                Part q, k;\n TensorMapOut map; StorageType x_type; float eps; };\n";
    let found = structs(file(text).iter()).unwrap();
    assert_eq!(found.iter().map(|s| &s.name[..]).collect::<Vec<_>>(), ["Part", "AParams"]);
    let fields: Vec<_> = found[1].fields.iter().map(|f| (&f.name[..], f.kind.clone(), f.count)).collect();
    let part = Kind::Struct("Part".into());
    let expected = [
        ("y", Kind::ViewOut, None),
        ("x", Kind::View, Some(4)),
        ("partial", Kind::Read, None),
        ("a", Kind::Write, None),
        ("b", Kind::Write, None),
        ("m", Kind::Either, None),
        ("q", part.clone(), None),
        ("k", part, None),
        ("map", Kind::MapOut, None),
        ("x_type", Kind::StorageType, None),
        ("eps", Kind::Float, None),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn what_is_not_known_is_refused_with_file_and_line() {
    for (line, declaration) in [
        (2, "double x;"),
        (2, "unsigned int x;"),
        (2, "int x = 3;"),
        (2, "int x[N];"),
        (2, "int x : 4;"),
        (2, "const int x;"),
        (2, "float** x;"),
        (2, "void *a, b;"),
        (2, "Missing x;"),
        (3, "int x;\n    u32 y;"),
        (3, "int x"),
    ] {
        let error = structs(file(&format!("struct AParams {{\n    {declaration}\n}};\n")).iter()).unwrap_err();
        assert!(error.starts_with(&format!("kernels/a/b.cu:{line}: AParams: ")), "{declaration}: {error}");
    }
    let twice = "struct AParams { int x; };\nstruct AParams { int y; };\n";
    assert!(
        structs(file(twice).iter()).unwrap_err().contains("kernels/a/b.cu:2: AParams stands in kernels/a/b.cu too")
    );
}

#[test]
fn kernels_that_macros_name_are_found() {
    let text = "KERNEL(plain, AParams, 32 * (1 + 1), 4) { }\n\
                #define ONE(type, form, n) \\\n    KERNEL(a_##type##_##n##x8_##form, AParams, n, 1) { f<n, 2>(p); }\n\
                #define ALL(type) \\\n    ONE(type, 3x3, 128) \\\n    /* a */ ONE(type, type##s, 64)\n\
                ALL(f16)\n// ALL(bf16)\n";
    let found = kernels(&file(text)).unwrap();
    let names: Vec<_> = found.iter().map(|k| (&k.name[..], &k.parameters[..], k.is_literal)).collect();
    let expected =
        [("a_f16_128x8_3x3", "AParams", false), ("a_f16_64x8_f16s", "AParams", false), ("plain", "AParams", true)];
    assert_eq!(names, expected);
    let of = structs(file("struct AParams { int n; };\n").iter()).unwrap();
    let text = rust(&of, &found).unwrap();
    assert!(text.contains("pub const PLAIN: Kernel<AParams> = Kernel::new(\"a/b\", \"plain\");"), "{text}");
    assert!(!text.contains("pub const A_F16"), "{text}");
    assert!(rust(&[], &found).unwrap_err().contains("kernels/a/b.cu: a_f16_128x8_3x3 takes AParams, which no"));
    let twice = file("KERNEL(a, AParams, 1, 1) {}\nKERNEL(a, AParams, 1, 1) {}\n");
    assert!(kernels(&twice).unwrap_err().contains("both have a"));
}
