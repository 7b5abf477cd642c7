//! Ends the process where one allocation is larger than any input may cause. The limit of libFuzzer
//! itself needs a sanitizer.

use std::alloc::{GlobalAlloc, Layout, System};

/// Bytes that one allocation may take.
const MOST: usize = 1 << 30;

struct Limited;

#[global_allocator]
static ALLOCATOR: Limited = Limited;

fn check(bytes: usize) {
    if bytes > MOST {
        // Nothing here may allocate, or unwind.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"an allocation of more than 1 GiB\n");
        std::process::abort();
    }
}

// SAFETY: all work is that of the system's allocator.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        check(size);
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        unsafe { System.dealloc(at, layout) }
    }
}
