//! Where a guest's heap begins: in memory that the module is born with.
//!
//! The allocator of `std` asks for a page more at its first allocation. In a guest that lives for one
//! activity, that one growth costs more than everything else it does: the host has to change the
//! protection of its address space, twice, and tell every other CPU. This is the same allocator, with
//! an arena to spend first. Left out by `default-features = false`, for a component that brings an
//! allocator of its own.

#![allow(unsafe_code, reason = "an allocator is made of it")]

use core::alloc::{GlobalAlloc, Layout};
use core::cell::{Cell, UnsafeCell};

use dlmalloc::Dlmalloc;

/// What `dlmalloc` asks for first, if its first allocation is small.
const ARENA_BYTES: usize = 64 << 10;
const PAGE_BYTES: usize = 64 << 10;

#[global_allocator]
static HEAP: Heap =
    Heap(UnsafeCell::new(Dlmalloc::new_with_allocator(Pages { arena_used: Cell::new(false) })));

static ARENA: Arena = Arena(UnsafeCell::new([0; ARENA_BYTES]));

#[repr(align(16))]
struct Arena(UnsafeCell<[u8; ARENA_BYTES]>);

// SAFETY: a component has one thread.
unsafe impl Sync for Arena {}

struct Heap(UnsafeCell<Dlmalloc<Pages>>);

// SAFETY: a component has one thread.
unsafe impl Sync for Heap {}

// SAFETY: `Dlmalloc` keeps the contract of `GlobalAlloc`. One thread, and no allocator calls back into
// itself: no two exclusive references to it exist at a time.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).malloc(layout.size(), layout.align()) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        unsafe { (*self.0.get()).calloc(layout.size(), layout.align()) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        unsafe { (*self.0.get()).free(ptr, layout.size(), layout.align()) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        unsafe { (*self.0.get()).realloc(ptr, layout.size(), layout.align(), new_size) }
    }
}

/// Memory for the allocator: the arena, then whole pages.
struct Pages {
    arena_used: Cell<bool>,
}

// SAFETY: what is handed out is zero, ours alone, aligned to 16 bytes and never taken back.
unsafe impl dlmalloc::Allocator for Pages {
    fn alloc(&self, size: usize) -> (*mut u8, usize, u32) {
        if size <= ARENA_BYTES && !self.arena_used.replace(true) {
            return (ARENA.0.get().cast(), ARENA_BYTES, 0);
        }
        let pages = size.div_ceil(PAGE_BYTES);
        match core::arch::wasm32::memory_grow::<0>(pages) {
            usize::MAX => (core::ptr::null_mut(), 0, 0),
            before => (core::ptr::without_provenance_mut(before * PAGE_BYTES), pages * PAGE_BYTES, 0),
        }
    }

    fn remap(&self, _: *mut u8, _: usize, _: usize, _: bool) -> *mut u8 {
        core::ptr::null_mut()
    }

    fn free_part(&self, _: *mut u8, _: usize, _: usize) -> bool {
        false
    }

    fn free(&self, _: *mut u8, _: usize) -> bool {
        false
    }

    fn can_release_part(&self, _: u32) -> bool {
        false
    }

    fn allocates_zeros(&self) -> bool {
        true
    }

    fn page_size(&self) -> usize {
        PAGE_BYTES
    }
}
