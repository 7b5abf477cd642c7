//! Inputs as users have them, and what the program must say or compute for each: one table per kind
//! of input.
//!
//! A row is an input, the expected exit code and a phrase of the message. Where the program
//! computes something, the expected figure stands in a test of its own beside the table. Every
//! input is made by its test.

mod configurations;
mod estimators;
mod flags;
#[path = "../folder_copy/mod.rs"]
mod folder_copy;
mod hostile_weights;
mod measurements;
mod operators;
mod outputs;
mod overflow;
mod photos;
mod pickles;
mod table;
mod training;
mod tune;
mod weight_files;
