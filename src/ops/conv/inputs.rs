//! The inputs of a convolution by name.

/// The inputs of a convolution. `T` is a tensor id, a position, a description, data or an operand.
/// A node has them in the order of the fields, without the absent ones.
#[derive(Debug, Clone, Copy)]
pub struct ConvInputs<T> {
    /// The image (n, h, w, c).
    pub x: T,
    /// The weight (cout, kernel, kernel, c + channels of `second`).
    pub weight: T,
    /// Added to every pixel (1, 1, 1, cout).
    pub bias: Option<T>,
    /// Added to every pixel of its batch item (n, 1, 1, cout).
    pub item_bias: Option<T>,
    /// Added to the output; it has the shape of the output.
    pub addend: Option<T>,
    /// An image (n, h, w, any) whose channels follow those of x.
    pub second: Option<T>,
}

/// Inputs of a convolution beside x, weight and bias.
#[derive(Debug, Clone, Copy)]
pub struct ConvExtra<T> {
    /// See [`ConvInputs`].
    pub item_bias: Option<T>,
    /// See [`ConvInputs`].
    pub addend: Option<T>,
    /// See [`ConvInputs`].
    pub second: Option<T>,
}

impl<T> ConvExtra<T> {
    /// No further inputs.
    pub const NONE: ConvExtra<T> = ConvExtra { item_bias: None, addend: None, second: None };
}

impl<T: Copy> ConvInputs<T> {
    /// The inputs in the order of a node.
    pub fn to_vec(&self) -> Vec<T> {
        let optional = [self.bias, self.item_bias, self.addend, self.second];
        [self.x, self.weight].into_iter().chain(optional.into_iter().flatten()).collect()
    }
}
