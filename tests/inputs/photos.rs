//! Photos as cameras and editors write them: orientation, colour profiles, grey, damage.

use crate::table::{Folder, check, dmap, json, picture, row, text};
use dmap::image::{Photo, Picture};
use image::{DynamicImage, ExtendedColorType, GrayImage, ImageEncoder, RgbImage};
use moxcms::ColorProfile;

/// EXIF data that say nothing but the orientation.
fn exif(orientation: u8) -> Vec<u8> {
    let mut bytes = b"MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    bytes.extend([orientation, 0, 0, 0, 0, 0, 0]);
    bytes
}

/// What a camera stores of a scene that it saw with this orientation: the inverse of what a viewer
/// does.
fn stored(scene: &RgbImage, orientation: u8) -> RgbImage {
    use image::imageops::{flip_horizontal, flip_vertical, rotate90, rotate180, rotate270};
    match orientation {
        1 => scene.clone(),
        2 => flip_horizontal(scene),
        3 => rotate180(scene),
        4 => flip_vertical(scene),
        5 => flip_horizontal(&rotate90(scene)),
        6 => rotate270(scene),
        7 => flip_horizontal(&rotate270(scene)),
        8 => rotate90(scene),
        _ => unreachable!(),
    }
}

fn encoded(picture: &RgbImage, kind: &str, exif: Vec<u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (w, h) = picture.dimensions();
    let rgb = ExtendedColorType::Rgb8;
    match kind {
        "png" => {
            let mut e = image::codecs::png::PngEncoder::new(&mut bytes);
            e.set_exif_metadata(exif).unwrap();
            e.write_image(picture, w, h, rgb).unwrap();
        }
        "jpg" => {
            let mut e = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
            e.set_exif_metadata(exif).unwrap();
            e.write_image(picture, w, h, rgb).unwrap();
        }
        "webp" => {
            let mut e = image::codecs::webp::WebPEncoder::new_lossless(&mut bytes);
            e.set_exif_metadata(exif).unwrap();
            e.write_image(picture, w, h, rgb).unwrap();
        }
        _ => return tiff(picture, exif[19]),
    }
    bytes
}

/// An uncompressed TIFF with an orientation, byte by byte.
fn tiff(picture: &RgbImage, orientation: u8) -> Vec<u8> {
    let (w, h) = picture.dimensions();
    let mut bytes = b"II\x2a\0".to_vec();
    bytes.extend((8 + w * h * 3 + (w * h * 3) % 2).to_le_bytes());
    bytes.extend(picture.as_raw());
    bytes.resize(bytes.len() + bytes.len() % 2, 0);
    let tags: [(u16, u16, u32, u32); 10] = [
        (256, 4, 1, w),
        (257, 4, 1, h),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 8),
        (274, 3, 1, orientation.into()),
        (277, 3, 1, 3),
        (278, 4, 1, h),
        (279, 4, 1, w * h * 3),
    ];
    bytes.extend((tags.len() as u16).to_le_bytes());
    for (tag, kind, count, value) in tags {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes
}

#[test]
fn all_eight_orientations_are_applied_in_every_format() {
    let f = Folder::new();
    let scene = picture(24, 16).to_rgb8();
    for kind in ["png", "jpg", "webp", "tiff"] {
        for orientation in 1..=8 {
            let bytes = encoded(&stored(&scene, orientation), kind, exif(orientation));
            let path = f.path(&format!("{orientation}.{kind}"));
            std::fs::write(&path, bytes).unwrap();
            let Photo { picture, note, .. } = Photo::read(&path).unwrap();
            let seen = picture.to_rgb8();
            assert_eq!(seen.dimensions(), (24, 16), "{kind} {orientation}");
            let worst = seen.iter().zip(scene.iter()).map(|(a, b)| a.abs_diff(*b)).max();
            // JPEG halves the colour's resolution.
            assert!(worst <= Some(if kind == "jpg" { 60 } else { 0 }), "{kind} {orientation}: {worst:?}");
            assert_eq!(note.is_some_and(|n| n.contains("EXIF orientation")), orientation != 1, "{kind} {orientation}");
        }
    }
    // Behind the pixels, where some editors put it.
    let png = encoded(&stored(&scene, 6), "png", Vec::new());
    let end = png.len() - 12;
    let mut chunk = b"eXIf".to_vec();
    chunk.extend(exif(6));
    let crc = !chunk.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    });
    let length = (chunk.len() as u32 - 4).to_be_bytes();
    let late = [&png[..end], &length, &chunk, &crc.to_be_bytes(), &png[end..]].concat();
    std::fs::write(f.path("late.png"), late).unwrap();
    assert_eq!(Photo::read(&f.path("late.png")).unwrap().picture.to_rgb8(), scene);
}

/// A PNG of one colour with an ICC profile.
fn with_profile(profile: &[u8], color: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut e = image::codecs::png::PngEncoder::new(&mut bytes);
    e.set_icc_profile(profile.to_vec()).unwrap();
    e.write_image(&RgbImage::from_pixel(16, 16, image::Rgb(color)), 16, 16, ExtendedColorType::Rgb8).unwrap();
    bytes
}

