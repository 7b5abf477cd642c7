//! The program as a user meets it: what it writes, says and refuses, its exit codes, its pages and
//! its benchmarks.

mod compare;
mod eval_set;
mod folder;
mod page;
mod pages;
mod restore;
