//! All tables of kernel variants.

use super::variants::Variants;
use super::{attention, conv, group_norm};
use crate::error::Result;
use crate::launch::Forced;

/// Operations with kernel variants, with the names of these.
pub fn known() -> [(&'static str, Vec<&'static str>); 5] {
    fn of<P>(table: &Variants<P>) -> (&'static str, Vec<&'static str>) {
        (table.op, table.all.iter().map(|v| v.name).collect())
    }
    [
        of(&conv::VARIANTS),
        of(&conv::WEIGHT_VARIANTS),
        of(&attention::VARIANTS),
        of(&attention::FUSED_VARIANTS),
        of(&group_norm::VARIANTS),
    ]
}

/// The variants that the environment variable `DMAP_VARIANTS` forces.
pub fn from_environment() -> Result<Forced> {
    Forced::parse(&std::env::var("DMAP_VARIANTS").unwrap_or_default(), &known())
}
