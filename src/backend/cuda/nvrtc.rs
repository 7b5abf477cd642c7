// Compiles a kernel file with NVRTC, without a GPU. build.rs includes this file; the program uses
// it to compile at first use if the build had no NVRTC.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

type Handle = *mut c_void;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;

/// A loaded NVRTC library.
pub struct Nvrtc {
    library: libloading::Library,
    /// (major, minor)
    pub version: (i32, i32),
}

/// A kernel file compiled to a CUBIN or PTX, and the compiler's output.
pub struct Compiled {
    pub image: Vec<u8>,
    pub log: String,
}

/// Paths to try for NVRTC, in order: `DMAP_NVRTC`, the CUDA toolkit, the loader's search path, the
/// PyPI wheel in `.venv` under `root` or in the active environment.
pub fn candidates(root: &Path) -> Vec<PathBuf> {
    if let Some(file) = std::env::var_os("DMAP_NVRTC") {
        return vec![file.into()];
    }
    let mut found = Vec::new();
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].iter().filter_map(std::env::var_os).map(PathBuf::from);
    for toolkit in toolkits.chain([PathBuf::from("/usr/local/cuda")]) {
        found.extend(libraries_in(&toolkit.join("lib64")));
    }
    found.extend(["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"].map(PathBuf::from));
    let environments = [Some(root.join(".venv")), std::env::var_os("VIRTUAL_ENV").map(PathBuf::from)];
    for environment in environments.into_iter().flatten() {
        let lib = environment.join("lib");
        let pythons = std::fs::read_dir(lib).into_iter().flatten().flatten().map(|e| e.path());
        for nvidia in pythons.map(|p| p.join("site-packages/nvidia")) {
            for part in ["cu13/lib", "cuda_nvrtc/lib"] {
                found.extend(libraries_in(&nvidia.join(part)));
            }
        }
    }
    found
}

fn libraries_in(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let is_nvrtc = |p: &PathBuf| {
        let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.starts_with("libnvrtc.so") && !name.contains(".alt")
    };
    files.filter(is_nvrtc).take(1).collect()
}

impl Nvrtc {
    /// Opens the first of the `candidates` that loads.
    pub fn find(root: &Path) -> Result<Nvrtc, String> {
        let places = candidates(root);
        places.iter().find_map(|path| Nvrtc::open(path).ok()).ok_or_else(|| {
            "NVRTC was not found: set DMAP_NVRTC, install the CUDA toolkit, or run pip install nvidia-cuda-nvrtc in .venv".into()
        })
    }

    fn open(path: &Path) -> Result<Nvrtc, String> {
        // NVRTC finds the wheel's builtins library only if it is already open under its own path
        // with global symbols.
        if let Some(folder) = path.parent().filter(|f| f.is_absolute()) {
            let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
            for builtins in files.filter(|p| p.to_string_lossy().contains("libnvrtc-builtins.so")) {
                use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
                // SAFETY: a library of NVIDIA without critical initialisers; it stays open until
                // the process ends.
                if let Ok(library) = unsafe { Library::open(Some(&builtins), RTLD_NOW | RTLD_GLOBAL) } {
                    std::mem::forget(library);
                }
            }
        }
        // SAFETY: as above; the signatures are the ones in nvrtc.h, unchanged since version 11.
        unsafe {
            let library = libloading::Library::new(path).map_err(|e| e.to_string())?;
            let mut version = (0, 0);
            library
                .get::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int>(b"nvrtcVersion")
                .map_err(|e| e.to_string())?(&mut version.0, &mut version.1);
            Ok(Nvrtc { library, version })
        }
    }

    /// Architectures that this NVRTC compiles for, as 80, 90, ...
    pub fn architectures(&self) -> Vec<i32> {
        // SAFETY: the second call fills as many entries as the first call counted.
        unsafe {
            let Ok(count_of) =
                self.library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"nvrtcGetNumSupportedArchs")
            else {
                return Vec::new();
            };
            let mut count = 0;
            count_of(&mut count);
            let mut all = vec![0; count.max(0) as usize];
            if let Ok(get) = self.library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"nvrtcGetSupportedArchs") {
                get(all.as_mut_ptr());
            }
            all
        }
    }

    /// Compiles `source` for `architecture`: `sm_90a` gives a CUBIN, `compute_80` gives PTX. The
    /// source includes `headers` (name, text) by name. An error is the compiler's log, with file
    /// and line.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(String, String)],
        architecture: &str,
    ) -> Result<Compiled, String> {
        let text = |s: &str| CString::new(s).map_err(|e| e.to_string());
        let (source, file) = (text(source)?, text(name)?);
        let names = headers.iter().map(|h| text(&h.0)).collect::<Result<Vec<_>, _>>()?;
        let bodies = headers.iter().map(|h| text(&h.1)).collect::<Result<Vec<_>, _>>()?;
        let options = [format!("--gpu-architecture={architecture}"), "--std=c++20".into(), "--ptxas-options=-v".into()];
        let options = options.iter().map(|o| text(o)).collect::<Result<Vec<_>, _>>()?;
        let pointers = |all: &[CString]| all.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (names, bodies, options) = (pointers(&names), pointers(&bodies), pointers(&options));
        // SAFETY: every pointer lives until the end of this block; the library itself gives the
        // sizes.
        unsafe {
            let symbol = |e: libloading::Error| e.to_string();
            let create = self.library.get::<Create>(b"nvrtcCreateProgram").map_err(symbol)?;
            let compile = self.library.get::<Compile>(b"nvrtcCompileProgram").map_err(symbol)?;
            let destroy = self
                .library
                .get::<unsafe extern "C" fn(*mut Handle) -> c_int>(b"nvrtcDestroyProgram")
                .map_err(symbol)?;
            let bytes = |size: &[u8], get: &[u8], handle: Handle| -> Result<Vec<u8>, String> {
                let (size, get) =
                    (self.library.get::<Size>(size).map_err(symbol)?, self.library.get::<Get>(get).map_err(symbol)?);
                let mut count = 0;
                size(handle, &mut count);
                let mut out = vec![0u8; count.max(1)];
                get(handle, out.as_mut_ptr().cast());
                out.truncate(count);
                Ok(out)
            };
            let mut handle: Handle = std::ptr::null_mut();
            let count = headers.len() as c_int;
            if create(&mut handle, source.as_ptr(), file.as_ptr(), count, bodies.as_ptr(), names.as_ptr()) != 0 {
                return Err(format!("{name}: NVRTC could not start"));
            }
            let failed = compile(handle, options.len() as c_int, options.as_ptr()) != 0;
            let log = bytes(b"nvrtcGetProgramLogSize", b"nvrtcGetProgramLog", handle)?;
            let log = CStr::from_bytes_until_nul(&log).map(|l| l.to_string_lossy().into_owned()).unwrap_or_default();
            let image = if failed {
                Err(log.clone())
            } else if architecture.starts_with("sm_") {
                bytes(b"nvrtcGetCUBINSize", b"nvrtcGetCUBIN", handle)
            } else {
                bytes(b"nvrtcGetPTXSize", b"nvrtcGetPTX", handle)
            };
            destroy(&mut handle);
            Ok(Compiled { image: image?, log })
        }
    }
}
