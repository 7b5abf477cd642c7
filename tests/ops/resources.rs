//! What NVRTC made of the kernels: every one is in every image, none spills where it counts, and
//! the committed table is that of this source.
//!
//!     DMAP_WRITE_RESOURCES=1 cargo test --release --features emulate --test ops emulated
//!
//! writes kernels/resources.tsv anew.

use dmap::backend::cuda::emulated::{EmulatedChip, kernels, threads};
use dmap::backend::cuda::images::{NVRTC_VERSION, Resources, resources};
use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = "kernels/resources.tsv";
const COLUMNS: &str = "kernel\tarchitecture\tthreads\tregisters\tspilled\tshared\toccupancy";

/// By kernel and by what a block may ask for: bytes of shared memory in the largest launch.
type Shared = BTreeMap<String, BTreeMap<usize, usize>>;

fn is_small(architecture: &str) -> bool {
    ["sm_86", "sm_120"].contains(&architecture)
}

/// Warps that a multiprocessor holds at most, and how many of them registers and `shared` bytes of
/// this kernel allow.
fn occupancy(r: &Resources, threads: usize, shared: usize) -> (usize, usize) {
    let small = is_small(r.architecture);
    let kib = if small {
        100
    } else if r.architecture == "sm_80" {
        164
    } else {
        228
    };
    let most = if small { 48 } else { 64 };
    // The driver keeps 1 KiB of every block's.
    let blocks = (65536 / (r.registers.next_multiple_of(8) * threads)).min((kib << 10) / (shared + 1024));
    (most, (blocks * threads / 32).min(most))
}

fn table(shared: &Shared) -> String {
    let mut text = format!(
        "# Registers, spilled bytes, bytes of shared memory in the largest launch of the case table, and the share of warps that these allow, by \
         NVRTC {}; tests/ops/resources.rs writes this and reads it whole: long because it has a row per kernel and architecture\n{COLUMNS}\n",
        NVRTC_VERSION.unwrap_or("none")
    );
    for r in resources() {
        let chip = match r.architecture {
            "sm_80" => EmulatedChip::Ampere,
            small if is_small(small) => EmulatedChip::Ada,
            _ => EmulatedChip::Hopper,
        };
        let on_chip = chip.chip().shared_bytes;
        let known = shared.get(&r.kernel).and_then(|known| known.get(&on_chip).or(known.values().next()));
        let (threads, shared) = (threads(&r.kernel), known.copied().unwrap_or_default());
        let (most, warps) = occupancy(&r, threads, shared);
        let row = format!("{}\t{}\t{threads}\t{}\t{}\t{shared}", r.kernel, r.architecture, r.registers, r.spilled);
        text += &format!("{row}\t{} %\n", 100 * warps / most);
    }
    text
}

#[test]
fn hot_kernels_keep_to_their_registers() {
    let all = resources();
    if all.is_empty() {
        println!("not checked: this build had no NVRTC");
        return;
    }
    let named: BTreeSet<_> = kernels().into_iter().filter(|k| !k.starts_with("fault_")).collect();
    let compiled: BTreeSet<_> = all.iter().map(|r| r.kernel.clone()).collect();
    assert_eq!(compiled, named, "the GPU images and the emulator have the same kernels");
    let hot = |k: &str| k.contains("mma") || k.contains("_wide_") || k.starts_with("group_norm");
    let spilling: Vec<_> = all.iter().filter(|r| hot(&r.kernel) && r.spilled > 0).collect();
    let list: Vec<_> = spilling.iter().map(|r| format!("{} {} {}", r.kernel, r.architecture, r.spilled)).collect();
    assert!(spilling.is_empty(), "spilled bytes: {list:?}");
}

/// Compares the table with what is committed, when every kernel of the case table has run; `shared`
/// is what their launches had.
pub fn check_table(shared: &Shared) {
    if resources().is_empty() {
        println!("not checked: this build had no NVRTC");
        return;
    }
    let found = table(shared);
    if std::env::var_os("DMAP_WRITE_RESOURCES").is_some() {
        std::fs::write(TABLE, &found).unwrap();
    }
    let committed = std::fs::read_to_string(TABLE).unwrap();
    // Another NVRTC, or another choice of architectures, allocates otherwise: only the spills count
    // then.
    let header = |t: &str| t.lines().next().map(String::from);
    if header(&committed) == header(&found) && std::env::var_os("DMAP_CUDA_ARCHS").is_none() {
        assert!(committed == found, "{TABLE} is not that of these kernels: write it anew (see tests/ops/resources.rs)");
    }
}
