//! Compiles the kernel files in kernels/ with NVRTC to one CUBIN per architecture and one PTX.
//! Embeds the results and their sources.
//!
//! No GPU and no CUDA toolkit is needed. NVRTC is enough: from the toolkit, the loader's search
//! path or the PyPI wheel. Without NVRTC the build prints one line, and the program compiles
//! kernels at first use. With the feature `emulate`, the same files are also compiled as C++ for
//! the emulated driver.

#[path = "src/backend/cuda/kernel_files.rs"]
mod kernel_files;
#[allow(dead_code)]
#[path = "src/backend/cuda/nvrtc.rs"]
mod nvrtc;
#[path = "build/parameters/mod.rs"]
mod parameters;

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Architectures with a CUBIN of their own. A chip of 8.9 runs that of 8.6: NVRTC gives both the
/// same registers in every kernel. Chips of another generation compile the PTX.
const ARCHITECTURES: &str = "80,86,90a,100a,120";
/// Minimum architecture of the PTX.
const PTX: &str = "compute_80";

fn main() {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let out = PathBuf::from(std::env::var("OUT_DIR").expect("cargo sets it"));
    for variable in ["DMAP_NVRTC", "DMAP_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH", "VIRTUAL_ENV"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    println!("cargo:rerun-if-changed=kernels");
    println!("cargo:rerun-if-changed=src/backend/cuda/nvrtc.rs");
    println!("cargo:rerun-if-changed=src/backend/cuda/kernel_files.rs");
    println!("cargo:rerun-if-changed=build");
    // NVRTC is not watched: a missing file would rerun this script in every build. tools/nvrtc.sh
    // touches this script instead.
    let read = |extension| {
        let found = kernel_files::read(&root.join("kernels"), extension);
        found.unwrap_or_else(|(path, e)| panic!("{}: {e}", path.display()))
    };
    let (files, headers) = (read("cu"), read("cuh"));
    write_structs(&out, &files, &headers);
    let images = compile_all(&root, &out, &files, &headers);
    write_table(&out, &files, &headers, &images);
    if std::env::var_os("CARGO_FEATURE_EMULATE").is_some() {
        compile_emulated(&root, &out, &files);
    }
}

/// Writes kernels.rs: the parameter structs of the kernels in Rust.
fn write_structs(out: &Path, files: &[(String, String)], headers: &[(String, String)]) {
    let written = parameters::structs(files.iter().chain(headers))
        .and_then(|structs| parameters::rust(&structs, &parameters::kernels(files)?));
    std::fs::write(out.join("kernels.rs"), written.unwrap_or_else(|e| panic!("{e}"))).expect("OUT_DIR can be written");
}

struct Image {
    file: usize,
    architecture: String,
    /// The compressed image.
    path: PathBuf,
    log: String,
}

fn compile_all(root: &Path, out: &Path, files: &[(String, String)], headers: &[(String, String)]) -> Vec<Image> {
    let nvrtc = match nvrtc::Nvrtc::find(root) {
        Ok(nvrtc) => nvrtc,
        Err(reason) => {
            println!("cargo:warning=CUDA kernels are not compiled now but at first use: {reason}");
            return Vec::new();
        }
    };
    let supported = nvrtc.architectures();
    let listed = std::env::var("DMAP_CUDA_ARCHS").unwrap_or_else(|_| ARCHITECTURES.into());
    let number = |a: &str| a.trim_end_matches(char::is_alphabetic).parse().unwrap_or(0);
    let known = listed.split(',').map(str::trim).filter(|a| supported.contains(&number(a)));
    let architectures: Vec<String> = known.map(|a| format!("sm_{a}")).chain([PTX.to_string()]).collect();
    // The largest files come first, so that all cores finish at about the same time.
    let mut work: Vec<(usize, &String)> =
        (0..files.len()).flat_map(|f| architectures.iter().map(move |a| (f, a))).collect();
    work.retain(|(f, a)| is_for(&files[*f].1, a));
    work.sort_by_key(|(f, _)| files[*f].1.len());
    let (work, images, failures) = (Mutex::new(work), Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let headers_without_comments: Vec<_> = headers.iter().map(|(n, text)| (n, without_comments(text))).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((file, architecture)) = { work.lock().expect("no panic").pop() } {
                    let (name, source) = &files[file];
                    let mut hash = DefaultHasher::new();
                    (without_comments(source), &headers_without_comments, architecture, nvrtc.version).hash(&mut hash);
                    let stem = format!("{}.{architecture}.{:016x}", kernel_files::flat(name), hash.finish());
                    let [path, log_path] = ["deflated", "log"].map(|kind| out.join(format!("{stem}.{kind}")));
                    let cached = path.exists().then(|| std::fs::read_to_string(&log_path).ok()).flatten();
                    let log = match cached {
                        Some(log) => log,
                        None => match nvrtc.compile(name, source, headers, architecture) {
                            Ok(compiled) => {
                                std::fs::write(&path, deflated(&compiled.image)).expect("OUT_DIR can be written");
                                std::fs::write(&log_path, &compiled.log).expect("OUT_DIR can be written");
                                compiled.log
                            }
                            Err(log) => {
                                let message = format!("kernels/{name} for {architecture}:\n{log}");
                                failures.lock().expect("no panic").push(message);
                                continue;
                            }
                        },
                    };
                    let image = Image { file, architecture: architecture.clone(), path, log };
                    images.lock().expect("no panic").push(image);
                }
            });
        }
    });
    // Remarks of ptxas about wgmma that is serialised, or registers that are not reassigned. Both
    // halve the speed, so they fail the build.
    for image in &images.lock().expect("no panic")[..] {
        if let Some(remark) =
            image.log.lines().find(|l| ["C7508", "C7510", "C7518", "C7519"].iter().any(|c| l.contains(c)))
        {
            failures.lock().expect("no panic").push(format!("kernels/{}: {remark}", files[image.file].0));
        }
    }
    let failures = failures.into_inner().expect("no panic");
    assert!(failures.is_empty(), "kernels do not compile with NVRTC {:?}:\n{}", nvrtc.version, failures.join("\n"));
    let mut images = images.into_inner().expect("no panic");
    images.sort_by(|a, b| (a.file, &a.architecture).cmp(&(b.file, &b.architecture)));
    println!("cargo:rustc-env=DMAP_NVRTC_VERSION={}.{}", nvrtc.version.0, nvrtc.version.1);
    images
}

