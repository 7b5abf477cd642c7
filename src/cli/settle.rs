//! What becomes of the runs of an image: of several restarts the best is kept, and images that the
//! measurement can't tell apart are brought into one form.

use super::job::Job;
use super::pending::Pending;
use crate::image::Picture;
use crate::metrics::psnr;
use crate::operator::Operator;

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
            (Some(truth), _) => fitting(job.operator.as_ref(), &kept[k].picture, truth),
            (None, 0) => None,
            (None, _) => fitting(job.operator.as_ref(), &kept[k].picture, &kept[0].picture),
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
fn fitting(operator: &dyn Operator, x: &Picture, other: &Picture) -> Option<(&'static str, Picture)> {
    let as_it_is = psnr(x, other);
    let forms = operator.equivalents(x).into_iter().map(|(what, form)| (psnr(&form, other), what, form));
    let best = forms.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (best.0 > as_it_is).then_some((best.1, best.2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::parse_task;

    #[test]
    fn an_image_is_brought_into_the_form_nearest_to_another() {
        let operator = parse_task("phase-retrieval").unwrap();
        let truth = Picture { width: 4, height: 2, values: (0..24).map(|k| k as f32 / 24.0 - 0.3).collect() };
        assert!(fitting(operator.as_ref(), &truth, &truth).is_none());
        for (what, form) in operator.equivalents(&truth) {
            // Every form is its own inverse.
            let (named, back) = fitting(operator.as_ref(), &form, &truth).unwrap();
            assert_eq!((named, back.values), (what, truth.values.clone()));
        }
        assert!(fitting(parse_task("sr2").unwrap().as_ref(), &truth, &truth).is_none());
    }
}
