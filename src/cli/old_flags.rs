//! Flags of single methods from before methods had options. They will be removed in the next
//! release.

use crate::error::{Error, Result};
use crate::sampler::{METHODS, MethodRow};
use clap::{Args, ValueEnum};

/// Flags of single methods as they were before methods had options.
#[derive(Args, Debug, Clone)]
pub(super) struct OldFlags {
    #[arg(long, hide = true)]
    zeta: Option<f64>,
    #[arg(long, hide = true, value_enum)]
    zeta_unit: Option<ZetaUnit>,
    #[arg(long, hide = true)]
    whiten: Option<f64>,
    #[arg(long, hide = true)]
    inner: Option<usize>,
    #[arg(long, hide = true)]
    rate: Option<f64>,
    #[arg(long, hide = true)]
    consistency: Option<f64>,
    #[arg(long, hide = true)]
    published_transpose: bool,
}

#[derive(ValueEnum, Debug, Clone, Copy, PartialEq)]
enum ZetaUnit {
    Relative,
    Absolute,
}

/// Each old flag, with the options that replace it. For a method, the first of these that the
/// method has is used.
const OPTIONS: [(&str, &[&str]); 6] = [
    ("zeta", &["step", "share"]),
    ("whiten", &["whiten"]),
    ("inner", &["k", "samples", "passes", "iterations"]),
    ("rate", &["rate"]),
    ("consistency", &["gamma", "weight"]),
    ("published-transpose", &["transpose"]),
];

/// Methods that never had the old flags.
const LATER: [&str; 8] = ["dpir", "diffpir", "ddnm", "ddrm", "pigdm", "sitcom", "red-diff", "daps"];

/// The option of a method that replaces an old flag.
fn option_of(flag: &str, row: &MethodRow) -> Option<&'static str> {
    if LATER.contains(&row.name) {
        return None;
    }
    let options = OPTIONS.iter().find(|o| o.0 == flag).map_or(&[][..], |o| o.1);
    options.iter().copied().find(|option| row.options.split(',').any(|o| o.split('=').next() == Some(option)))
}

impl OldFlags {
    /// True if an old flag was given. `auto` then stands for `dmap`, because the flags were made
    /// for it.
    pub fn are_given(&self) -> bool {
        let numbers = [self.zeta, self.whiten, self.rate, self.consistency];
        self.published_transpose
            || self.inner.is_some()
            || self.zeta_unit.is_some()
            || numbers.iter().any(Option::is_some)
    }

    /// The method with the options that the old flags stand for. None if no old flag was given.
    pub fn method(&self, typed: &str) -> Result<Option<String>> {
        let (name, options) = typed.split_once(':').unwrap_or((typed, ""));
        let is_absolute = self.zeta_unit == Some(ZetaUnit::Absolute);
        if self.zeta_unit.is_some() && self.zeta.is_none() {
            return Err(Error::Invalid("--zeta-unit without --zeta: write --method dps:step=published:80".into()));
        }
        // Unknown method: the parser of methods gives a better error message.
        let Some(row) = METHODS.iter().find(|m| m.name == name) else { return Ok(None) };
        if name == "dsg" && is_absolute {
            return Err(Error::Invalid("dsg takes a share of 0 to 1: write dsg:share=0.2".into()));
        }
        let step = |zeta: f64| match name {
            "dsg" => zeta.to_string(),
            _ if is_absolute => format!("published:{zeta}"),
            _ => format!("polyak:{zeta}"),
        };
        let given = [
            ("zeta", self.zeta.map(step)),
            ("whiten", self.whiten.map(|v| v.to_string())),
            ("inner", self.inner.map(|v| v.to_string())),
            ("rate", self.rate.map(|v| v.to_string())),
            ("consistency", self.consistency.map(|v| v.to_string())),
            ("published-transpose", self.published_transpose.then(|| "published".to_string())),
        ];
        let mut all: Vec<String> = options.split(',').filter(|o| !o.is_empty()).map(String::from).collect();
        let before = all.len();
        for (flag, value) in given {
            let Some(value) = value else { continue };
            let Some(option) = option_of(flag, row) else {
                let readers = METHODS.iter().filter(|m| option_of(flag, m).is_some()).map(|m| m.name);
                let readers = readers.collect::<Vec<_>>().join(", ");
                return Err(Error::Invalid(format!("--{flag}: {name} does not use it ({readers} do); leave it out")));
            };
            if all.iter().any(|o| o.trim().starts_with(&format!("{option}="))) {
                let reason =
                    format!("--{flag} is the option {option} of {name}, which is given too: leave --{flag} out");
                return Err(Error::Invalid(reason));
            }
            all.push(format!("{option}={value}"));
        }
        Ok((all.len() > before).then(|| format!("{name}:{}", all.join(","))))
    }
}