#[test]
fn a_colour_profile_is_converted_to_srgb() {
    let f = Folder::new();
    let read = |name: &str, bytes: Vec<u8>| {
        std::fs::write(f.path(name), bytes).unwrap();
        let photo = Photo::read(&f.path(name)).unwrap();
        (photo.picture.to_rgb8().get_pixel(3, 3).0, photo.note.unwrap_or_default())
    };
    let adobe = ColorProfile::new_adobe_rgb().encode().unwrap();
    let srgb = ColorProfile::new_srgb().encode().unwrap();
    // Adobe RGB (1998) to sRGB: linear by gamma 2.19921875, by the two matrices of D65, and by the
    // curve of sRGB.
    let (color, note) = read("adobe.png", with_profile(&adobe, [100, 150, 60]));
    let linear = [100.0, 150.0, 60.0].map(|v: f64| (v / 255.0).powf(2.199_218_75));
    let matrix = [[1.398_3, -0.398_3, 0.0], [0.0, 1.0, 0.0], [0.0, -0.042_9, 1.042_9]];
    let curve = |v: f64| if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
    for (found, row) in color.iter().zip(matrix) {
        let expected = 255.0 * curve(row.iter().zip(linear).map(|(a, b)| a * b).sum::<f64>().clamp(0.0, 1.0));
        assert!((f64::from(*found) - expected).abs() < 2.0, "{color:?}: {expected}");
    }
    assert!(note.contains("converted to sRGB"), "{note}");
    let (color, note) = read("srgb.png", with_profile(&srgb, [100, 150, 60]));
    assert!(color == [100, 150, 60] && note.is_empty(), "{color:?} {note}");
    let (color, note) = read("damaged.png", with_profile(&adobe[..60], [100, 150, 60]));
    assert!(color == [100, 150, 60] && note.contains("damaged"), "{color:?} {note}");
    // A grey picture with a grey profile stays grey.
    let mut bytes = Vec::new();
    let mut e = image::codecs::png::PngEncoder::new(&mut bytes);
    e.set_icc_profile(ColorProfile::new_gray_with_gamma(1.0).encode().unwrap()).unwrap();
    e.write_image(&GrayImage::from_pixel(16, 16, image::Luma([55])), 16, 16, ExtendedColorType::L8).unwrap();
    std::fs::write(f.path("grey.png"), bytes).unwrap();
    let photo = Photo::read(&f.path("grey.png")).unwrap();
    let [r, g, b] = photo.picture.to_rgb8().get_pixel(0, 0).0;
    // 55 / 255 of linear light is 0.50 on the curve of sRGB.
    assert!(photo.grey && r == g && g == b && r.abs_diff(128) <= 1, "{r} {g} {b}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_colour_profile_that_inflates_takes_no_memory() {
    let f = Folder::new();
    std::fs::write(f.path("bomb.png"), with_profile(&vec![0; 1 << 29], [100, 150, 60])).unwrap();
    assert!(std::fs::metadata(f.path("bomb.png")).unwrap().len() < 8 << 20);
    // The same run over a picture without a profile fits into this.
    let script = "ulimit -d 262144 && exec \"$@\"";
    let out = std::process::Command::new("sh")
        .args(["-c", script, "sh", env!("CARGO_BIN_EXE_dmap"), "restore", &f.string("bomb.png"), "--task", "denoise"])
        .args(["--steps", "2", "--out", &f.string("out")])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out));
}

#[test]
fn exif_data_that_claim_a_gibibyte_are_not_read() {
    let f = Folder::new();
    let scene = picture(8, 8).to_rgb8();
    let mut bytes = encoded(&scene, "webp", exif(3));
    let at = bytes.windows(4).rposition(|w| w == b"EXIF").unwrap();
    bytes[at + 4..at + 8].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    std::fs::write(f.path("claim.webp"), bytes).unwrap();
    let photo = Photo::read(&f.path("claim.webp")).unwrap();
    assert_eq!((photo.picture.to_rgb8(), photo.note), (scene, None));
}

