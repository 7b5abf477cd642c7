//! PSNR and SSIM against scikit-image, LPIPS against PyTorch (`tools/reference_metrics.py`), and
//! the weight files that LPIPS refuses.

use dmap::image::Picture;
use dmap::metrics::{Channels, Comparison, Lpips, LpipsRange, Values, psnr, ssim};
use dmap::weights::{Checkpoint, write_safetensors};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/metrics").join(name)
}

fn expected() -> Value {
    serde_json::from_str(&std::fs::read_to_string(data("expected.json")).unwrap()).unwrap()
}

/// The two pictures of a pair.
fn pair(name: &str) -> [Picture; 2] {
    let file = Checkpoint::open(&data("pictures.safetensors")).unwrap();
    ["a", "b"].map(|side| {
        let name = format!("{name}.{side}");
        let shape = &file.tensors[&name].shape;
        Picture { height: shape[0], width: shape[1], values: file.values(&name).unwrap() }
    })
}

#[test]
fn psnr_and_ssim_equal_scikit_image() {
    for (name, figures) in expected()["pairs"].as_object().unwrap() {
        let [a, b] = pair(name);
        let border = figures["border"].as_u64().unwrap() as usize;
        let of = |channels, values| Comparison { channels, values, border };
        for (row, comparison) in [
            ("colour_8", of(Channels::Colour, Values::EightBit)),
            ("colour_float", of(Channels::Colour, Values::Float)),
            ("luma_8", of(Channels::Luma, Values::EightBit)),
        ] {
            let near = |what: &str, found: f64| {
                let truth = figures[format!("{what}_{row}")].as_f64().unwrap();
                assert!((found - truth).abs() < 1e-4, "{name} {what} {row}: {found}, scikit-image has {truth}");
            };
            near("psnr", comparison.psnr(&a, &b).unwrap());
            near("ssim", comparison.ssim(&a, &b).unwrap());
        }
        if border == 0 {
            // What results report.
            assert_eq!(psnr(&a, &b), of(Channels::Colour, Values::EightBit).psnr(&a, &b).unwrap());
            assert_eq!(ssim(&a, &b), of(Channels::Luma, Values::EightBit).ssim(&a, &b).unwrap());
        }
    }
}

#[test]
fn pictures_that_cannot_be_compared_are_refused() {
    let [a, _] = pair("odd");
    let [c, _] = pair("border");
    let said = |result: dmap::Result<f64>| result.unwrap_err().to_string();
    assert!(said(Comparison::COLOUR.psnr(&a, &c)).contains("17x23 and 41x34"));
    assert!(said(Comparison::LUMA.border(9).ssim(&a, &a)).contains("border of 9 pixels leaves nothing"));
    let lpips = Lpips::open(&[data("alex.safetensors")]).unwrap();
    assert!(said(lpips.distance(&a, &a, LpipsRange::EightBit, 0)).contains("31x31 pixels or more, found 17x23"));
    assert!(said(lpips.distance(&a, &c, LpipsRange::EightBit, 0)).contains("17x23 with 41x34"));
}

#[test]
fn lpips_equals_pytorch() {
    let [a, b] = pair("picture");
    let expected = &expected()["lpips"];
    for (name, files) in [("alex", vec!["alex.safetensors"]), ("vgg", vec!["vgg_lin.pth", "vgg16.pth"])] {
        let files: Vec<PathBuf> = files.into_iter().map(data).collect();
        let lpips = Lpips::open(&files).unwrap();
        assert_eq!(lpips.name(), name);
        for (row, range, border) in [
            ("eight_bit", LpipsRange::EightBit, 0),
            ("min_max", LpipsRange::MinMax, 0),
            ("border_2", LpipsRange::EightBit, 2),
        ] {
            let (found, truth) =
                (lpips.distance(&a, &b, range, border).unwrap(), expected[name][row].as_f64().unwrap());
            assert!((found - truth).abs() < 1e-5, "{name} {row}: {found}, PyTorch has {truth}");
        }
        assert_eq!(lpips.distance(&a, &a, LpipsRange::EightBit, 0).unwrap(), 0.0);
    }
}

#[test]
fn files_of_other_networks_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, tensors: &[(&str, &[usize])]| -> PathBuf {
        let path = folder.path().join(name);
        let values = vec![0.1; 1 << 12];
        let tensors: Vec<(&str, Vec<usize>, &[f32])> =
            tensors.iter().map(|(n, s)| (*n, s.to_vec(), &values[..s.iter().product()])).collect();
        write_safetensors(&path, &tensors).unwrap();
        path
    };
    let conv = |index: usize| (format!("features.{index}.weight"), [2, 2, 3, 3]);
    let vgg19: Vec<_> = [0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34].map(conv).to_vec();
    let vgg19: Vec<(&str, &[usize])> = vgg19.iter().map(|(n, s)| (n.as_str(), &s[..])).collect();
    let squeeze = file("squeeze.safetensors", &[("features.3.squeeze.weight", &[2, 3, 1, 1])]);
    let resnet =
        file("resnet.safetensors", &[("conv1.weight", &[2, 3, 7, 7]), ("layer1.0.conv1.weight", &[2, 2, 3, 3])]);
    let [alex, vgg, lin] = ["alex.safetensors", "vgg16.pth", "vgg_lin.pth"].map(data);
    for (files, words) in [
        (vec![file("vgg19.safetensors", &vgg19)], "found VGG19"),
        (vec![squeeze], "found SqueezeNet"),
        (vec![resnet], "found a ResNet"),
        (vec![file("other.safetensors", &[("w", &[2])])], "no features.N.weight"),
        (vec![lin.clone()], "channels alone; give the file of the features too"),
        (vec![vgg.clone()], "lin0.model.1.weight is missing"),
        (vec![vgg, alex], "give the weights of the same network"),
        (vec![data("none.pth")], "none.pth"),
    ] {
        let said = match Lpips::open(&files) {
            Ok(_) => panic!("{files:?} opened"),
            Err(e) => e.to_string(),
        };
        assert!(said.contains(words), "{files:?}: {said}");
    }
}