/// The lines of a kernel file without comments: a change of comments alone compiles nothing.
fn without_comments(text: &str) -> Vec<&str> {
    let code = text.lines().map(|line| line.split("//").next().unwrap_or_default().trim_end());
    code.filter(|line| !line.is_empty()).collect()
}

/// Whether a kernel file is compiled for an architecture. A first line such as `// chips: 90a,100a`
/// limits the file to these chips; without it the file is for all chips.
fn is_for(text: &str, architecture: &str) -> bool {
    let chips = text.lines().next().and_then(|line| line.strip_prefix("// chips:"));
    chips.is_none_or(|chips| chips.split(',').any(|chip| format!("sm_{}", chip.trim()) == architecture))
}

/// Writes images.rs: sources, headers, compiled images and the compiler's output.
fn write_table(out: &Path, files: &[(String, String)], headers: &[(String, String)], images: &[Image]) {
    let mut table = String::from("/// Every kernel file.\npub static SOURCES: &[Source] = &[\n");
    for (name, text) in files {
        writeln!(table, "    Source {{ name: {name:?}, text: {text:?} }},").expect("memory");
    }
    table.push_str("];\n/// What they include: (name, text).\npub static HEADERS: &[(&str, &str)] = &[\n");
    for (name, text) in headers {
        writeln!(table, "    ({name:?}, {text:?}),").expect("memory");
    }
    table.push_str("];\n/// Every image made at build time.\npub static IMAGES: &[Image] = &[\n");
    for Image { file, architecture, path, log } in images {
        writeln!(
            table,
            "    Image {{ file: {:?}, architecture: {architecture:?}, deflated: include_bytes!({path:?}), log: {log:?} }},",
            files[*file].0
        )
        .expect("memory");
    }
    table.push_str("];\n");
    std::fs::write(out.join("images.rs"), table).expect("OUT_DIR can be written");
}

/// Compresses an image to about a quarter of its size.
fn deflated(image: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(image).expect("memory");
    encoder.finish().expect("memory")
}

/// Compiles one object per kernel file. A table of their symbols keeps the linker from dropping
/// them.
fn compile_emulated(root: &Path, out: &Path, files: &[(String, String)]) {
    let mut registry = String::new();
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").opt_level(2).define("DMAP_EMULATE", None).include(root.join("kernels"));
    for flag in ["-march=native", "-fno-strict-aliasing", "-Wno-unknown-pragmas"] {
        build.flag(flag);
    }
    // The kernels with planted mistakes are for the test of the emulator itself.
    let names = files.iter().map(|(name, _)| name.as_str()).chain(["emulator/faults.cu"]);
    let mut symbols = Vec::new();
    for name in names {
        let symbol = format!("dmap_emulated_file_{}", name.trim_end_matches(".cu").replace('/', "_"));
        let wrapper = out.join(format!("{symbol}.cpp"));
        std::fs::write(&wrapper, format!("#define DMAP_EMULATED_FILE {symbol}\n#include \"{name}\"\n"))
            .expect("OUT_DIR can be written");
        build.file(wrapper);
        writeln!(registry, "extern int {symbol};").expect("memory");
        symbols.push(format!("&{symbol}"));
    }
    let table = format!("extern \"C\" {{ int* dmap_emulated_files[] = {{{}}}; }}", symbols.join(", "));
    for part in ["emulator", "warp", "warpgroup", "bulk"] {
        writeln!(registry, "#include \"emulator/{part}.cpp\"").expect("memory");
    }
    writeln!(registry, "{table}").expect("memory");
    let path = out.join("emulated_registry.cpp");
    std::fs::write(&path, registry).expect("OUT_DIR can be written");
    build.file(path).compile("dmap_emulated");
    link_stand_in(root, out);
}

/// Links the stand-in for libcuda: a shared library with the same objects.
fn link_stand_in(root: &Path, out: &Path) {
    let folder = out.join("stand_in");
    std::fs::create_dir_all(&folder).expect("OUT_DIR can be written");
    let mut link = cc::Build::new().cpp(true).std("c++20").opt_level(2).get_compiler().to_command();
    link.args(["-shared", "-Wl,-soname,libcuda.so", "-I"]).arg(root.join("kernels"));
    link.arg(root.join("kernels/emulator/libcuda.cpp")).arg("-Wl,--whole-archive").arg(out.join("libdmap_emulated.a"));
    link.arg("-Wl,--no-whole-archive").arg("-o").arg(folder.join("libcuda.so"));
    assert!(link.status().is_ok_and(|s| s.success()), "the stand-in for libcuda can't be linked: {link:?}");
    println!("cargo:rustc-env=DMAP_STAND_IN={}", folder.display());
}
