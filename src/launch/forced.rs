//! Which kernel variants were recorded, and which are forced.

use crate::error::{Error, Result, nearest};

/// The variant that was recorded for an operation, and the ones that could have been.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// Name of the operation.
    pub op: &'static str,
    /// The recorded variant.
    pub chosen: &'static str,
    /// All variants that take the problem on this chip, best first.
    pub takes: Vec<&'static str>,
}

/// Number of operations for which a variant can be forced.
const MOST: usize = 8;

/// Variants that are recorded in place of the best ones: `conv=mma,group_norm=chunks`. A name is
/// that of a variant or the part of it before an underscore. A problem that no such variant takes
/// is computed by the best one.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Forced([Option<(&'static str, &'static str)>; MOST]);

impl Forced {
    /// No variant is forced.
    pub const NONE: Forced = Forced([None; MOST]);

    /// Forces one variant of one operation.
    pub fn one(op: &'static str, variant: &'static str) -> Forced {
        let mut forced = Forced::NONE;
        forced.0[0] = Some((op, variant));
        forced
    }

    /// Parses a list such as `conv=mma,group_norm=chunks`. `known` holds the operations with the
    /// names of their variants.
    pub fn parse(text: &str, known: &[(&'static str, Vec<&'static str>)]) -> Result<Forced> {
        let mut forced = Forced::NONE;
        for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
            let parsed = parse_one(entry, known)?;
            if forced.0.iter().flatten().any(|(op, _)| *op == parsed.0) {
                let reason = format!("forced kernel variants (DMAP_VARIANTS): {} is given twice", parsed.0);
                return Err(Error::Invalid(reason));
            }
            let place = forced.0.iter_mut().find(|f| f.is_none());
            *place.expect("no more operations than places have variants") = Some(parsed);
        }
        Ok(forced)
    }

    /// Whether a variant is forced.
    pub fn is_forced(&self, op: &str, variant: &str) -> bool {
        self.0.iter().flatten().any(|(of, name)| *of == op && is_named(variant, name))
    }
}

/// Parses `conv=mma`.
fn parse_one(entry: &str, known: &[(&'static str, Vec<&'static str>)]) -> Result<(&'static str, &'static str)> {
    let invalid = |reason: String| Err(Error::Invalid(format!("forced kernel variants (DMAP_VARIANTS): {reason}")));
    let Some((op, name)) = entry.split_once('=') else {
        return invalid(format!("{entry} is not of the form conv=mma"));
    };
    let Some((op, variants)) = known.iter().find(|(known, _)| *known == op) else {
        let ops: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let near = nearest(op, ops.iter().copied()).unwrap_or_default();
        return invalid(format!("no op {op}: did you mean {near}? Ops with variants: {}", ops.join(", ")));
    };
    match variants.iter().find(|variant| is_named(variant, name)) {
        Some(variant) => Ok((op, &variant[..name.len()])),
        None => invalid(format!("{op} has no variant {name}, but {}", variants.join(", "))),
    }
}

/// Whether `name` is the variant's name or the part of it before an underscore.
fn is_named(variant: &str, name: &str) -> bool {
    variant.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_forced_variants_is_checked() {
        let known = [("conv", vec!["wgmma_128", "mma_64", "simt"]), ("norm", vec!["block"])];
        let forced = Forced::parse("conv=mma, norm=block", &known).unwrap();
        assert!(forced.is_forced("conv", "mma_64") && forced.is_forced("norm", "block"));
        assert!(!forced.is_forced("conv", "wgmma_128") && !forced.is_forced("conv", "mmap"));
        assert_eq!(Forced::parse("", &known).unwrap(), Forced::NONE);
        for (text, named) in [
            ("conv", "conv=mma"),
            ("conf=mma", "did you mean conv"),
            ("conv=mm", "wgmma_128, mma_64"),
            ("conv=mma,conv=simt", "given twice"),
        ] {
            let error = Forced::parse(text, &known).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
