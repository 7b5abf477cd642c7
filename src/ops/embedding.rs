//! Table lookup, `y[p] = table[label[p]]`: class labels of images, tokens of a text
//!
//! Labels are whole numbers: they have no gradient.

use super::prelude::*;

/// Looks up rows of a table. Inputs: label (n, h, w, 1), table (labels, 1, 1, c). Output
/// (n, h, w, c). A label outside the table gives NaN.
#[derive(Debug, Clone)]
pub struct Embedding;

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }
    fn infer(&self, inputs: &[&Tensor]) -> Result<Vec<Output>, String> {
        expect_inputs(inputs, 2)?;
        let (label, table) = (inputs[0].shape, inputs[1].shape);
        expect_shape(inputs[0], Shape { c: 1, ..label })?;
        expect_shape(inputs[1], Shape::new(table.n, 1, 1, table.c))?;
        Ok(vec![storage(Shape { c: table.c, ..label })])
    }
    fn vjp(&self, r: &mut Reverse<'_>) -> Result<()> {
        r.not_differentiable(0..2, "a label is a whole number")
    }
    fn flops(&self, _: &[Shape], _: &[Shape]) -> u64 {
        0
    }
    fn run_cpu(&self, launch: &mut CpuArguments<'_>) {
        let c = launch.input_shapes[1].c;
        for (row, &label) in launch.outputs[0].chunks_mut(c).zip(launch.inputs[0]) {
            match launch.inputs[1].chunks(c).nth(label as usize) {
                Some(values) if label >= 0.0 => row.copy_from_slice(values),
                _ => row.fill(f32::NAN),
            }
        }
    }
    fn record_cuda(&self, r: &mut Recorder<'_>) -> Result<()> {
        let (label, table, y) = (r.inputs[0], r.inputs[1], r.outputs[0]);
        let params = kernels::EmbeddingParams {
            y: y.into(),
            label: label.into(),
            table: table.into(),
            rows: table.shape.n,
            channels: table.shape.c,
        };
        r.launch(kernels::EMBEDDING, [label.shape.numel(), 1, 1], 256, 0, params);
        Ok(())
    }
}
