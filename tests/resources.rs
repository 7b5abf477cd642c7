//! What NVRTC made of the kernels: every one is in every image, none spills where it counts, and the committed table
//! is that of this source.
//!
//!     DMAP_WRITE_RESOURCES=1 cargo test --release --features emulate --test resources
//!
//! writes kernels/resources.tsv anew.
#![cfg(feature = "emulate")]

use dmap::backend::cuda::emulated::{kernels, threads};
use dmap::backend::cuda::images::{NVRTC_VERSION, Resources, resources};
use std::collections::BTreeSet;

const TABLE: &str = "kernels/resources.tsv";

/// Warps that a multiprocessor holds at most, and how many of them the registers of this kernel allow.
fn occupancy(r: &Resources, threads: usize) -> (usize, usize) {
    let most = if ["sm_86", "sm_89", "sm_120"].contains(&r.architecture) { 48 } else { 64 };
    let blocks = 65536 / (r.registers.next_multiple_of(8) * threads);
    (most, (blocks * threads / 32).min(most))
}

fn table() -> String {
    let mut text = format!(
        "# Registers, spilled bytes and the share of warps that the registers allow, by NVRTC {}; tests/resources.rs writes this, a row \
         per kernel and architecture\n\
         kernel\tarchitecture\tthreads\tregisters\tspilled\toccupancy\n",
        NVRTC_VERSION.unwrap_or("none")
    );
    for r in resources() {
        let threads = threads(&r.kernel);
        let (most, warps) = occupancy(&r, threads);
        let share = 100 * warps / most;
        text += &format!("{}\t{}\t{threads}\t{}\t{}\t{share} %\n", r.kernel, r.architecture, r.registers, r.spilled);
    }
    text
}

#[test]
fn hot_kernels_keep_to_their_registers_and_the_table_is_up_to_date() {
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
    let found = table();
    if std::env::var_os("DMAP_WRITE_RESOURCES").is_some() {
        std::fs::write(TABLE, &found).unwrap();
    }
    let committed = std::fs::read_to_string(TABLE).unwrap();
    // Another NVRTC, or another choice of architectures, allocates otherwise: only the spills count then.
    let header = |t: &str| t.lines().next().map(String::from);
    if header(&committed) == header(&found) && std::env::var_os("DMAP_CUDA_ARCHS").is_none() {
        assert!(committed == found, "{TABLE} is not that of these kernels: write it anew (see this file's head)");
    }
}
