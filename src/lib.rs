//! `dmap` restores images. Given a degraded measurement `y`, a known operator `A` and a diffusion
//! model as the prior, it samples images that are consistent with the measurement.
//!
//! ```text
//!     photo.png --image--> x in [-1,1], N,H,W,C
//!         | operator::A                (or the user gives the measurement itself)
//!         v
//!     measurement y  ----------------------------------------------+
//!                                                                  v
//!     sampler loop (DPS, DMAP, ...)  --x_t, t-->  one step graph:  model -> x0|t -> [decoder] -> A -> residual norm
//!         ^                                          and its hand-derived reverse: norm -> A^T -> [decoder] -> model
//!         |                                                        |
//!         +---- x_{t-1} <-- update, noise, projection <--- gradient of the residual norm at x_t
//! ```
//!
//! A whole step is one [`graph::Graph`], recorded once. [`graph::backward`] appends the reverse
//! pass. [`graph::Plan`] decides the memory location of every value, and the activations to
//! recompute within a memory budget. [`executor::Executor`] runs the plan.
//!
//! # Restore an image
//!
//! ```
//! use dmap::{Item, Measurement, Model, Noise, Restorer, Shape, parse_task};
//! use std::ops::ControlFlow;
//!
//! # fn main() -> dmap::Result<()> {
//! let model = Model::shipped()?; // or Model::open("adm.safetensors")
//! let operator = parse_task("inpaint-random:missing=0.5")?;
//!
//! // Measure a grey picture; your own y in [-1, 1] goes into a `Measurement` instead.
//! let (image, picture) = (Shape::new(1, 16, 16, 3), vec![0.2; 16 * 16 * 3]);
//! let (measurement, _) = Measurement::simulate(operator.as_ref(), image, &picture, Noise::Gaussian(0.01), 7)?;
//!
//! // The best method for this task and model, on the CPU.
//! // `.method("dmap:k=5")?`, `.device(..)` and `.batch(..)` change that.
//! let mut restorer = Restorer::builder(&model, &operator, 16, 16).build()?;
//! let restored = restorer.restore(&[Item::new(measurement, 7)], |now| {
//!     println!("step {} of {}, residual {:?}", now.step, now.steps, now.residual);
//!     ControlFlow::Continue(()) // Break(()) stops the run
//! })?;
//! assert_eq!(restored[0].picture.width, 16);
//! # Ok(())
//! # }
//! ```
//!
//! Latent models work in the same way: `Model::open("stable-diffusion-2-base")` takes a folder in
//! the diffusers layout, and the gradient also goes through the decoder. `PlanOptions::memory` and
//! `PlanOptions::offload` limit the memory.
//!
//! # Step by step
//!
//! ```
//! # use dmap::{Item, Measurement, Restorer};
//! # fn main() -> dmap::Result<()> {
//! # let model = dmap::Model::shipped()?;
//! let operator = dmap::parse_task("denoise")?;
//! let mut restorer = Restorer::builder(&model, &operator, 8, 8).method("dps:step=polyak:0.2")?.build()?;
//! let measurement = Measurement::new(vec![0.0; 8 * 8 * 3], vec![], 0.0);
//! let mut run = restorer.start(&[Item::new(measurement, 0)])?;
//! while let Some(now) = run.step()? {
//!     assert!(now.x()?.iter().all(|v| v.is_finite()));
//! }
//! let restored = run.finish()?;
//! # assert_eq!(restored.len(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! # Ask for the plan
//!
//! A plan needs neither weights nor a device.
//!
//! ```
//! use dmap::graph::{backward, Dtype, Graph, Plan, PlanOptions, Shape};
//! use dmap::model::{AdmConfig, Conditioning, Network};
//!
//! # fn main() -> dmap::Result<()> {
//! let network = AdmConfig::architecture("adm-256").expect("a known model");
//! let mut g = Graph::new();
//! let x = g.input("x", Shape::new(1, 256, 256, 3));
//! let t = g.input("t", Shape::rows(1, 1));
//! let out = network.record(&mut g, x, t, &Conditioning::default())?;
//! let v = g.input("v", g.shape(out));
//! let gradient = backward(&mut g, out, v, x)?;
//! g.output(gradient);
//! let plan = Plan::new(&g, &PlanOptions::default().storage(Dtype::Bf16).memory(2 << 30))?;
//! assert!(plan.total_bytes() <= 2 << 30);
//! # Ok(())
//! # }
//! ```
//!
//! # A method of your own
//!
//! Implement [`sampler::Method`] and record a step with the functions of [`sampler::Step`].
//! `examples/own_method.rs` is a complete example.
//!
//! # An operator of your own
//!
//! Implement [`operator::Operator`] and record `A(x)` with ops that have a VJP; the adjoint follows
//! from it.
//!
//! ```
//! use dmap::graph::{Graph, TensorId};
//! use dmap::operator::Operator;
//! use dmap::ops::resample::Pool;
//!
//! #[derive(Debug)]
//! struct HalfSize;
//!
//! impl Operator for HalfSize {
//!     fn task(&self) -> String {
//!         "half-size".into()
//!     }
//!     fn measurement_shape(&self, x: dmap::graph::Shape) -> dmap::graph::Shape {
//!         dmap::graph::Shape { h: x.h / 2, w: x.w / 2, ..x }
//!     }
//!     fn build(&self, g: &mut Graph, x: TensorId, _: Option<TensorId>) -> dmap::Result<TensorId> {
//!         g.one(Pool { gain: 0.25 }, "operator.half", &[x])
//!     }
//! }
//! # let image = dmap::graph::Shape::new(1, 4, 4, 3);
//! # let y = dmap::sampler::Measurer::new(&HalfSize, image).unwrap().apply(&[0.5; 48], &[]).unwrap();
//! # assert_eq!(y, [0.5; 12]);
//! ```
#![deny(missing_docs)]

pub mod analyse;
pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod compare;
pub mod error;
pub mod executor;
pub mod graph;
pub mod image;
mod kernels;
pub mod launch;
pub mod metrics;
pub mod model;
pub mod noise;
pub mod operator;
pub mod ops;
pub mod options;
#[cfg(feature = "cli")]
pub mod report;
pub mod sampler;
pub mod selftest;
pub mod tensor;
pub mod train;
pub mod trial;
pub mod weights;

pub use backend::Device;
pub use error::{Error, Result};
pub use graph::PlanOptions;
pub use image::{Photo, Picture};
pub use model::Model;
pub use operator::{Operator, parse_task};
pub use sampler::{Item, Measurement, Method, Noise, Restorer, Settings};
pub use tensor::Shape;
