//! What becomes of the runs of an image: of several restarts the best is kept, and images that the
//! measurement can't tell apart are brought into one form.

use super::job::Job;
use super::pending::Pending;
use crate::trial::{least_residual, nearest_form};

/// Keeps, for every sample, the restart whose residual is smallest. Then brings samples into the
/// form that fits best: to the truth where it is known, else to the first sample.
pub(super) fn settle(job: &Job, p: &mut Pending) {
    p.tried = p.done.iter().map(|run| run.residual).collect();
    let mut kept = Vec::new();
    let mut runs = std::mem::take(&mut p.done).into_iter();
    while let Some(best) = least_residual(runs.by_ref().take(job.restarts as usize)) {
        kept.push(best);
    }
    for k in 0..kept.len() {
        let form = match (&p.truth, k) {
            (Some(truth), _) => nearest_form(job.operator.as_ref(), &kept[k].picture, truth),
            (None, 0) => None,
            (None, _) => nearest_form(job.operator.as_ref(), &kept[k].picture, &kept[0].picture),
        };
        if let Some((what, picture)) = form {
            p.form = Some(what);
            kept[k].picture = picture;
        }
    }
    p.done = kept;
}
