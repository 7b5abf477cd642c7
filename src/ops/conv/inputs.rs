//! The inputs of a convolution by name.

/// The inputs of a convolution: tensors of a graph, their places, descriptions, data or operands. A node has them in the order
/// of the fields, without the ones that are absent.
#[derive(Debug, Clone, Copy)]
pub struct ConvInputs<T> {
    /// The image (n, h, w, c).
    pub x: T,
    /// The weight (cout, kernel, kernel, c + channels of `second`).
    pub weight: T,
    /// Added to every pixel (1, 1, 1, cout).
    pub bias: Option<T>,
    /// Added to every pixel of its item (n, 1, 1, cout).
    pub item_bias: Option<T>,
    /// Added to the output, of whose shape it is.
    pub addend: Option<T>,
    /// An image whose channels follow those of x.
    pub second: Option<T>,
}

/// What a convolution reads beside x and the weights that bear its name.
#[derive(Debug, Clone, Copy)]
pub struct ConvExtra<T> {
    /// As in [`ConvInputs`].
    pub item_bias: Option<T>,
    /// As in [`ConvInputs`].
    pub addend: Option<T>,
    /// As in [`ConvInputs`].
    pub second: Option<T>,
}

impl<T> ConvExtra<T> {
    /// Nothing.
    pub const NONE: ConvExtra<T> = ConvExtra { item_bias: None, addend: None, second: None };
}

impl<T: Copy> ConvInputs<T> {
    /// In the order of a node's inputs.
    pub fn to_vec(&self) -> Vec<T> {
        let optional = [self.bias, self.item_bias, self.addend, self.second];
        [self.x, self.weight].into_iter().chain(optional.into_iter().flatten()).collect()
    }
}
