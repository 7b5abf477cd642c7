//! The two priors and the estimators inside the program. The feature `shipped` includes their bytes,
//! which are separate packages.

use crate::error::{Error, Result};

/// Files of a prior or of estimators: (path inside its folder, content).
type Files = &'static [(&'static str, &'static [u8])];

/// The pixel prior (weights/photo).
pub const PHOTO: &str = "photo";
/// The latent prior (weights/tiny-latent).
pub const TINY_LATENT: &str = "tiny-latent";

#[cfg(feature = "shipped")]
fn files(prior: &str) -> Files {
    if prior == PHOTO { dmap_prior_photo::FILES } else { dmap_prior_tiny_latent::FILES }
}

#[cfg(not(feature = "shipped"))]
fn files(_: &str) -> Files {
    &[]
}

/// The conditional score estimators of [`PHOTO`] (weights/photo-cse). None in a build without the
/// feature `shipped`.
#[cfg(feature = "shipped")]
pub const ESTIMATORS: Files = dmap_cse_photo::FILES;
#[cfg(not(feature = "shipped"))]
pub const ESTIMATORS: Files = &[];

/// A file of a prior. Fails in a build without the feature `shipped`.
pub fn file(prior: &str, path: &str) -> Result<&'static [u8]> {
    files(prior).iter().find(|f| f.0 == path).map(|f| f.1).ok_or_else(|| {
        Error::Invalid(format!(
            "the prior {prior} is not in this build, which was made without the feature `shipped`: enable it, or give \
             the file or folder of a model"
        ))
    })
}
