//! JPEG against a codec, and what stands in for its derivative.

use crate::run::{largest_difference, measured, picture, vjp};
use dmap::graph::Shape;
use dmap::image::Picture;
use dmap::operator::parse_task;

/// Encoded and decoded by the codec of the `image` crate.
fn by_codec(x: &Picture, quality: u8, is_grey: bool) -> Picture {
    let rgb = x.to_rgb8();
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, quality);
    match is_grey {
        true => encoder.encode_image(&image::DynamicImage::ImageRgb8(rgb).to_luma8()).unwrap(),
        false => encoder.encode_image(&rgb).unwrap(),
    }
    let decoded = image::load_from_memory_with_format(&bytes, image::ImageFormat::Jpeg).unwrap();
    Picture::from_rgb8(&decoded.to_rgb8())
}

#[test]
fn jpeg_is_what_a_codec_makes_of_a_picture() {
    let rms = |a: &Picture, b: &[f32]| {
        let squares: f32 = a.values.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum();
        (squares / b.len() as f32).sqrt() * 127.5
    };
    for (quality, h, w) in [(10, 40, 56), (50, 35, 21), (90, 32, 32)] {
        let image = Shape::new(1, h, w, 3);
        let operator = parse_task(&format!("jpeg:quality={quality}")).unwrap();
        // Rounded to the 8 bits that a codec reads.
        let colour = Picture::from_rgb8(&Picture { width: w, height: h, values: picture(image) }.to_rgb8());
        let grey = Picture::from_rgb8(&colour.clone().grey().to_rgb8());
        // Codecs compute in whole numbers, so that values near the middle of a step are rounded
        // the other way: libjpeg differs from exact arithmetic by 0.3 to 0.9 of a level.
        let y = measured(operator.as_ref(), image, &grey.values);
        let whole = |p: &Picture| p.part(0, 0, w / 8 * 8, h / 8 * 8);
        let seen = whole(&Picture { values: y.clone(), ..grey.clone() }).values;
        let (difference, lost) = (rms(&whole(&by_codec(&grey, quality, true)), &seen), rms(&whole(&grey), &seen));
        // A block at the end of the image is that of an image that repeats its last row and column.
        let longer = Shape::new(1, h.next_multiple_of(16), w.next_multiple_of(16), 3);
        let at = |k: usize| ((k / 3 / longer.w).min(h - 1) * w + (k / 3 % longer.w).min(w - 1)) * 3 + k % 3;
        let continued: Vec<f32> = (0..longer.numel()).map(|k| grey.values[at(k)]).collect();
        let values = measured(operator.as_ref(), longer, &continued);
        let part = Picture { width: longer.w, height: longer.h, values }.part(0, 0, w, h);
        assert!(largest_difference(&part.values, &y) < 1e-6);
        assert!(difference < 1.2 && lost > 2.0 * difference, "grey at {quality}: {difference} of {lost} levels");
        // The codec keeps the colours of every pixel, so only the luma agrees as well.
        let luma = |v: &[f32]| v.chunks(3).map(|p| 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2]).collect::<Vec<f32>>();
        let y = measured(operator.as_ref(), image, &colour.values);
        let other = Picture { values: luma(&by_codec(&colour, quality, false).values), ..colour.clone() };
        let difference = rms(&other, &luma(&y));
        assert!(difference < 2.0, "colour at {quality}: {difference} levels");
    }
}

#[test]
fn jpeg_rounds_the_mean_of_a_block_around_128() {
    let image = Shape::new(1, 16, 16, 3);
    let operator = parse_task("jpeg:quality=10").unwrap();
    for level in [4.0, 60.0, 100.0, 127.0, 128.0, 180.0, 201.0] {
        // The first coefficient is eight times the mean less 128; its step is 16 times 5.
        let decoded = (128.0 + 80.0 * (8.0 * (level - 128.0) / 80.0f32).round() / 8.0).clamp(0.0, 255.0);
        let y = measured(operator.as_ref(), image, &vec![level / 127.5 - 1.0; image.numel()]);
        assert!(y.iter().all(|v| ((v + 1.0) * 127.5 - decoded).abs() < 1e-3), "{level}: {}, {decoded}", y[0]);
    }
}

#[test]
fn the_gradient_of_jpeg_passes_the_rounding() {
    // At the finest steps the rounding changes little, and A is nearly a linear map L: L^T g by the
    // VJP is what differences over many steps say.
    let image = Shape::new(1, 16, 16, 3);
    let operator = parse_task("jpeg:quality=100").unwrap();
    let x: Vec<f32> = picture(image).iter().map(|v| 0.5 * v).collect();
    let direction: Vec<f32> = (0..image.numel()).map(|k| 0.3 * ((k / 3) as f32 * 0.4).sin()).collect();
    let along = |s: f32| {
        let moved: Vec<f32> = x.iter().zip(&direction).map(|(x, d)| x + s * d).collect();
        measured(operator.as_ref(), image, &moved)
    };
    let (low, high) = (along(-1.0), along(1.0));
    let g: Vec<f32> = (0..low.len()).map(|k| ((k / 3) as f32 * 0.4).sin()).collect();
    let by_difference: f32 = low.iter().zip(&high).zip(&g).map(|((a, b), g)| (b - a) / 2.0 * g).sum();
    let by_vjp: f32 = vjp(operator.as_ref(), image, &x, &g).iter().zip(&direction).map(|(a, b)| a * b).sum();
    assert!((by_vjp / by_difference - 1.0).abs() < 0.01, "{by_vjp}, {by_difference}");
}

#[test]
fn the_cubic_gradient_of_jpeg_is_that_of_a_cubic_between_two_steps() {
    // A grey block of one value: only the first coefficient of the luma is not 0, eight times the
    // value less 128, of which the step is 80.
    let image = Shape::new(1, 16, 16, 3);
    let [straight, cubic] = ["jpeg:quality=10", "jpeg:quality=10,gradient=cubic"].map(|task| parse_task(task).unwrap());
    assert_eq!(
        [straight.task(), cubic.task()],
        ["jpeg:quality=10", "jpeg:quality=10,gradient=cubic"].map(String::from)
    );
    for (level, over) in [(128.0, 0.0), (130.0, 0.2), (124.0, -0.4), (141.0, 0.3)] {
        let x = vec![level / 127.5 - 1.0; image.numel()];
        // Decoded, this is luma alone.
        let g = [0.714136 / 1.402, 1.0, 0.344136 / 1.772].repeat(image.h * image.w);
        assert_eq!(measured(straight.as_ref(), image, &x), measured(cubic.as_ref(), image, &x));
        let [by_straight, by_cubic] = [&straight, &cubic].map(|operator| vjp(operator.as_ref(), image, &x, &g));
        for (straight, cubic) in by_straight.iter().zip(&by_cubic) {
            assert!((cubic - 3.0 * over * over * straight).abs() < 1e-4, "{level}: {cubic}, {straight}");
        }
        assert!(by_straight.iter().sum::<f32>() > 0.5 * image.numel() as f32);
    }
}
