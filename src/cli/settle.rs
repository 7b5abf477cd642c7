//! What becomes of the runs of an image: of several restarts the best is kept, and images that the
//! measurement can't tell apart are brought into one form.

use super::job::Job;
use super::pending::Pending;
use crate::image::Picture;
use crate::metrics::psnr;

/// Keeps, for every sample, the restart whose residual is smallest. Then brings samples into the
/// form that fits best: to the truth where it is known, else to the first sample.
pub(super) fn settle(job: &Job, p: &mut Pending) {
    let restarts = job.restarts as usize;
    p.tried = p.done.iter().map(|run| run.residual).collect();
    let mut kept = Vec::new();
    let mut runs = std::mem::take(&mut p.done).into_iter();
    while let Some(first) = runs.next() {
        let others = runs.by_ref().take(restarts - 1);
        kept.push(others.fold(first, |best, run| if run.residual < best.residual { run } else { best }));
    }
    for k in 0..kept.len() {
        let form = match (&p.truth, k) {
            (Some(truth), _) => fitting(job, &kept[k].picture, truth),
            (None, 0) => None,
            (None, _) => fitting(job, &kept[k].picture, &kept[0].picture),
        };
        if let Some((what, picture)) = form {
            p.form = Some(what);
            kept[k].picture = picture;
        }
    }
    p.done = kept;
}

/// The form of `x`, among those with the same measurement, that is nearest to `other`, and what was
/// done to it. None if it is x itself.
fn fitting(job: &Job, x: &Picture, other: &Picture) -> Option<(&'static str, Picture)> {
    let as_it_is = psnr(x, other);
    let forms = job.operator.equivalents(x).into_iter().map(|(what, form)| (psnr(&form, other), what, form));
    let best = forms.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > as_it_is).then_some((best.1, best.2))
}