#[test]
fn grey_in_gives_grey_out() {
    let f = Folder::new();
    let rgb = picture(24, 24);
    rgb.write_grey_png(&f.path("grey.png")).unwrap();
    let (photo, out) = (f.string("grey.png"), f.string("out"));
    for (task, noise) in [("sr2", "0.05"), ("inpaint-random", "poisson:1")] {
        let a = ["restore", &photo, "--task", task, "--noise", noise, "--steps", "2", "--overwrite", "--out", &out];
        let o = dmap(&a);
        assert!(o.status.success(), "{}", text(&o));
        for name in ["restored.png", "measurement.png"] {
            let written = image::open(f.path("out/grey").join(name)).unwrap();
            assert!(matches!(written, DynamicImage::ImageLuma8(_)), "{task} {name}: {:?}", written.color());
        }
        // The figures are those of the picture that was written.
        let restored = Photo::read(&f.path("out/grey/restored.png")).unwrap();
        let truth = Photo::read(&f.path("grey.png")).unwrap().picture;
        let psnr = dmap::metrics::psnr(&restored.picture, &truth);
        let said = json(&f.path("out/grey/result.json"))["psnr"].as_f64().unwrap();
        assert!(restored.grey && (psnr - said).abs() < 0.1, "{task}: {psnr} and {said}");
    }
    // A mosaic looks at each channel in its own way: what it measures of a grey photo has colours, and
    // as much noise as that of a colour photo.
    let mosaic = f.string("mosaic");
    let o = dmap(&["restore", &photo, "--task", "demosaic", "--noise", "0.025", "--out", &mosaic]);
    assert!(o.status.success(), "{}", text(&o));
    let measured = image::open(f.path("mosaic/grey/measurement.png")).unwrap();
    assert!(matches!(measured, DynamicImage::ImageRgb8(_)), "{:?}", measured.color());
    let result = json(&f.path("mosaic/grey/result.json"));
    let (ratio, drawn) = (&result["residual_over_noise"], &result["added_noise_norm"]);
    assert!((0.5..1.5).contains(&ratio.as_f64().unwrap()), "{result}");
    // A third of the values, with a standard deviation of 0.05 in [-1, 1] units.
    assert!((drawn.as_f64().unwrap() / (0.05 * 24.0) - 1.0).abs() < 0.2, "{result}");
    let measured = f.string("out/grey/measurement.safetensors");
    let again = ["restore", &measured, "--measurement", "--task", "inpaint-random", "--steps", "2", "--out", &out];
    assert!(dmap(&again).status.success());
    let written = image::open(f.path("out/measurement/restored.png")).unwrap();
    assert!(matches!(written, DynamicImage::ImageLuma8(_)), "a measurement file remembers that it is grey");
}

#[test]
fn what_is_too_large_or_cut_is_refused() {
    let f = Folder::new();
    let (photo, out) = (f.picture("p.png", 64, 48), f.string("out"));
    let jpeg = |name: &str, part: f64| {
        // A thumbnail with an end of its own stands before the scan.
        let exif = [&exif(1)[..], &encoded(&picture(8, 8).to_rgb8(), "jpg", exif(1))].concat();
        let bytes = encoded(&picture(64, 48).to_rgb8(), "jpg", exif);
        std::fs::write(f.path(name), &bytes[..(bytes.len() as f64 * part) as usize]).unwrap();
        f.string(name)
    };
    let (whole, half, most) = (jpeg("whole.jpg", 1.0), jpeg("half.jpg", 0.6), jpeg("most.jpg", 0.98));
    let run = |input: &str, more: &[&str]| -> Vec<String> {
        let fixed = ["restore", input, "--task", "denoise", "--steps", "2", "--out", &out];
        fixed.iter().chain(more).map(|a| a.to_string()).collect()
    };
    check(&[
        row("3072 pixels of 3000", run(&photo, &["--max-pixels", "3000"]), 2, "64x48 are 0 megapixels, more than 0"),
        row("3072 pixels of 3072", run(&photo, &["--max-pixels", "3072"]), 0, "residual"),
        row("a whole JPEG", run(&whole, &[]), 0, "residual"),
        row("half a JPEG", run(&half, &[]), 2, "the end of this JPEG is missing"),
        row("nearly all of a JPEG", run(&most, &[]), 2, "the end of this JPEG is missing"),
        row("half a JPEG that is wanted", run(&half, &["--allow-truncated"]), 0, "residual"),
    ]);
    // The crop is the centre, also where the image is smaller than that.
    let options = dmap::image::ReadOptions::default().crop((20, 100));
    let part = Photo::read_with(&f.path("p.png"), &options).unwrap().picture;
    assert_eq!(part, Photo::read(&f.path("p.png")).unwrap().picture.centre_crop(20, 100));
}

#[test]
fn what_is_no_picture_is_refused() {
    let f = Folder::new();
    let out = f.string("out");
    std::fs::write(f.path("page.png"), "<!DOCTYPE html><html></html>").unwrap();
    std::fs::create_dir(f.path("folder.png")).unwrap();
    let thin = Picture { width: 1, height: 300, values: vec![0.1; 900] };
    thin.write_png(&f.path("thin.png")).unwrap();
    let (page, folder, thin, none) =
        (f.string("page.png"), f.string("folder.png"), f.string("thin.png"), f.string("x.png"));
    let run = |input| ["restore", input, "--task", "denoise", "--steps", "2", "--out", &out];
    check(&[
        row("a web page", run(&page), 2, "not a readable picture"),
        row("a folder without pictures", run(&folder), 2, "no pictures in this folder"),
        row("nothing", run(&none), 2, "x.png: No such file"),
        row("a thin picture", run(&thin), 0, "residual"),
    ]);
    let page = image::open(f.path("out/thin/comparison.png")).unwrap();
    assert!(page.height() < 4000, "{}", page.height());
}
