//! Climbs to the best options of a method, one option at a time.

use crate::error::{Error, Result};
use crate::sampler::parse_method;
use std::collections::BTreeMap;

/// Where a search starts.
pub(super) struct Start {
    /// The method with its options.
    pub method: String,
    /// If true, all options are searched; otherwise those that `method` does not give.
    pub is_free: bool,
}

/// Rounds over all options; a round that changes nothing ends the search earlier.
const ROUNDS: usize = 3;

/// Values of options by name, as they are typed.
type Values = BTreeMap<String, String>;

/// The pairs of `key=value,key=value`.
fn values(text: &str) -> Values {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    // The table of methods remarks after some defaults what they are for: `whiten=0.3 (blurs)`.
    let bare = |v: &str| v.split(' ').next().unwrap_or_default().to_string();
    pairs.map(|(k, v)| (k.to_string(), bare(v))).collect()
}

/// Climbs from `start` along the values that the method's row lists for its options, with `score`
/// as the height; no score is lower than any. Gives the best score and method. Fails if the start
/// has no score.
pub(super) fn climb(start: &Start, mut score: impl FnMut(&str) -> Result<Option<f64>>) -> Result<(f64, String)> {
    let (row, _) = parse_method(&start.method)?;
    let given = values(start.method.split_once(':').map_or("", |(_, options)| options));
    let defaults = values(row.options);
    let mut height = |options: &Values| -> Result<(Option<f64>, String)> {
        let typed: Vec<String> = options.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let method = if typed.is_empty() { row.name.into() } else { format!("{}:{}", row.name, typed.join(",")) };
        Ok((score(&method)?, method))
    };
    let mut at = given.clone();
    let (Some(mut best), mut method) = height(&at)? else {
        return Err(Error::Invalid(format!("{} diverges or does not fit; start from other options", start.method)));
    };
    for _ in 0..ROUNDS {
        let before = best;
        for (option, list) in row.search.iter().filter(|(o, _)| start.is_free || !given.contains_key(*o)) {
            let now = at.get(*option).or_else(|| defaults.get(*option)).map_or("", |v| v);
            // From a value that is not in the list, the search goes on at the list's start.
            let place = list.iter().position(|v| *v == now).map_or(-1, |p| p as isize);
            for direction in [1, -1] {
                let mut next = place + direction;
                let mut went = false;
                while let Some(value) = usize::try_from(next).ok().and_then(|n| list.get(n)) {
                    let mut moved = at.clone();
                    moved.insert(option.to_string(), value.to_string());
                    let (Some(found), named) = height(&moved)? else { break };
                    if found <= best {
                        break;
                    }
                    (best, method, at, went) = (found, named, moved, true);
                    next += direction;
                }
                if went {
                    break;
                }
            }
        }
        if best == before {
            break;
        }
    }
    Ok((best, method))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::METHODS;

    /// The height of a hill over log lambda and log to, with its top at lambda 1 and to 0.005.
    fn hill(method: &str) -> Result<Option<f64>> {
        let options = values(method.split_once(':').map_or("", |(_, options)| options));
        let number = |key: &str, default: f64| options.get(key).map_or(default, |v| v.parse::<f64>().unwrap());
        let (lambda, to) = (number("lambda", 0.23), number("to", 0.05));
        Ok(Some(-lambda.ln().powi(2) - (to / 0.005).ln().powi(2)))
    }

    #[test]
    fn the_top_of_a_hill_is_found_and_given_options_stay() {
        let from = |method: &str, is_free| climb(&Start { method: method.into(), is_free }, hill).unwrap();
        let (height, method) = from("dpir", false);
        assert_eq!((height, &method[..]), (0.0, "dpir:lambda=1,to=0.005"));
        assert_eq!(from("dpir:to=0.02", false).1, "dpir:lambda=1,to=0.02");
        assert_eq!(from("dpir:to=0.02", true).1, "dpir:lambda=1,to=0.005");
    }

    #[test]
    fn settings_without_a_score_are_not_taken() {
        let no_large = |method: &str| if method.contains("lambda=1") { Ok(None) } else { hill(method) };
        let (_, method) = climb(&Start { method: "dpir".into(), is_free: false }, no_large).unwrap();
        assert_eq!(method, "dpir:lambda=0.5,to=0.005");
        let none = climb(&Start { method: "dpir".into(), is_free: false }, |_| Ok(None));
        assert!(none.unwrap_err().to_string().starts_with("dpir diverges or does not fit"));
    }

    #[test]
    fn every_listed_value_parses_and_the_default_is_listed() {
        for row in METHODS {
            let defaults = values(row.options);
            for (option, list) in row.search {
                assert!(list.contains(&&defaults[*option][..]), "{}: {option} without its default", row.name);
                for value in *list {
                    // STSL and the like take some options for latent models only; parsing does not know.
                    parse_method(&format!("{}:{option}={value}", row.name)).unwrap();
                }
            }
        }
    }
}
