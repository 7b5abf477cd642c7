//! Cases of the ops in sampler updates.

use crate::noise::KEY_WORDS;
use crate::ops::adamw::{AdamW, BETAS};
use crate::ops::conjugate_gradient::{InnerProduct, RatioStep};
use crate::ops::learned_noise::LearnedNoise;
use crate::ops::linear_combination::LinearCombination;
use crate::ops::norm::{ResidualNorm, SquaredNorm};
use crate::ops::normal_noise::NormalNoise;
use crate::ops::spectral_step::SpectralStep;
use crate::ops::sphere_projection::{GuidedStep, SphereProjection};
use crate::selftest::case::{Case, Input, Values};
use crate::tensor::Shape;

fn linear_combination(columns: &[usize]) -> Case {
    let (x, count) = (Input::single(Shape::new(2, 3, 5, 8)), columns.len());
    let inputs = std::iter::once(Input::single(Shape::rows(2, 4))).chain(vec![x; count]).collect();
    let wanted: Vec<usize> = (1..=count).collect();
    Case::new(
        format!("linear_combination of {count}"),
        LinearCombination { columns: columns.to_vec() },
        inputs,
        &wanted,
    )
}

/// A guided step with residuals of 300 and 1.5 and floors of 0 and 1. The maximum length, 2, limits
/// only the first item.
fn guided_step(normalised: bool, x: Shape) -> Case {
    let residuals = Input::single(Shape::rows(2, 1)).with(Values::Given(vec![300.0, 1.5]));
    let columns = Input::single(Shape::rows(2, 3)).with(Values::Given(vec![0.0, 0.0, 2.0, 0.0, 1.0, 2.0]));
    let inputs = vec![Input::single(x), Input::single(x), residuals, columns];
    let op = GuidedStep { step: 2, floor: 1, normalised };
    Case::new(format!("guided_step {x}, normalised {normalised}"), op, inputs, &[])
}

/// A spectral step with sigma 0.5 and 2 and noise 0.1 and 1. The power reaches both forms, 0, and
/// the largest power that counts as 0.
fn spectral_step(x: Shape) -> Case {
    let powers = [1.0, 0.3, 0.01, 0.0, 0.09, 1e-6].into_iter().cycle().take(x.numel() / x.c).collect();
    let power = Input::single(Shape { c: 1, ..x }).with(Values::Given(powers));
    let columns = Input::single(Shape::rows(2, 3)).with(Values::Given(vec![0.1, 0.0, 0.5, 1.0, 0.0, 2.0]));
    let inputs = [vec![Input::single(x); 3], vec![power, columns]].concat();
    let op = SpectralStep { columns: [2, 0], eta: 0.85, etab: 0.9 };
    Case::new(format!("spectral_step {x}"), op, inputs, &[])
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = vec![
        linear_combination(&[3, 0]),
        linear_combination(&[2, 0, 3]),
        linear_combination(&[1, 2, 0, 3]),
        Case::new(
            "normal_noise",
            NormalNoise { shape: Shape::new(2, 16, 24, 3) },
            vec![Input::single(Shape::rows(2, KEY_WORDS))],
            &[],
        ),
    ];
    for x in [Shape::new(2, 3, 5, 7), Shape::new(2, 16, 24, 3)] {
        let (image, number) = (Input::single(x), Input::single(Shape::rows(2, 1)));
        let images = |count: usize| vec![image.clone(); count];
        let with = |count: usize, more: &[Input]| [images(count), more.to_vec()].concat();
        let columns = Input::single(Shape::rows(2, 3));
        // The second moment is positive. Columns of the coefficients: weight decay, rate, two
        // corrections, and one that is not read.
        let rates = Input::single(Shape::rows(2, 5)).with(Values::Given([0.01, 0.1, 1.5, 0.0, 2.0].repeat(2)));
        let adamw = with(3, &[image.clone().with(Values::Positive), rates]);
        all.extend([
            Case::new(format!("residual_norm {x}"), ResidualNorm, images(2), &[0, 1]),
            Case::new(format!("squared_norm {x}"), SquaredNorm, images(1), &[0]),
            Case::new(format!("inner_product {x}"), InnerProduct, images(2), &[0, 1]),
            Case::new(
                format!("ratio_step {x}"),
                RatioStep { sign: -1.0 },
                with(2, &[number.clone(), number.clone()]),
                &[],
            ),
            Case::new(
                format!("sphere_projection {x}"),
                SphereProjection { column: 1 },
                with(2, std::slice::from_ref(&columns)),
                &[],
            ),
            Case::new(
                format!("learned_noise {x}"),
                LearnedNoise { columns: [0, 1, 2] },
                with(3, std::slice::from_ref(&columns)),
                &[],
            ),
            Case::new(format!("adamw {x}"), AdamW { columns: [1, 0, 4, 2], betas: BETAS }, adamw.clone(), &[]),
            Case::new(
                format!("adamw {x}, betas of its own"),
                AdamW { columns: [1, 0, 4, 2], betas: [0.3, 0.6] },
                adamw,
                &[],
            ),
            guided_step(true, x),
            guided_step(false, x),
            spectral_step(x),
        ]);
    }
    all
}
