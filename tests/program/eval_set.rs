//! `dmap eval-set`: the table, JSON and CSV of a folder of photos.

use dmap::image::{Photo, Picture};
use dmap::metrics::{Comparison, Values};
use std::process::Command;

#[test]
fn a_folder_is_restored_and_its_figures_are_those_of_the_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::create_dir(path("photos")).unwrap();
    for k in 0..3 {
        let value =
            |i: usize| ((i / 3 % 64) as f32 * 0.2 + k as f32).sin() * 0.4 + ((i / 192) as f32 * 0.1).cos() * 0.3;
        let picture = Picture { width: 64, height: 48, values: (0..64 * 48 * 3).map(value).collect() };
        picture.write_png(&path("photos").join(format!("\"{k}\".png"))).unwrap();
    }
    let [photos, out] = ["photos", "out"].map(|name| path(name).display().to_string());
    let alex = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/metrics/alex.safetensors");
    let o = Command::new(env!("CARGO_BIN_EXE_dmap"))
        .args(["eval-set", &photos, "--preset", "deepinv-deblur", "--steps", "1", "--limit", "2", "--lpips", alex])
        .args(["--device", "cpu", "--out", &out])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&o.stdout);
    assert!(o.status.success() && said.contains("2 of 2 photos"), "{said} {}", String::from_utf8_lossy(&o.stderr));
    let complaints = String::from_utf8_lossy(&o.stderr);
    assert!(complaints.contains("\"1\".png has 64x48 pixels and is enlarged to 256x256"), "{complaints}");
    let json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path("out/results.json")).unwrap()).unwrap();
    assert_eq!((json["benchmark"].as_str(), json["border"].as_u64()), (Some("div2k_gaussian_deblurring"), Some(16)));
    assert_eq!(json["lpips_network"], "alex");
    let rows = json["photos"].as_array().unwrap();
    let mean = rows.iter().map(|r| r["psnr"].as_f64().unwrap()).sum::<f64>() / 2.0;
    assert!(rows.len() == 2 && (json["psnr"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
    assert!(json["psnr"]["standard_error"].as_f64().unwrap() > 0.0 && json["lpips"]["mean"].as_f64().unwrap() > 0.0);
    // The written picture, which is rounded to 8 bits, has nearly the same PSNR.
    let truth = Photo::read(&path("photos/\"0\".png")).unwrap().picture.resize_triangle(256, 256);
    let restored = Photo::read(&path("out/\"0\".png")).unwrap().picture;
    let psnr = Comparison::COLOUR.values(Values::Float).border(16).psnr(&restored, &truth).unwrap();
    assert!((psnr - rows[0]["psnr"].as_f64().unwrap()).abs() < 0.05, "{psnr}, {}", rows[0]);
    let table = std::fs::read_to_string(path("out/results.csv")).unwrap();
    assert_eq!(table.lines().count(), 3);
    assert!(table.lines().nth(1).unwrap().starts_with("\"\"\"0\"\"\","), "{table}");

    // Results stay unless they are to be replaced; a bad photo does not stop the others.
    let other = |flags: &[&str]| {
        let base = ["eval-set", &photos, "--preset", "deepinv-sr2", "--steps", "1", "--device", "cpu", "--out", &out];
        let o = Command::new(env!("CARGO_BIN_EXE_dmap")).args([&base[..], flags].concat()).output().unwrap();
        (o.status.code(), String::from_utf8_lossy(&[o.stdout, o.stderr].concat()).into_owned())
    };
    let (code, said) = other(&[]);
    assert!(code == Some(2) && said.contains("holds results; give another --out, or --overwrite"), "{said}");
    assert_eq!(std::fs::read_to_string(path("out/results.csv")).unwrap(), table);
    let (code, said) = other(&["--overwrite", "--label", "1"]);
    assert!(code == Some(2) && said.contains("the model is not class-conditional"), "{said}");
    // What could not begin leaves the results of an earlier run, or no folder.
    let (code, said) = other(&["--overwrite", "--memory", "1MiB"]);
    assert!(code == Some(2) && !said.contains("0 of"), "{said}");
    assert_eq!(std::fs::read_to_string(path("out/results.csv")).unwrap(), table);
    let new = path("new/folder").display().to_string();
    let o = Command::new(env!("CARGO_BIN_EXE_dmap"))
        .args(["eval-set", &photos, "--preset", "deepinv-sr2", "--steps", "1", "--memory", "1MiB", "--out", &new])
        .output()
        .unwrap();
    assert!(!o.status.success() && !path("new").exists());
    std::fs::write(path("photos/a.png"), "no picture").unwrap();
    let (code, said) = other(&["--overwrite"]);
    assert!(code == Some(2) && said.contains("a.png") && said.contains("3 of 4 photos"), "{said}");
}
