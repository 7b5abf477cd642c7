//! The program as a user meets it: what it writes, says and refuses, its exit codes, its pages and
//! its benchmarks.

mod eval_set;
mod folder;
mod pages;
mod restore;
